"""How a transcript looks: what is asked for, and the colours.

The rule of this file: colour says nothing that the text does not say.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

# Parameters of SGR (ECMA-48).
BOLD, DIM, GREEN, MAGENTA, CYAN = "1", "2", "32", "35", "36"
_LEAST_COLUMNS = 20


@dataclass(frozen=True, slots=True)
class Style:
    """How much is shown, and how."""

    full: bool = False
    """All of the content."""
    errors_only: bool = False
    coloured: bool = False
    columns: Callable[[], int] = lambda: 0
    """How wide the terminal is now: notes are broken between words. 0: it is none."""
    prefix: str = ""
    """Before every line, where several processes write to one terminal."""


def break_note(text: str, columns: int) -> list[str]:
    """The lines of a note that is to stand in so many columns.

    A no-break space, which no note has on the wire, becomes a space.
    """
    lines = [text]
    if len(text) > columns >= _LEAST_COLUMNS:
        lines = textwrap.wrap(
            text, columns, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
        )
    return [line.replace("\u00a0", " ") for line in lines]


def find_columns(descriptor: int) -> int:
    """How wide the terminal is; 0: it is none."""
    try:
        return os.get_terminal_size(descriptor).columns
    except OSError:
        return 0


def count(number: int, thing: str) -> str:
    """`1 byte`, `1,024 bytes`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def paint(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if text and colour else text
