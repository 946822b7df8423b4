"""Outline the requests in the bytes that a client sends: how many, which, and where they end.

The tester needs this to know how many responses to wait for, which of them answer HEAD, and
whether its own follow-up request would land on a message boundary. The rule: only what is
plainly a request counts. At the first byte that could be read in two ways the outline stops and
says so; it never guesses, because the exchanges that matter most are made to mislead parsers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Tail = Literal["none", "incomplete", "unclear"]

_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (\S+) HTTP/1\.\d\r?\n")
_LINE_END: Final = re.compile(rb"\r?\n")
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\0]*?)[ \t]*\r?\n")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,40})(?:[ \t]*;[^\r\n]*)?\r?\n")
_LINE: Final = re.compile(rb"[^\r\n]*\r?\n")
_EMPTY_LINES: Final = re.compile(rb"(?:\r?\n)*")


@dataclass(frozen=True, slots=True)
class OutlinedRequest:
    """One complete request. start, head_end and end are offsets; fields have lower-case names."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    start: int
    head_end: int
    end: int


@dataclass(frozen=True, slots=True)
class Outline:
    """What is plain about a stream of requests.

    tail: what follows the last complete request: nothing, the beginning of a request, or
    something that cannot be told.
    """

    requests: tuple[OutlinedRequest, ...]
    tail: Tail

    @property
    def heads(self) -> frozenset[int]:
        """The positions of the HEAD requests, from 0."""
        return frozenset(i for i, found in enumerate(self.requests) if found.method == "HEAD")


def outline_requests(stream: bytes) -> Outline:
    """Outline a stream of HTTP/1 requests. Never raises."""
    found: list[OutlinedRequest] = []
    position = 0
    while True:
        position = _skip(_EMPTY_LINES, stream, position)
        if position == len(stream):
            return Outline(tuple(found), "none")
        request = _outline_one(stream, position)
        if isinstance(request, str):
            return Outline(tuple(found), request)
        found.append(request)
        position = request.end


def _skip(pattern: re.Pattern[bytes], stream: bytes, position: int) -> int:
    match = pattern.match(stream, position)
    return match.end() if match else position


def _outline_one(stream: bytes, start: int) -> OutlinedRequest | Tail:
    line = _REQUEST_LINE.match(stream, start)
    if line is None:
        return "unclear" if b"\n" in stream[start:] else "incomplete"
    fields: list[tuple[str, str]] = []
    position = line.end()
    while (empty := _LINE_END.match(stream, position)) is None:
        field = _FIELD.match(stream, position)
        if field is None:
            return "unclear" if b"\n" in stream[position:] else "incomplete"
        fields.append((field[1].decode("latin-1").lower(), field[2].decode("latin-1")))
        position = field.end()
    end = _find_content_end(stream, empty.end(), fields)
    if isinstance(end, str):
        return end
    return OutlinedRequest(
        method=line[1].decode("latin-1"),
        target=line[2].decode("latin-1"),
        fields=tuple(fields),
        start=start,
        head_end=empty.end(),
        end=end,
    )


def _find_content_end(stream: bytes, start: int, fields: list[tuple[str, str]]) -> int | Tail:
    lengths = [value for name, value in fields if name == "content-length"]
    codings = [value for name, value in fields if name == "transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        return "unclear"
    if codings:
        return _find_chunked_end(stream, start) if codings[0].lower() == "chunked" else "unclear"
    if not lengths:
        return start
    if not re.fullmatch(r"[0-9]{1,15}", lengths[0]):
        return "unclear"
    end = start + int(lengths[0])
    return end if end <= len(stream) else "incomplete"


def _find_chunked_end(stream: bytes, position: int) -> int | Tail:
    while True:
        chunk = _CHUNK.match(stream, position)
        if chunk is None:
            return "unclear" if b"\n" in stream[position:] else "incomplete"
        size = int(chunk[1], 16)
        position = chunk.end()
        if size == 0:
            break
        position += size
        if position > len(stream):
            return "incomplete"
        after = _LINE_END.match(stream, position)
        if after is None:
            return "unclear" if len(stream) > position + 1 else "incomplete"
        position = after.end()
    while True:
        line = _LINE.match(stream, position)
        if line is None:
            return "incomplete"
        position = line.end()
        if not line[0].strip():
            return position
