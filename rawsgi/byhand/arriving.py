"""A client's request, shown on the screen while it arrives.

Why it exists: a person is to see every byte, and to learn when it is their turn. The rule: it
refuses nothing. It reads as leniently as it can, only to know where the request ends.
"""

from __future__ import annotations

import re
from typing import Final

from rawsgi.byhand.screen import Screen

_REQUEST_LINE: Final = re.compile(rb"[^ ]+ [^ ]+ HTTP/[0-9]\.[0-9]\r?\n")
# The places in a request, by the name of the line that comes there.
START, FIELD, CONTENT, SIZE, DATA, DATA_END, TRAILER = (
    "start-line", "field line", "content", "chunk-size", "chunk data", "chunk end", "trailer",
)  # fmt: skip


class ArrivingRequest:
    """A request, shown while it arrives, and read leniently: only to know where it ends."""

    def __init__(self, screen: Screen) -> None:
        self.method = b""
        self.version = b""
        self.complete = False
        self.buffer = bytearray()
        """Bytes not yet shown. Once the request is complete: what came after it."""
        self._screen = screen
        self._place = START
        self._fields: dict[bytes, bytes] = {}
        self._left = 0

    @property
    def began(self) -> bool:
        return bool(self.method or self.buffer)

    @property
    def asks_first(self) -> bool:
        """Whether the client waits for 100 Continue (RFC 9110 section 10.1.1)."""
        waits = self._place not in (START, FIELD) and not self.complete
        return waits and self._fields.get(b"expect", b"").lower() == b"100-continue"

    @property
    def closes(self) -> bool:
        words = re.split(rb"[ \t]*,[ \t]*", self._fields.get(b"connection", b"").lower())
        return b"close" in words or (self.version != b"HTTP/1.1" and b"keep-alive" not in words)

    def feed(self, data: bytes) -> None:
        self.buffer += data
        if self._place == START and self.buffer.startswith(b"\x16\x03"):
            self._screen.show("bytes", bytes(self.buffer))
            self._screen.tell("!", "This is TLS: the client was given https. Here it is http.")
            self.method = b"?"  # something has come, and it will never be complete
            self.buffer.clear()
        while not self.complete and self._advance():
            pass
        if self.buffer and not self.complete:
            self._screen.show("so far", bytes(self.buffer))

    def _advance(self) -> bool:
        """Take the next line or piece of content out of the buffer; False: it is not there."""
        if self._place in (CONTENT, DATA):
            end = min(self._left, len(self.buffer))
        else:
            end = self.buffer.find(b"\n") + 1
        piece = bytes(self.buffer[:end])
        del self.buffer[:end]
        if not piece:
            return False
        blank = piece in (b"\r\n", b"\n") and self._place in (START, FIELD, TRAILER)
        self._screen.show("blank line" if blank else self._place, piece)
        if self._place in (CONTENT, DATA):
            self._left -= len(piece)
            if not self._left:
                self._place = DATA_END if self._place == DATA else CONTENT
                self.complete = self._place == CONTENT
        elif blank:
            self.complete = self._place == TRAILER
            if self._place == FIELD:
                self._end_head()
        else:
            self._take_line(piece)
        return True

    def _take_line(self, line: bytes) -> None:
        if self._place == START:
            words = line.split() or [b"?"]
            self.method, self.version = words[0], words[-1]
            self._place = FIELD
            if not _REQUEST_LINE.fullmatch(line):
                self._screen.tell("!", "No request-line: it is method, target, version.")
        elif self._place == FIELD:
            name, _, value = line.partition(b":")
            name = name.strip().lower()
            earlier = self._fields.get(name)
            value = value.strip()
            self._fields[name] = value if earlier is None else earlier + b", " + value
        elif self._place == SIZE:
            digits = re.match(rb"[0-9A-Fa-f]{1,15}", line)
            self._left = int(digits[0], 16) if digits else 0
            self._place = DATA if self._left else TRAILER
            if digits is None:
                self._screen.tell("!", "No chunk-size. It is taken for the last chunk.")
        elif self._place == DATA_END:
            self._place = SIZE
            if line.strip():
                self._screen.tell("!", "A chunk that is longer than its size.")

    def _end_head(self) -> None:
        length = self._fields.get(b"content-length", b"").split(b",")[0].strip()
        self._place = CONTENT
        if b"chunked" in self._fields.get(b"transfer-encoding", b"").lower():
            self._place = SIZE
        elif length.isdigit() and len(length) < 19:
            self._left = int(length)
            self.complete = not self._left
        else:
            self.complete = True
            if length:
                self._screen.tell("!", "Content-Length is no number. It is taken for 0.")
