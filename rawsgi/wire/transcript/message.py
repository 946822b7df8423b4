"""One message as lines of text: which of its parts are shown, and how far.

The rule of this file: heads are shown whole, of content the ends; what is left out is counted.
"""

from __future__ import annotations

import re

from rawsgi.wire.scanner import (
    CHUNK_DATA,
    CHUNK_END,
    CHUNK_SIZE,
    CONTENT,
    EMPTY_LINE,
    HEAD_END,
    START_LINE,
    TRAILER_END,
    Part,
)
from rawsgi.wire.transcript.style import BOLD, DIM, MAGENTA, Style, count, paint
from rawsgi.wire.visible import show_bytes

# Of content and of a line, when not all is asked for.
_FIRST_BYTES = 1024
_LAST_BYTES = 128
_FIRST_CHUNKS = 8
_LINE_BYTES = 1024
# A line of the transcript that shows content holds no more characters than this.
_LINE_CHARACTERS = 120


class MessageText:
    """The messages of one direction of a connection, one after the other."""

    def __init__(self, mark: str, colour: str, style: Style) -> None:
        self._mark = mark
        self._colour = colour
        self._style = style
        self.begin()

    def begin(self) -> None:
        """The next message begins."""
        self._room = _FIRST_BYTES
        self._line = b""  # content that is not a whole line yet
        self._last = b""  # the end of content that is not shown
        self._hidden_bytes = 0
        self._chunks = 0
        self._hidden_chunks = 0

    def take(self, part: Part) -> list[str]:
        """Return the lines that a part makes."""
        kind, data = part
        if kind == CONTENT or kind == CHUNK_DATA:
            return self._take_content(data)
        if kind == CHUNK_SIZE:
            return self._take_chunk_size(data)
        if kind == CHUNK_END:
            if self._hidden_chunks:
                return []
            return [*self._end_content(), self._show(data, MAGENTA)]
        colour = self._colour if kind in (START_LINE, HEAD_END, EMPTY_LINE, TRAILER_END) else ""
        return [*self.end(), self._show_line(data, colour, kind == START_LINE)]

    def end(self) -> list[str]:
        """Return what is left to be said of the content."""
        lines = self._end_content()
        if self._hidden_chunks:
            hidden = f"... {count(self._hidden_chunks, 'more chunk')}, not shown ..."
            lines.append(self._frame(hidden, DIM))
            self._hidden_chunks = 0
        return lines

    def _take_chunk_size(self, data: bytes) -> list[str]:
        digits = data.partition(b";")[0].strip()
        try:
            size = int(digits, 16)
        except ValueError:
            size = -1
        if size > 0:
            self._chunks += 1
            if not self._style.full and (self._chunks > _FIRST_CHUNKS or self._hidden_bytes):
                self._hidden_chunks += 1
                return []
        what = "last chunk" if size == 0 else f"chunk of {count(size, 'byte')}" if size > 0 else ""
        line = self._show(data, MAGENTA)
        return [*self.end(), f"{line}  ({what})" if what else line]

    def _take_content(self, data: bytes) -> list[str]:
        if self._hidden_chunks:
            return []
        lines: list[str] = []
        if not self._style.full:
            shown, data = data[: self._room], data[self._room :]
            self._room -= len(shown)
            if data:
                # What was hidden so far and this: its end may be the end of all.
                last = self._last + data
                self._hidden_bytes += len(last) - len(self._last)
                self._last = last[-_LAST_BYTES:]
            data = shown
        text = self._line + data
        at = 0
        while at < len(text):
            line = text[at : at + _LINE_CHARACTERS]
            line = line[: line.find(b"\n") + 1 or len(line)]
            if len(line) < _LINE_CHARACTERS and not line.endswith(b"\n"):
                break
            while (excess := len(show_bytes(line)) - _LINE_CHARACTERS) > 0:
                line = line[: -max(1, excess // 4)]
            lines.append(self._show(line))
            at += len(line)
        self._line = text[at:]
        return lines

    def _end_content(self) -> list[str]:
        lines = [self._show(self._line)] if self._line else []
        hidden, last = self._hidden_bytes - len(self._last), self._last
        if hidden > 0:
            text = f"... {count(hidden, 'byte')} not shown (--wire-full shows all) ..."
            lines.append(self._frame(text, DIM))
        if last:
            lines.append(self._show(last))
        self._line = self._last = b""
        self._hidden_bytes = 0
        return lines

    def _show_line(self, data: bytes, colour: str, bold: bool) -> str:
        """A line of a head or of a trailer section."""
        text = data.rstrip(b"\r\n")
        if len(text) > _LINE_BYTES and not self._style.full:
            hidden = len(text) - _LINE_BYTES
            more = f" ... {count(hidden, 'byte')} not shown ... " + show_bytes(data[len(text) :])
            return self._show(text[:_LINE_BYTES], colour) + more
        if bold and self._style.coloured:
            colour += ";" + BOLD
        if not colour and self._style.coloured and b":" in data:
            name, _, value = data.partition(b":")
            return self._frame(paint(show_bytes(name) + ":", BOLD) + self._paint_ends(value))
        return self._show(data, colour)

    def _show(self, data: bytes, colour: str = "") -> str:
        if not self._style.coloured:
            return self._frame(show_bytes(data))
        return self._frame(paint(show_bytes(data), colour) if colour else self._paint_ends(data))

    def _paint_ends(self, data: bytes) -> str:
        """Escapes stand back behind the text."""
        text = show_bytes(data)
        return re.sub(r"(?:\\x..|\\[rnt])+", lambda match: paint(match[0], DIM), text)

    def _frame(self, text: str, colour: str = "") -> str:
        if not self._style.coloured:
            return f"{self._mark} {text}"
        return f"{paint(self._mark, self._colour)} {paint(text, colour) if colour else text}"
