"""Bytes and texts that any terminal can show and none will obey.

The rule of this file: printable ASCII stays as it is, all else becomes an escape; the same bytes
always look the same, and different ones differ.
"""

from __future__ import annotations

import re

_ESCAPES = {code: f"\\x{code:02x}" for code in range(256) if not 0x20 <= code < 0x7F}
_ESCAPES |= {0x0D: "\\r", 0x0A: "\\n", 0x09: "\\t", 0x5C: "\\\\"}
_UNPRINTABLE = re.compile(rb"[^\x20-\x5b\x5d-\x7e]")


def show_bytes(data: bytes) -> str:
    """Bytes as printable ASCII: CR, LF, tab and backslash as in Python, others as \\xhh."""
    text = data.decode("latin-1")
    return text.translate(_ESCAPES) if _UNPRINTABLE.search(data) else text


def show_text(text: str) -> str:
    """A sentence of the server's own, which may quote what others gave: quotes stay."""
    if text.isascii() and text.isprintable():
        return text
    return show_bytes(text.encode("ascii", "backslashreplace")).replace("\\\\", "\\")
