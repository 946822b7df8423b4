"""Which names carry secrets: of fields, of parameters in a query or a form, of members in JSON.

The rule of this file: one list for all of them. Long words count wherever they stand in a name
(`newPassword`, `csrfmiddlewaretoken`), short ones only by themselves (`pin`, not `shipping`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

MASK = b"*"
NAME_LIMIT_BYTES = 256

_WORDS = (
    b"password", b"passwd", b"passwort", b"passphrase", b"passcode", b"secret", b"token",
    b"credential", b"authorization", b"bearer", b"apikey", b"accesskey", b"privatekey",
    b"sessionid", b"sessid", b"signature",
)  # fmt: skip
_SHORT_WORDS = (
    b"pass", b"pwd", b"pw", b"auth", b"jwt", b"session", b"sid", b"csrf", b"xsrf", b"otp",
    b"totp", b"pin", b"cvv", b"cvc", b"ssn", b"sig", b"api-key", b"access-key", b"private-key",
    b"session-id", b"card-number",
)  # fmt: skip
_PART_END = re.compile(rb"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")
_SECRET = re.compile(
    rb"|".join(_WORDS) + rb"|(?:\A|-)(?:" + rb"|".join(_SHORT_WORDS) + rb")[0-9]*s?(?:-|\Z)"
)
_HINT = re.compile(  # "%": a name may be escaped
    rb"|".join(sorted({word[:3].rstrip(b"-") for word in _WORDS + _SHORT_WORDS} | {b"%"}))
)
# Whether scripts may send credentials, not what they are.
_HARMLESS = b"access-control-"


@lru_cache(1024)
def is_secret_name(name: bytes) -> bool:
    """Does what goes by this name have to be masked?"""
    if b"%" in name:
        name = unquote_to_bytes(name)
    words = _PART_END.sub(b"-", name).lower()
    return _SECRET.search(words) is not None and not words.startswith(_HARMLESS)


def may_hold_secret(text: bytes) -> bool:
    """False: no name in `text` is secret. True: look closer."""
    return _HINT.search(text.lower()) is not None


def hide(text: bytes) -> bytes:
    """Return so many asterisks; line ends stay, and white space at the beginning."""
    inner = text.lstrip(b" \t").rstrip(b"\r\n")
    start = len(text) - len(text.lstrip(b" \t"))
    return text[:start] + MASK * len(inner) + text[start + len(inner) :]
