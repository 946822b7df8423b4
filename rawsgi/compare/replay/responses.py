"""Split what a server sent into responses, however odd it is.

The rule: this reader never raises and never repairs in silence. What is not as RFC 9112 has it
is read as well as can be and noted as a fault, because the tester must tell what a server sent
and not only whether it liked it. It shares nothing with `rawsgi.protocol`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

Framing = Literal["none", "length", "chunked", "close"]

HEAD_LIMIT_BYTES: Final = 1 << 20
# Blank lines before a status-line; after more of them it is no HTTP.
BLANK_LIMIT_BYTES: Final = 1024
_START: Final = b"HTTP/"
_STATUS_LINE: Final = re.compile(rb"HTTP/(\d+\.\d+) (\d{3})(?: (.*))?")
_LOOSE_STATUS_LINE: Final = re.compile(rb"HTTP/(\S+)\s+(\d{1,5})\b\s*(.*)")
_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;.*)?")
_DIGITS: Final = re.compile(rb"[0-9]+")


@dataclass(slots=True)
class Response:
    """One response, interim or final.

    fields: name and value of each field line as sent, outer white space removed, latin-1.
    framing: how the end of the content is marked; "none" where there can be no content.
    complete: whether that end has come.
    start, head_end, end: offsets in the stream of bytes that was read.
    faults: what is not as RFC 9112 has it, in words.
    """

    version: str
    status: int
    reason: str
    start: int
    head_end: int
    end: int = 0
    fields: list[tuple[str, str]] = field(default_factory=list)
    framing: Framing = "none"
    content: bytes = b""
    complete: bool = False
    faults: list[str] = field(default_factory=list)

    @property
    def interim(self) -> bool:
        """Whether a final response is still to follow. 101 is final here: HTTP/1 ends."""
        return 100 <= self.status < 200 and self.status != 101

    def values(self, name: str) -> list[str]:
        """Return the values of the field lines called `name` (in lower case), in order."""
        return [value for key, value in self.fields if key.lower() == name]

    def closes(self) -> bool:
        """Say whether the response announces that the connection ends after it."""
        options = {
            option.strip().lower()
            for value in self.values("connection")
            for option in value.split(",")
        }
        if self.version == "1.0":
            return "keep-alive" not in options
        return "close" in options


class ResponseReader:
    """Bytes in, responses out. One object per connection; not thread-safe.

    is_head(n) says whether the n-th final response (from 0) answers a HEAD request.
    `responses` holds all that have at least a whole head; only the last can be incomplete.
    `garbage` is the offset of the first byte that belongs to no response, or None.
    """

    def __init__(self, is_head: Callable[[int], bool] = lambda position: False) -> None:
        self.responses: list[Response] = []
        self.garbage: int | None = None
        self._is_head = is_head
        self._finals = 0
        self._stream = bytearray()
        self._position = 0  # everything before it is understood
        self._scanned = 0  # no line end of what is being sought lies before it
        self._step: Callable[[], bool] = self._read_head
        self._content: list[bytes] = []
        self._missing = 0  # bytes of content or of a chunk that are still to come

    @property
    def stream(self) -> bytes:
        """Everything that was fed."""
        return bytes(self._stream)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._stream += data
        while self._step():
            pass

    def end(self) -> None:
        """Take the end of the stream: it completes content that is delimited by it."""
        last = self.responses[-1] if self.responses else None
        if last is not None and not last.complete:
            last.content = b"".join(self._content)
            last.end = len(self._stream)
            if last.framing == "close":
                last.complete = True
                self._position = last.end
            self._step = self._read_nothing
        elif self._position < len(self._stream) and self.garbage is None:
            self.garbage = self._position

    def finals(self) -> list[Response]:
        """Return the final responses with a whole head, in order."""
        return [response for response in self.responses if not response.interim]

    def count_complete(self) -> int:
        """Return how many final responses are complete."""
        return sum(response.complete for response in self.finals())

    # --- steps: each takes one piece off the stream, False when more bytes are needed ---

    def _read_nothing(self) -> bool:
        return False

    def _read_head(self) -> bool:
        stream, start = self._stream, self._position
        blank_end = min(len(stream), start + BLANK_LIMIT_BYTES)
        while start < blank_end and stream[start] in b"\r\n":
            start += 1
        beginning = bytes(stream[start : start + len(_START)])
        if not _START.startswith(beginning):
            if not self._read_forbidden_content(start):
                self.garbage = self._position
                self._step = self._read_nothing
                return False
            return True
        if len(beginning) < len(_START):
            return False
        end, after = self._find_head_end(max(start, self._scanned - 3))
        if end < 0:
            self._scanned = len(stream)
            if len(stream) - start > HEAD_LIMIT_BYTES:
                self.garbage = start
                self._step = self._read_nothing
            return False
        response = _parse_head(bytes(stream[start:end]), start, after)
        if response is None:
            self.garbage = start
            self._step = self._read_nothing
            return False
        if start > self._position:
            response.faults.append("a blank line before the status-line")
        self._position = after
        self.responses.append(response)
        self._choose_framing(response)
        return True

    def _find_head_end(self, start: int) -> tuple[int, int]:
        """Return where the head ends and where what follows it begins; -1 if it has not ended."""
        strict = self._stream.find(b"\r\n\r\n", start)
        loose = self._stream.find(b"\n\n", start)
        if strict >= 0 and (loose < 0 or strict < loose):
            return strict, strict + 4
        return loose, loose + 2

    def _choose_framing(self, response: Response) -> None:
        """Decide how the content ends: RFC 9112 section 6.3, as a client has it."""
        is_head = not response.interim and self._is_head(self._finals)
        self._content = []
        coding = [value.strip().lower() for value in response.values("transfer-encoding")]
        lengths = response.values("content-length")
        if coding and lengths:
            response.faults.append("Transfer-Encoding together with Content-Length")
        if len(set(lengths)) > 1:
            response.faults.append("different Content-Length values")
        if 100 <= response.status < 200 or is_head or response.status in (204, 304):
            self._finish(response)
        elif coding and coding[-1].endswith("chunked"):
            response.framing = "chunked"
            self._step = self._read_chunk_size
        elif coding:
            response.framing = "close"
            self._step = self._read_to_end
        elif lengths and _DIGITS.fullmatch(lengths[0].encode("latin-1")):
            response.framing = "length"
            self._missing = int(lengths[0][:18])
            self._step = self._read_length
        else:
            if lengths:
                response.faults.append(f"Content-Length is no number: {lengths[0]!r}")
            response.framing = "close"
            self._step = self._read_to_end

    def _finish(self, response: Response) -> None:
        response.content = b"".join(self._content)
        response.complete = True
        response.end = self._position
        self._content = []
        self._finals += not response.interim
        self._scanned = self._position
        self._step = self._read_head

    def _read_forbidden_content(self, start: int) -> bool:
        """Content after a response that can have none belongs to it, as far as it is marked."""
        if not self.responses or start != self._position:
            return False
        last = self.responses[-1]
        if last.interim or last.framing != "none" or last.faults[-1:] == [_FORBIDDEN]:
            return False
        coding, lengths = last.values("transfer-encoding"), last.values("content-length")
        if not coding and not (lengths and _DIGITS.fullmatch(lengths[0].encode("latin-1"))):
            return False
        last.faults.append(_FORBIDDEN)
        last.complete = False
        self._finals -= 1
        if coding:
            last.framing, self._step = "chunked", self._read_chunk_size
        else:
            last.framing, self._step = "length", self._read_length
            self._missing = int(lengths[0][:18])
        return True

    def _read_length(self) -> bool:
        return self._take_content() and self._complete_last()

    def _read_to_end(self) -> bool:
        self._missing = len(self._stream) - self._position
        self._take_content()
        return False

    def _take_content(self) -> bool:
        """Take what has come of `_missing` bytes; say whether none is missing any more."""
        piece = bytes(self._stream[self._position : self._position + self._missing])
        if piece:
            self._content.append(piece)
            self._position += len(piece)
            self._missing -= len(piece)
        return self._missing == 0

    def _complete_last(self) -> bool:
        self._finish(self.responses[-1])
        return True

    def _read_line(self) -> bytes | None:
        """Take a line off the stream; a bare LF as its end is a fault."""
        end = self._stream.find(b"\n", max(self._position, self._scanned))
        if end < 0:
            self._scanned = len(self._stream)
            return None
        line = bytes(self._stream[self._position : end])
        self._position = self._scanned = end + 1
        if not line.endswith(b"\r"):
            _note(self.responses[-1], "a bare LF as line end in chunked content")
            return line
        return line[:-1]

    def _read_chunk_size(self) -> bool:
        line = self._read_line()
        if line is None:
            return False
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            _note(self.responses[-1], f"no chunk size: {line[:40]!r}")
            self._step = self._read_to_end
            return True
        self._missing = int(match[1][-16:], 16)
        self._step = self._read_chunk if self._missing else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        if not self._take_content():
            return False
        if len(self._stream) < self._position + 2:
            return False
        if self._stream.startswith(b"\r\n", self._position):
            self._position += 2
        else:
            _note(self.responses[-1], "no CRLF after a chunk")
        self._step = self._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        line = self._read_line()
        if line is None:
            return False
        return self._complete_last() if not line else True


_FORBIDDEN: Final = "content where there can be none (HEAD, 204 or 304)"


def _note(response: Response, fault: str) -> None:
    if fault not in response.faults:
        response.faults.append(fault)


def _parse_head(head: bytes, start: int, after: int) -> Response | None:
    faults: list[str] = []
    lines = head.split(b"\n")
    if any(not line.endswith(b"\r") for line in lines[:-1]):
        faults.append("a bare LF as line end in the head")
    status_line, *field_lines = [line.removesuffix(b"\r") for line in lines]
    match = _STATUS_LINE.fullmatch(status_line)
    if match is None:
        match = _LOOSE_STATUS_LINE.fullmatch(status_line)
        faults.append(f"the status-line is not as it must be: {status_line[:60]!r}")
        if match is None:
            return None
    response = Response(
        version=match[1].decode("latin-1"),
        status=int(match[2]),
        reason=(match[3] or b"").decode("latin-1"),
        start=start,
        head_end=after,
        end=after,
        faults=faults,
    )
    for line in field_lines:
        name, colon, value = line.partition(b":")
        if not colon or not _FIELD_NAME.fullmatch(name):
            _note(response, f"no field line: {line[:60]!r}")
        if b"\r" in line or b"\0" in line:
            _note(response, f"a bare CR or NUL in a field line: {line[:60]!r}")
        response.fields.append((name.decode("latin-1"), value.decode("latin-1").strip(" \t")))
    return response
