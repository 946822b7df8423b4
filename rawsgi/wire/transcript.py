"""Exchanges as text, for a person at a terminal: `--wire`.

    #1.2 > GET /hello HTTP/1.1\\r\\n      the client, in the second exchange of connection 1
    #1.2 < HTTP/1.1 200 OK\\r\\n          the server
    #1.2 * kept alive: ...              why

The rule of this file: a byte is shown as itself only if it is a printable ASCII character;
whatever else it is, no terminal will take it for a command. Lines are gathered and written in
groups that belong together, so that connections do not mix within them.
"""

from __future__ import annotations

import os
import re
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass

from rawsgi.wire.conversation import Facts, Link
from rawsgi.wire.notes import (
    Note,
    explain_error,
    explain_framing,
    explain_request,
    explain_reuse,
    list_times,
)
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
from rawsgi.wire.visible import show_bytes

# Of content and of a line, when not all is asked for.
_FIRST_BYTES = 1024
_LAST_BYTES = 128
_FIRST_CHUNKS = 8
_LINE_BYTES = 1024
# A line of the transcript that shows content holds no more characters than this.
_LINE_CHARACTERS = 120
# Text that waits to be written: past it, it is written early.
_WAITING_CHARACTERS = 1 << 16
# Where only failures are shown: what is kept of an exchange until it is known whether it fails.
_DEFERRED_BYTES = 1 << 18
_PART_BYTES = 100  # the cost of keeping a part, its bytes aside
# A response that takes longer than this is shown while it is on its way.
_LIVE_S = 0.2
# Only where somebody made the terminal non-blocking.
_PATIENCE_S = 1.0

# Parameters of SGR (ECMA-48).
BOLD, DIM, GREEN, MAGENTA, CYAN = "1", "2", "32", "35", "36"


@dataclass(frozen=True, slots=True)
class Style:
    """How much is shown, and how."""

    full: bool = False
    """All of the content."""
    errors_only: bool = False
    coloured: bool = False
    prefix: str = ""
    """Before every line, where several processes write to one terminal."""


class Transcript:
    """One connection's exchanges as text. A `Sink`: one call at a time."""

    def __init__(self, write: Callable[[str], None], style: Style) -> None:
        self._write = write
        self._style = style
        self._lines: list[str] = []
        self._waiting = 0
        self._deferred: list[tuple[Callable[[Facts, Part], None], Part]] = []
        self._deferred_bytes = 0
        self._given_up = 0
        """Bytes of this exchange that were not kept."""
        self._request = _Side(">", GREEN, style)
        self._response = _Side("<", CYAN, style)
        self._number = 0

    # -- Events ----------------------------------------------------------------------------------

    def accept(self, link: Link) -> None:
        if not self._style.errors_only:
            peer = ":".join(link.remote) if link.remote[0] else "a client"
            server = ":".join(filter(None, link.server))
            self._note(f"#{link.number}", Note(f"{peer} connected to {server}"))
            self._flush()

    def take_request_part(self, facts: Facts, part: Part) -> None:
        if self._style.errors_only:
            self._defer(self._show_request_part, part)
        else:
            self._show_request_part(facts, part)

    def take_response_part(self, facts: Facts, part: Part) -> None:
        if self._style.errors_only:
            self._defer(self._show_response_part, part)
        else:
            self._show_response_part(facts, part)

    def pause(self, facts: Facts) -> None:
        """Show the request before the application may hang, and a long response as it comes."""
        if facts.scanner.finished:
            self._add_all(facts, self._request.end())
        if not self._style.errors_only:
            if not facts.first_sent or facts.last_sent - facts.called > _LIVE_S:
                self._flush()

    def end(self, facts: Facts) -> None:
        deferred, self._deferred = self._deferred, []
        given_up, self._given_up = self._given_up, 0
        self._deferred_bytes = 0
        if facts.failed or not self._style.errors_only:
            for show, part in deferred:
                show(facts, part)
            for side in (self._request, self._response):
                self._add_all(facts, side.end())
            for note in (
                *explain_error(facts),
                *explain_framing(facts),
                *explain_reuse(facts),
                Note(f"times in ms: {list_times(facts)}", DIM),
            ):
                self._note(name(facts), note)
            if given_up:
                self._note(name(facts), Note(f"{count(given_up, 'byte')} were not kept"))
            self._flush()

    def close(self, link: Link, reason: str) -> None:
        if self._style.errors_only:
            return
        if link.ignored_bytes:
            text = f"{link.ignored_bytes} bytes that came after the last request were ignored"
            self._note(f"#{link.number}", Note(text))
        who = "the client" if link.closed_by == "client" else "the server"
        reason = f": {reason}" if reason and link.closed_by != "client" else ""
        self._note(f"#{link.number}", Note(f"{who} closed the connection{reason}"))
        self._flush()

    # -- Lines -----------------------------------------------------------------------------------

    def _defer(self, show: Callable[[Facts, Part], None], part: Part) -> None:
        """Keep a part until it is known whether the exchange fails."""
        if self._deferred_bytes > _DEFERRED_BYTES:
            self._given_up += len(part[1])
        else:
            self._deferred.append((show, part))
            self._deferred_bytes += len(part[1]) + _PART_BYTES

    def _show_request_part(self, facts: Facts, part: Part) -> None:
        self._take(self._request, facts, part)
        if part[0] == HEAD_END:
            for note in explain_request(facts):
                self._note(name(facts), note)

    def _show_response_part(self, facts: Facts, part: Part) -> None:
        if facts.scanner.finished or facts.error:
            self._add_all(facts, self._request.end())
        self._take(self._response, facts, part)

    def _take(self, side: _Side, facts: Facts, part: Part) -> None:
        if facts.number != self._number:  # the first part of an exchange
            self._number = facts.number
            self._request.begin()
            self._response.begin()
        self._add_all(facts, side.take(part))

    def _add_all(self, facts: Facts, lines: list[str]) -> None:
        for line in lines:
            self._add(f"{name(facts)} {line}")

    def _note(self, about: str, note: Note) -> None:
        text = f"* {note.text}"
        self._add(f"{about} {paint(text, note.colour) if self._style.coloured else text}")

    def _add(self, line: str) -> None:
        if self._waiting > _WAITING_CHARACTERS:
            self._flush()
        self._lines.append(line)
        self._waiting += len(line)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        self._waiting = 0
        if lines:
            prefix = self._style.prefix
            self._write("".join(f"{prefix}{line}\n" for line in lines))


class _Side:
    """One direction of one exchange: which of its parts are shown, and how far."""

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


class Printer:
    """Writes the texts of all connections to one descriptor, whole ones at a time. Any thread."""

    def __init__(self, descriptor: int | None) -> None:
        """None, or a descriptor that fails: nothing is written."""
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        """A reader that takes nothing for a while costs the rest of the text."""
        data = text.encode("ascii")
        with self._lock:
            while data and self._descriptor is not None:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:
                    if not select.select([], [self._descriptor], [], _PATIENCE_S)[1]:
                        return
                except (OSError, ValueError):  # its reader is gone
                    self._descriptor = None


def name(facts: Facts) -> str:
    """The connection's number and the exchange's."""
    return f"#{facts.link.number}.{facts.number}"


def count(number: int, thing: str) -> str:
    """`1 byte`, `1,024 bytes`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def paint(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if text and colour else text
