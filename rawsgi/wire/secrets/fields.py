"""Secrets in the lines of a head: credentials, cookies, keys, and parameters of a query.

The rule of this file: a line is read as leniently as anybody might, since those that the server
refuses are shown as well.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from rawsgi.wire.secrets.content import JsonMask
from rawsgi.wire.secrets.names import MASK, hide, is_secret_name, may_hold_secret

# The name of a field, also where it is written in ways that the server refuses.
_NAME = re.compile(rb"[\x00-\x20]*([^\x00-\x20:]{1,128})[\t ]*:?[\t ]*")
# RFC 9110 section 11.1: the scheme is no secret, and worth seeing. Only those that are registered
# or common: a token that somebody sent without a scheme must not pass for one.
_SCHEME = re.compile(
    rb"(?i)(?:basic|bearer|digest|dpop|gnap|hoba|mutual|negotiate|ntlm|oauth|privatetoken"
    rb"|scram-sha-1|scram-sha-256|vapid|apikey|token|aws4-hmac-sha256)[ \t]+"
)
_COOKIE_NAME = re.compile(rb"[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}=(?![=\"]*[ \t]*\Z)")
# RFC 6265 section 4.1.1, and what browsers added.
_COOKIE_ATTRIBUTE = re.compile(
    rb"(?i)[ \t]*(?:expires|max-age|domain|path|samesite|priority|version)=[^;]*"
    rb"|[ \t]*(?:secure|httponly|partitioned)[ \t]*"
)
# NAME=VALUE in a target, in the URL of a Referer or Location, in an extension of a chunk.
_PARAMETER = re.compile(
    rb"(?<![\w.%\[\]+$-])([\w.%\[\]+$-]{1,256})=(\"(?:[^\"\\]|\\.)*\"?|[^&;,#\s\"'<>]*)"
)
_USER = re.compile(rb"://[^/?#\s@:]*:([^/?#\s@]+)@")


def is_secret(line: bytes) -> bool:
    """Is this a field line whose value as a whole has to be masked?"""
    match = _NAME.match(line)
    return match is not None and _find_kind(match[1]) != ""


def mask_line(line: bytes) -> bytes:
    """Return a field line with its secrets, if any, masked; the line end stays. Same length.

    Kept are the scheme of credentials, the names of cookies, and the attributes of Set-Cookie.
    """
    match = _NAME.match(line)
    kind = "" if match is None else _find_kind(match[1])
    if match is None or not kind:
        return mask_parameters(line)
    text = line.rstrip(b"\r\n")
    start, end, value = text[: match.end()], line[len(text) :], text[match.end() :]
    if kind == "cookie":
        value = b";".join(map(_hide_cookie, value.split(b";")))
    elif kind == "set-cookie":
        first, *attributes = value.split(b";")
        value = b";".join([_hide_cookie(first), *map(_hide_attribute, attributes)])
    else:
        scheme = _SCHEME.match(value)
        kept = scheme[0] if scheme else b""
        value = kept + hide(value[len(kept) :])
    return start + value + end


def mask_start_line(line: bytes) -> bytes:
    """Return a request-line, or whatever stands in its place, with its secrets masked.

    What was typed past the end of the content before stands there, too: a form, JSON, a field.
    """
    match = _NAME.match(line)
    if match is not None and match[0].rstrip(b"\t ").endswith(b":") and is_secret(line):
        return mask_line(line)
    line = mask_parameters(line)
    return JsonMask().feed(line) if b'":' in line or b'" :' in line else line


def mask_parameters(text: bytes) -> bytes:
    """Return `text` with the values of its secret parameters masked, and the user's password in
    a URL."""
    if b"://" in text:
        text = _USER.sub(_hide_group, text)
    if b"=" not in text or not may_hold_secret(text):
        return text
    return _PARAMETER.sub(_hide_value, text)


@lru_cache(1024)
def _find_kind(name: bytes) -> str:
    name = name.lower().replace(b"_", b"-")
    if name.removesuffix(b"2") in (b"cookie", b"set-cookie"):
        return name.removesuffix(b"2").decode()
    return "credentials" if is_secret_name(name) else ""


def _hide_value(match: re.Match[bytes]) -> bytes:
    if is_secret_name(match[1]):
        quote = b'"' if match[2].startswith(b'"') else b""
        inner = match[2].removeprefix(quote)
        end = quote if quote and inner.endswith(quote) else b""
        return match[1] + b"=" + quote + MASK * (len(inner) - len(end)) + end
    # A URL within a URL, such as ?next=%2Flogin%3Ftoken%3Da
    inner = unquote_to_bytes(match[2]) if b"%3" in match[2] else b""
    if inner and mask_parameters(inner) != inner:
        return match[1] + b"=" + MASK * len(match[2])
    return match[0]


def _hide_group(match: re.Match[bytes]) -> bytes:
    start, end = match.start(1) - match.start(), match.end(1) - match.start()
    return match[0][:start] + MASK * (end - start) + match[0][end:]


def _hide_cookie(pair: bytes) -> bytes:
    match = _COOKIE_NAME.match(pair)
    kept = match[0] if match else b""
    return kept + hide(pair[len(kept) :])


def _hide_attribute(text: bytes) -> bytes:
    return text if _COOKIE_ATTRIBUTE.fullmatch(text) else hide(text)
