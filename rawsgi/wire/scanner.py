"""One direction of one exchange, cut into the parts that a person sees: lines, content, chunks.

The rule of this file: it describes, it judges nothing. Of what the server accepted it finds the
same parts as the server; of what the server refused it makes the best, and never loses a byte:
its parts, put together, are what was fed, but for the secrets, which are masked at equal length.
Memory is bounded by one line.
"""

from __future__ import annotations

import re

from rawsgi.wire.secrets.content import Mask, choose_mask
from rawsgi.wire.secrets.fields import is_secret, mask_line, mask_parameters, mask_start_line
from rawsgi.wire.secrets.names import hide

# Kinds of parts. All but CONTENT, CHUNK_DATA and REST are whole lines with their line ends,
# unless the message was cut off or a line is beyond all limits.
(
    EMPTY_LINE, START_LINE, FIELD_LINE, HEAD_END, CONTENT, CHUNK_SIZE, CHUNK_DATA, CHUNK_END,
    TRAILER_LINE, TRAILER_END, REST,
) = range(11)  # fmt: skip

# How the end of the content is told.
NO_CONTENT, BY_LENGTH, BY_CHUNKS, BY_CLOSE = range(4)

Part = tuple[int, bytes]

_LINE_LIMIT_BYTES = 1 << 17
_REQUEST_LINE = re.compile(rb"(\S+)(?: +(\S+)(?: +(\S+))?)?")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?![0-9])")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]+(?=[\t ;\r\n]|\Z)")


