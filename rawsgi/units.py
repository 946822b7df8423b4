"""Amounts as people write them: `5m`, `64KiB`, `true`, and back from the value to the text.

The rule of this file: a pattern accepts a text before anything converts it, and the ValueError
for what it refuses says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

KIND_WORDS = {
    "text": "a text",
    "switch": "true or false",
    "count": "a whole number",
    "duration": "a duration such as 30, 30s, 5m or 250ms",
    "size": "a size such as 65536, 64KiB or 1MB",
    "mode": "a file mode in octal such as 660",
}
"""The kinds of settings, and what each is in words."""

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_SIZE_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SWITCH_WORDS = {"1": True, "true": True, "yes": True, "on": True}
_SWITCH_WORDS |= {"0": False, "false": False, "no": False, "off": False}

_AMOUNT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?([A-Za-z]*)", re.ASCII)
_COUNT = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_MODE = re.compile(r"(?:0o?)?[0-7]{3}", re.ASCII)


def _parse_amount(text: str, units: Mapping[str, float], default_unit: str, kind: str) -> float:
    match = _AMOUNT.fullmatch(text)
    factor = units.get((match[2] or default_unit).lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"must be {KIND_WORDS[kind]}")
    # Whole numbers stay exact: a float would round a size past 2**53.
    return (float(match[1]) if "." in match[1] else int(match[1])) * factor


def parse_duration(text: str) -> float:
    """Seconds of `30`, `30s`, `5m` or `250ms`; raises ValueError."""
    return round(float(_parse_amount(text, _DURATION_UNITS, "s", "duration")), 6)


def parse_size(text: str) -> int:
    """Bytes of `65536`, `64KiB` (1024) or `1MB` (1000); raises ValueError."""
    return int(_parse_amount(text, _SIZE_UNITS, "b", "size"))


def parse_switch(text: str) -> bool:
    """`true` or `false`, and the other words for them; raises ValueError."""
    value = _SWITCH_WORDS.get(text.lower())
    if value is None:
        raise ValueError(f"must be {KIND_WORDS['switch']}")
    return value


def parse_count(text: str) -> int:
    """A whole number; raises ValueError. Stricter than `int`: no `1_0`, no foreign digits."""
    if not _COUNT.fullmatch(text):
        raise ValueError(f"must be {KIND_WORDS['count']}")
    return int(text)


def parse_mode(text: str) -> int:
    """The permissions that `660`, `0660` or `0o660` stand for; raises ValueError."""
    if not _MODE.fullmatch(text):
        raise ValueError(f"must be {KIND_WORDS['mode']}")
    return int(text[-3:], 8)


def format_mode(mode: int) -> str:
    """`660`, as chmod takes it."""
    return f"{mode:03o}"


def format_duration(seconds: float) -> str:
    """`75s`, `5m`, `250ms`: the shortest that is exact to the microsecond."""
    if seconds % 1:
        if seconds < 10 and round(seconds * 1000, 6) % 1 == 0:
            return f"{round(seconds * 1000)}ms"
        return f"{seconds:.6f}".rstrip("0") + "s"
    whole = int(seconds)
    units = (("d", 86400), ("h", 3600), ("m", 60))
    best = next((u for u in units if whole >= 2 * u[1] and whole % u[1] == 0), ("s", 1))
    return f"{whole // best[1]}{best[0]}"


def format_size(size: int) -> str:
    """`64KiB` where that is exact, else the bytes."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def format_switch(value: bool) -> str:
    """`true` or `false`."""
    return "true" if value else "false"


PARSERS: Mapping[str, Callable[[str], Any]] = {
    "switch": parse_switch,
    "count": parse_count,
    "duration": parse_duration,
    "size": parse_size,
    "mode": parse_mode,
}
FORMATTERS: Mapping[str, Callable[[Any], str]] = {
    "switch": format_switch,
    "duration": format_duration,
    "size": format_size,
    "mode": format_mode,
}
