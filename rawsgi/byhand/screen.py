"""Standard output: rows of a request, and notes.

The rule of this file: what a client sends cannot write to the terminal; only whole characters
that can be printed are shown as they are.
"""

from __future__ import annotations

import io
import os
import re
import sys
import textwrap
from typing import Final

from rawsgi.logs import wants_colour

_SHOWN_BYTES: Final = 2000
_LEAST_COLUMNS: Final = 20
_COLOURS: Final = {"*": "\x1b[36m", "!": "\x1b[1;31m", "": "\x1b[2m"}


class Screen:
    """Standard output: rows of a request, and notes. Colours at a terminal only."""

    def __init__(self) -> None:
        try:
            self._descriptor = sys.stdout.fileno()
        except (OSError, ValueError):  # it is no file
            self._descriptor = -1
        self._coloured = self._descriptor >= 0 and wants_colour(self._descriptor)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a client chooses what is shown

    def write(self, text: str) -> None:
        print(text, flush=True)

    def tell(self, kind: str, text: str) -> None:
        """Write a note; at a terminal it is broken between words."""
        columns = self._find_columns() - 2
        lines = [text]
        if len(text) > columns >= _LEAST_COLUMNS:
            lines = textwrap.wrap(text, columns, break_on_hyphens=False, break_long_words=False)
        first, *rest = lines
        self.write(f"{self._colour(kind, kind)} {first}")
        for line in rest:
            self.write(f"  {line}")

    def _find_columns(self) -> int:
        try:
            return os.get_terminal_size(self._descriptor).columns
        except OSError:  # no terminal
            return 0

    def show(self, label: str, data: bytes) -> None:
        """Show bytes that came, a row for each line, the first with the label."""
        for line in re.findall(rb"[^\n]*\n|[^\n]+", data[:_SHOWN_BYTES]):
            self.write(f"  {self._colour('', f'{label:<11}')} {show_bytes(line)}")
            label = ""
        if len(data) > _SHOWN_BYTES:
            self.tell("*", f"... and {count_bytes(len(data) - _SHOWN_BYTES)} more")

    def _colour(self, kind: str, text: str) -> str:
        return f"{_COLOURS[kind]}{text}\x1b[0m" if self._coloured else text


def show_bytes(data: bytes) -> str:
    """Return the bytes as text that is safe at a terminal: what is not printable is escaped."""
    text = []
    for each in data.decode("utf-8", "surrogateescape"):
        if each.isprintable() and each != "\\":
            text.append(each)
        elif "\udc80" <= each <= "\udcff":
            text.append(f"\\x{ord(each) - 0xDC00:02x}")
        else:
            text.append(each.encode("unicode_escape").decode("ascii"))
    return "".join(text)


def count_bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"