class Scanner:
    """A request, or the response to one. `feed` until `finished`; one thread at a time."""

    __slots__ = (
        "_buffer", "_coding", "_content_mask", "_content_type", "_cut", "_last_name", "_left",
        "_length", "_secret", "_shows_secrets", "answers", "code", "fields", "framing",
        "head_complete", "interim", "masked", "method", "rest", "state", "target", "version",
    )  # fmt: skip

    def __init__(self, answers: str | None = None, shows_secrets: bool = False) -> None:
        """`answers` is the method of the request that a response answers; None: a request."""
        self._shows_secrets = shows_secrets
        self.answers = answers
        self.method = self.target = self.version = ""
        """Of a request: its request-line, as far as it can be told, secrets masked."""
        self.interim: list[int] = []
        """Of a response: the status codes of the interim responses before it."""
        self.rest = b""
        """What was fed past the end of the message."""
        self.masked = False
        """Something secret was hidden."""
        self._begin()

    def _begin(self) -> None:
        self.state = START_LINE
        """What kind of part comes next; REST: the message is complete."""
        self.code = 0
        """Of a response: its status code."""
        self.framing = NO_CONTENT
        self.head_complete = False
        self.fields: list[bytes] = []
        """The names of the field lines of the head, in lower case."""
        self._buffer = bytearray()  # a line that is not complete
        self._cut = False  # the last part was a line without its end
        self._secret = False  # the last line was: what follows may be its continuation
        self._last_name = b""
        self._content_type = b""
        self._content_mask: Mask | None = None
        self._length: bytes | None = None
        self._coding: bytes | None = None
        self._left = 0  # bytes of the content or the chunk

    @property
    def finished(self) -> bool:
        return self.state == REST

    @property
    def begun(self) -> bool:
        """Something of the message has come, empty lines not counted."""
        return self.state != START_LINE or bool(self._buffer)

    @property
    def length(self) -> int:
        """Of content that is told BY_LENGTH: the length in bytes."""
        return int(self._length or b"0")

    def feed(self, data: bytes) -> list[Part]:
        """Take bytes, return the parts that they complete. What is past the end is in `rest`."""
        parts: list[Part] = []
        at, end = 0, len(data)
        while at < end and self.state != REST:
            if self.state in (CONTENT, CHUNK_DATA):
                at = self._take_content(data, at, parts)
            else:
                at = self._take_line(data, at, parts)
        self.rest += data[at:]
        return parts

    def drain(self) -> list[Part]:
        """The message ends here, complete or not: return what was kept of it."""
        line, self._buffer = bytes(self._buffer), bytearray()
        kind, self.state = self.state, REST
        return [(kind, self._mask_line(kind, line))] if line else []

    def _take_content(self, data: bytes, at: int, parts: list[Part]) -> int:
        if self.framing == BY_CLOSE:
            piece = data[at:]
        else:
            piece = data[at : at + self._left]
            self._left -= len(piece)
        parts.append((self.state, piece if self._shows_secrets else self._mask_content(piece)))
        if not self._left and self.framing != BY_CLOSE:
            self.state = CHUNK_END if self.state == CHUNK_DATA else REST
        return at + len(piece)

    def _take_line(self, data: bytes, at: int, parts: list[Part]) -> int:
        feed = data.find(b"\n", at)
        if feed < 0:
            self._buffer += data[at:]
            if len(self._buffer) > _LINE_LIMIT_BYTES:
                line, self._buffer = bytes(self._buffer), bytearray()
                parts.append((self.state, self._mask_line(self.state, line)))
            return len(data)
        line = bytes(self._buffer) + data[at : feed + 1]
        self._buffer = bytearray()
        kind = self.state
        if kind == START_LINE:
            kind = self._read_start_line(line)
        elif kind == FIELD_LINE:
            kind = self._read_field_line(line)
        elif kind == CHUNK_SIZE:
            self._read_chunk_size(line)
        elif kind == CHUNK_END:
            self.state = CHUNK_SIZE
        elif kind == TRAILER_LINE and not line.strip(b"\r\n"):
            kind, self.state = TRAILER_END, REST
        parts.append((kind, self._mask_line(kind, line)))
        if kind == START_LINE:
            self._note_start_line(parts[-1][1])
        elif kind == HEAD_END:
            self._end_head()
        return feed + 1

    def _mask_line(self, kind: int, line: bytes) -> bytes:
        """Mask a line, or a piece of one, that may hold a secret."""
        if self._shows_secrets:
            return line
        cut, self._cut = self._cut, not line.endswith(b"\n")
        if kind in (FIELD_LINE, TRAILER_LINE):
            # RFC 9112 section 5.2: a folded line goes on with the value of the last one.
            continues = self._secret and line[:1] in (b" ", b"\t")
            self._secret = continues or cut or is_secret(line)
            masked = mask_line(line) if not (continues or cut) else hide(line)
        elif cut:
            masked = hide(line)  # the rest of a line that was too long to be kept whole
        elif kind == START_LINE:
            masked = mask_start_line(line)
        else:
            masked = mask_parameters(line)  # in the extensions of a chunk
        self.masked = self.masked or masked != line
        return masked

    def _mask_content(self, piece: bytes) -> bytes:
        if self._content_mask is None:
            self._content_mask = choose_mask(self._content_type)
        masked = self._content_mask.feed(piece)
        self.masked = self.masked or masked != piece
        return masked

    def _read_start_line(self, line: bytes) -> int:
        text = line.rstrip(b"\r\n")
        if self.answers is None:
            if not text:
                return EMPTY_LINE
        else:
            match = _STATUS_LINE.match(text)
            self.code = int(match[1]) if match else 0
        self.state = FIELD_LINE
        return START_LINE

    def _note_start_line(self, masked: bytes) -> None:
        match = _REQUEST_LINE.match(masked) if self.answers is None else None
        if match is not None:
            parts = [(part or b"").decode("latin-1") for part in match.groups()]
            self.method, self.target, self.version = parts

    def _read_field_line(self, line: bytes) -> int:
        text = line.rstrip(b"\r\n")
        if not text:
            return HEAD_END
        if text[:1] in (b" ", b"\t"):
            value = text.strip(b" \t")
            if value and self._last_name == b"content-length":
                self._length = (self._length or b"") + value
            elif value and self._last_name == b"transfer-encoding":
                self._coding = (self._coding or b"") + value
            return FIELD_LINE
        name, _, value = text.partition(b":")
        name = self._last_name = name.lower()
        self.fields.append(name)
        if name == b"content-length":
            self._length = value.strip(b" \t")
        elif name == b"transfer-encoding":
            self._coding = value.strip(b" \t")
        elif name == b"content-type":
            self._content_type = value.strip(b" \t")
        return FIELD_LINE

    def _end_head(self) -> None:
        """Decide as the server does for what it accepts (RFC 9112 section 6.3)."""
        if 100 <= self.code < 200:
            self.interim.append(self.code)
            self._begin()  # the final response follows
            return
        self.head_complete = True
        response = self.answers is not None
        self.state = CONTENT
        if response and (self.answers == "HEAD" or self.code in (204, 205, 304)):
            self.framing = NO_CONTENT
        elif self._coding is not None and self._coding.lower() == b"chunked":
            self.framing, self.state = BY_CHUNKS, CHUNK_SIZE
        elif self._length is not None and _LENGTH.fullmatch(self._length):
            self._left = int(self._length)
            self.framing = BY_LENGTH if self._left or response else NO_CONTENT
        elif response:
            self.framing = BY_CLOSE
        if self.state == CONTENT and not self._left and self.framing != BY_CLOSE:
            self.state = REST

    def _read_chunk_size(self, line: bytes) -> None:
        match = _CHUNK_SIZE.match(line)
        # What is no size is refused; it is all the same what is made of the rest.
        self._left = int(match[0], 16) if match else 0
        self.state = CHUNK_DATA if self._left else TRAILER_LINE
