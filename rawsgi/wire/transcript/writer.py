"""The text of one connection's exchanges, as they happen.

The rule of this file: lines are gathered and written in groups that belong together, so that
connections do not mix within them.
"""

from __future__ import annotations

from collections.abc import Callable

from rawsgi.wire.facts import Facts, Link
from rawsgi.wire.scanner import HEAD_END, Part
from rawsgi.wire.transcript.message import MessageText
from rawsgi.wire.transcript.notes import (
    Note,
    explain_error,
    explain_framing,
    explain_request,
    explain_reuse,
    list_times,
)
from rawsgi.wire.transcript.style import CYAN, DIM, GREEN, Style, break_note, count, paint

# Text that waits to be written: past it, it is written early.
_WAITING_CHARACTERS = 1 << 16
# Where only failures are shown: what is kept of an exchange until it is known whether it fails.
_DEFERRED_BYTES = 1 << 18
_PART_BYTES = 100  # the cost of keeping a part, its bytes aside
# A response that takes longer than this is shown while it is on its way.
_LIVE_S = 0.2


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
        self._request = MessageText(">", GREEN, style)
        self._response = MessageText("<", CYAN, style)
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

    def _take(self, side: MessageText, facts: Facts, part: Part) -> None:
        if facts.number != self._number:  # the first part of an exchange
            self._number = facts.number
            self._request.begin()
            self._response.begin()
        self._add_all(facts, side.take(part))

    def _add_all(self, facts: Facts, lines: list[str]) -> None:
        for line in lines:
            self._add(f"{name(facts)} {line}")

    def _note(self, about: str, note: Note) -> None:
        room = self._style.columns() - len(self._style.prefix) - len(about) - 3
        for line in break_note(note.text, 0 if note.whole else room):
            text = f"* {line}"
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


def name(facts: Facts) -> str:
    """The connection's number and the exchange's."""
    return f"#{facts.link.number}.{facts.number}"
