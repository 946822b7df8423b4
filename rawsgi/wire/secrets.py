"""What must not be shown or kept: credentials in field lines, masked byte for byte.

The rule of this file: a mask has the length of what it hides, so that every offset and every
length in a transcript or a recording stays true. A doubt is masked.
"""

from __future__ import annotations

import re

MASK = b"*"

# A field line of these names, also where it is written in ways that the server refuses.
_SECRET_LINE = re.compile(
    rb"(?i)[\x00-\x20]*(?:((?:proxy[-_])?authorization)|(set[-_])?cookie2?)(?![-\w])[\t ]*:?[\t ]*"
)
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


def is_secret(line: bytes) -> bool:
    """Is this a field line whose value has to be masked?"""
    return _SECRET_LINE.match(line) is not None


def mask_line(line: bytes) -> bytes:
    """Return a field line with its secret, if any, masked; the line end stays. Same length.

    Kept are the scheme of credentials, the names of cookies, and the attributes of Set-Cookie.
    """
    match = _SECRET_LINE.match(line)
    if match is None:
        return line
    text = line.rstrip(b"\r\n")
    start, end, value = text[: match.end()], line[len(text) :], text[match.end() :]
    if match[1]:
        scheme = _SCHEME.match(value)
        kept = scheme[0] if scheme else b""
        value = kept + mask(value[len(kept) :])
    elif match[2]:
        first, *attributes = value.split(b";")
        value = b";".join([_mask_cookie(first), *map(_mask_attribute, attributes)])
    else:
        value = b";".join(map(_mask_cookie, value.split(b";")))
    return start + value + end


def mask(text: bytes) -> bytes:
    """Return so many asterisks; white space at the beginning and line ends stay."""
    inner = text.lstrip(b" \t").rstrip(b"\r\n")
    start = len(text) - len(text.lstrip(b" \t"))
    return text[:start] + MASK * len(inner) + text[start + len(inner) :]


def _mask_cookie(pair: bytes) -> bytes:
    match = _COOKIE_NAME.match(pair)
    kept = match[0] if match else b""
    return kept + mask(pair[len(kept) :])


def _mask_attribute(text: bytes) -> bytes:
    return text if _COOKIE_ATTRIBUTE.fullmatch(text) else mask(text)
