"""The grammar of HTTP/1.1 messages: each pattern carries the name of its ABNF rule.

The rule of this file: patterns and constants only, no decision. Nothing that came from the wire
meets `int()`, `strip()` or `split()` before one of these patterns accepted it. What is repeated
within a repetition is bounded or possessive, so matching is linear in its input.
"""

from __future__ import annotations

import re

# RFC 9110 section 5.6.2:  token = 1*tchar
TCHAR = r"!#$%&'*+\-.^_`|~0-9A-Za-z"
token = re.compile(rf"[{TCHAR}]+")
token_bytes = re.compile(rf"[{TCHAR}]+".encode())

# RFC 9112 section 3:  request-line = method SP request-target SP HTTP-version
# The target's own rules are checked afterwards; here: no space, no control, no "#", and bytes
# above 0x7F pass, because they are what raw UTF-8 paths look like (PEP 3333 carries them).
request_line = re.compile(
    rf"([{TCHAR}]+) ([\x21\x22\x24-\x7e\x80-\xff]+) (HTTP/([0-9])\.([0-9]))".encode("latin-1")
)

# RFC 9112 section 2.3:  HTTP-version, on its own to say what is wrong around it.
http_version = re.compile(rb"HTTP/[0-9]\.[0-9]")

# RFC 9110 section 5.5:  field-value = *field-content, here with its surrounding OWS, which the
# caller strips.  field-vchar = VCHAR / obs-text
FIELD_VALUE = "[\t\x20-\x7e\x80-\xff]*"
# RFC 9112 section 5:  field-line = field-name ":" OWS field-value OWS
field_line = re.compile(rf"([{TCHAR}]+):({FIELD_VALUE})".encode("latin-1"))

# RFC 9110 section 8.6:  Content-Length = 1*DIGIT
content_length = re.compile(r"[0-9]+")

# What no field value and no request-target may hold, to say where it stands.
control = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
not_in_target = re.compile(rb"[\x00-\x20#\x7f]")

# RFC 3986 section 3.2.2:  IPv6address, its nine forms in the order of the RFC.
_H16 = "[0-9A-Fa-f]{1,4}"
_DEC_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LS32 = rf"(?:{_H16}:{_H16}|{_DEC_OCTET}(?:\.{_DEC_OCTET}){{3}})"
_IPV6_ADDRESS = "|".join([
    rf"(?:{_H16}:){{6}}{_LS32}",
    rf"::(?:{_H16}:){{5}}{_LS32}",
    *(
        rf"(?:(?:{_H16}:){{0,{before}}}{_H16})?::(?:{_H16}:){{{4 - before}}}{_LS32}"
        for before in range(5)
    ),
    rf"(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}",
    rf"(?:(?:{_H16}:){{0,6}}{_H16})?::",
])  # fmt: skip
# RFC 9110 section 7.2:  Host = uri-host [ ":" port ], of RFC 3986 section 3.2. An empty value
# stands for a target without an authority. No userinfo, and no port without a host.
_IP_FUTURE = r"v[0-9A-Fa-f]+\.[0-9A-Za-z\-._~!$&'()*+,;=:]+"
_REG_NAME = r"(?:[0-9A-Za-z\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+"
host = re.compile(rf"(?:(\[(?:{_IPV6_ADDRESS}|{_IP_FUTURE})\]|{_REG_NAME})(?::([0-9]{{0,5}}))?)?")

# RFC 9112 section 3.2.2:  absolute-form, of the two schemes that an origin server serves.
absolute_form = re.compile(r"(?i:https?)://([^/?]*)(.*)", re.DOTALL)

# RFC 9112 section 7.1:  chunk-size = 1*HEXDIG. Its value has a limit, and so has the line.
# RFC 9112 section 7.1.1:  chunk-ext = *( BWS ";" BWS chunk-ext-name
#                                        [ BWS "=" BWS chunk-ext-val ] )
_QUOTED_STRING = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
_CHUNK_EXT = (
    rf"(?:[ \t]*+;[ \t]*+[{TCHAR}]++(?:[ \t]*+=[ \t]*+(?:[{TCHAR}]++|{_QUOTED_STRING}))?+)*+"
)
chunk_line = re.compile(rf"([0-9A-Fa-f]++)({_CHUNK_EXT})".encode("latin-1"))

# RFC 9112 section 4:  status-line, the part that the application gives as one string. The class
# of the code is checked by number. PEP 3333 wants a reason; a bare code is met in practice.
status = re.compile(r"([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")

# What a response field value may hold: no control but HTAB, nothing outside latin-1.
response_value = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
