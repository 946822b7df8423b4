"""One exchange in full: what was sent, and what two servers sent back, byte by byte.

The rule: every byte is visible and can be told from every other (`\\r`, `\\n`, `\\x00`, and a
backslash as `\\\\`), a line ends only where the wire has an LF, and offsets count received bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from textwrap import wrap
from typing import Final

from rawsgi.compare.judgement.comparison import Comparison, Row
from rawsgi.compare.judgement.reasons import explain_row
from rawsgi.compare.replay.transcript import Event, Transcript
from rawsgi.compare.report.table import ENDING_NOTES, Style, show_text

SHOWN_LIMIT_BYTES: Final = 8192
_OFFSET_WIDTH: Final = 6
_NOTES: Final = {
    "half-closed": "-- the tester half-closes",
    "follow-up": "-- the tester sends one more GET",
    "closed": "-- the server closes",
    "reset": "-- the server resets",
    "connected": "-- the tester connects",
}
_ESCAPES: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(32), *range(127, 256))},
    ord("\r"): "\\r",
    ord("\n"): "\\n",
    ord("\t"): "\\t",
    ord("\\"): "\\\\",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a transcript. offset: of its first byte, None for a note of the tester's."""

    offset: int | None
    text: str


def show_bytes(data: bytes) -> str:
    """Make every byte visible."""
    return "".join(_ESCAPES.get(code) or chr(code) for code in data)


def split_lines(data: bytes, offset: int = 0) -> Iterator[Line]:
    """Cut bytes into lines after each LF, from `offset` on; what is past the limit is counted."""
    shown = data[:SHOWN_LIMIT_BYTES]
    for piece in _cut(shown):
        yield Line(offset, show_bytes(piece))
        offset += len(piece)
    if len(data) > len(shown):
        yield Line(None, f"... {len(data) - len(shown)} more bytes")


def _cut(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end


def list_lines(transcript: Transcript) -> list[Line]:
    """List what came, in order, with notes where the tester did something meanwhile.

    Of what came after the follow-up request only the first line is shown: it says no more than
    that the connection lives.
    """
    lines: list[Line] = []
    offset, pending, followed = 0, b"", False
    events = transcript.events
    for number, event in enumerate(events):
        if event.kind == "received":
            pending += event.data
            continue
        note = _describe_event(event, number, events)
        if note:
            lines += _list_part(pending, offset, followed)
            offset, pending = offset + len(pending), b""
            lines.append(Line(None, note))
        followed = followed or event.kind == "follow-up"
    return lines + _list_part(pending, offset, followed)


def _list_part(data: bytes, offset: int, followed: bool) -> list[Line]:
    first = data.find(b"\n") + 1
    if not followed or not 0 < first < len(data):
        return list(split_lines(data, offset))
    more = Line(None, f"... {len(data) - first} more bytes")
    return [*split_lines(data[:first], offset), more]


def _describe_event(event: Event, number: int, events: Sequence[Event]) -> str:
    if event.kind == "sent":
        earlier = {previous.kind for previous in events[:number]}
        return f"-- {len(event.data)} bytes are sent" if "received" in earlier else ""
    if event.kind == "connected" and number == 0:
        return ""
    return _NOTES[event.kind]


def render_transcripts(comparison: Comparison, row: Row, width: int, style: Style) -> Iterator[str]:
    """Yield the lines of one exchange: what was sent, then each server beside the reference."""
    exchange = row.exchange
    yield style.paint(exchange.id, "bold")
    yield from wrap(show_text(exchange.title), width)
    if exchange.rfc:
        kind = f"{exchange.rfc}; {exchange.level}{'; security' if exchange.security else ''}"
        yield from wrap(kind, width)
        yield from wrap(exchange.demand, width)
    names = [column.name for column in comparison.columns if column.name in row.transcripts]
    if names:
        reason = explain_row(row, names[0])
        yield from wrap(f"{names[0]}: {reason}", width) if reason else ()
    yield ""
    yield style.paint("Sent", "bold")
    for step in exchange.steps:
        if step.kind == "send":
            for line in split_lines(step.data):
                yield from _render_line(line, width)
        elif step.kind == "await":
            yield f"-- waits for {step.awaited}"
        else:
            yield "-- ends its sending side" if step.kind == "half-close" else "-- reconnects"
    for other in names[1:] or names[:1]:
        yield ""
        pair = [names[0], other] if other != names[0] else [other]
        for name in pair:
            yield from wrap(_describe_answer(row, name), width, subsequent_indent="  ")
        for difference in row.differences.get(other, ()):
            yield from wrap(f"differs: {difference}", width, subsequent_indent="  ")
        yield from _render_pair(row, pair, width, style)


def _describe_answer(row: Row, name: str) -> str:
    answer, verdict = row.answers[name], row.verdicts[name]
    statuses = ", ".join(map(str, answer.statuses)) or "no response"
    text = f"{name}: {statuses}; {ENDING_NOTES[answer.connection]}"
    if verdict.judgement == "right":
        text += "; as the specification demands"
    elif verdict.faults:
        text += "; wrong: " + "; ".join(verdict.faults)
    if answer.faults:
        text += "; irregular: " + "; ".join(answer.faults)
    return text


def _render_line(line: Line, width: int) -> Iterator[str]:
    prefix = " " * _OFFSET_WIDTH
    if line.offset is not None:
        prefix = f"{line.offset:5d} "
    for piece in _fold(line.text, width - _OFFSET_WIDTH):
        yield (prefix + piece).rstrip()
        prefix = " " * _OFFSET_WIDTH


def _fold(text: str, width: int) -> list[str]:
    return [text[i : i + width] for i in range(0, len(text), width)] or [""]


def _render_pair(row: Row, names: Sequence[str], width: int, style: Style) -> Iterator[str]:
    if len(names) == 1:
        for line in list_lines(row.transcripts[names[0]]):
            yield from _render_line(line, width)
        return
    left, right = (list_lines(row.transcripts[name]) for name in names)
    side = (width - 3) // 2
    yield style.paint(names[0].ljust(side) + "   " + names[1], "bold")
    for mine, theirs, same in pair_lines(left, right):
        yield from _render_sides(mine, theirs, same, side, style)


def pair_lines(
    left: Sequence[Line], right: Sequence[Line]
) -> Iterator[tuple[Line | None, Line | None, bool]]:
    """Put the lines of two transcripts beside each other, and say of each pair if it is alike."""
    matcher = SequenceMatcher(
        None, [line.text for line in left], [line.text for line in right], autojunk=False
    )
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal":
            for mine, theirs in zip(left[i1:i2], right[j1:j2], strict=True):
                yield mine, theirs, True
        else:
            for pair in _pair_alike(left[i1:i2], right[j1:j2]):
                yield *pair, False


def _pair_alike(
    left: Sequence[Line], right: Sequence[Line]
) -> Iterator[tuple[Line | None, Line | None]]:
    """Put lines that differ beside each other where they begin alike (a field's two values)."""
    mine = [line.text.partition(":")[0].partition(" ")[0] for line in left]
    theirs = [line.text.partition(":")[0].partition(" ")[0] for line in right]
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes():
        if kind == "equal":
            yield from zip(left[i1:i2], right[j1:j2], strict=True)
        else:
            yield from ((line, None) for line in left[i1:i2])
            yield from ((None, line) for line in right[j1:j2])


def _render_sides(
    mine: Line | None, theirs: Line | None, same: bool, side: int, style: Style
) -> Iterator[str]:
    middle = " " if same else "<" if theirs is None else ">" if mine is None else "|"
    room = side - _OFFSET_WIDTH
    folded = [_fold(line.text, room) if line is not None else [] for line in (mine, theirs)]
    for number in range(max(len(pieces) for pieces in folded)):
        texts = [pieces[number] if number < len(pieces) else "" for pieces in folded]
        offsets = [_show_offset(line, number) for line in (mine, theirs)]
        left, right = texts[0].ljust(room), texts[1]
        carets = _point_out(*texts) if middle == "|" else ""
        if not same:
            left, right = style.paint(left, "yellow"), style.paint(right, "yellow")
        yield f"{offsets[0]}{left} {middle} {offsets[1]}{right}".rstrip()
        if carets.strip():
            space = " " * _OFFSET_WIDTH
            yield (space + carets.ljust(room) + "   " + space + carets).rstrip()


def _show_offset(line: Line | None, number: int) -> str:
    if line is None or line.offset is None or number:
        return " " * _OFFSET_WIDTH
    return f"{line.offset:5d} "


def _point_out(mine: str, theirs: str) -> str:
    """Return a line of carets under the first and all further characters that differ."""
    length = max(len(mine), len(theirs))
    return "".join(" " if mine[i : i + 1] == theirs[i : i + 1] else "^" for i in range(length))
