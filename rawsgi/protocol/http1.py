"""One HTTP/1.1 connection as seen by the server: its states, its messages, its reuse.

The rule of this file: all state of the conversation lives in `HTTP1`, and each method is legal
in the states that its docstring names. Bytes in, bytes out; whoever owns the connection at that
moment calls, one thread at a time.

    HEAD --receive--> CONTENT --receive_content--> COMPLETE --finish--> HEAD
      |                  ^                             ^          |
      +------------------+--- no content --------------+          +--> CLOSED: not reusable
    any --ProtocolError, receive_eof--> CLOSED, after `refuse`

A second protocol is a second class with these methods.
"""

from __future__ import annotations

from rawsgi.protocol.framing import (
    CHUNK,
    CHUNK_END,
    CHUNK_START,
    LAST_CHUNK,
    ChunkedDecoder,
    LengthDecoder,
)
from rawsgi.protocol.head import HeadParser, HeadReader
from rawsgi.protocol.message import CHUNKED, ProtocolError, Request
from rawsgi.protocol.response import Fields, Head, HeadEncoder

# States.
HEAD, CONTENT, COMPLETE, CLOSED = range(4)

# How the end of a response's content is told (RFC 9112 section 6.3).
NO_CONTENT, BY_LENGTH, BY_CHUNKS, BY_CLOSE = range(4)

# RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5: whatever the application gives.
WITHOUT_CONTENT = frozenset((204, 205, 304))

# By the minor version: the client does not wish to keep the connection.
_CLIENT_CLOSES = "HTTP/1.0 without keep-alive", "the client asked for it"


class HTTP1:
    """The server's end of one connection."""

    __slots__ = (
        "_decoder",
        "_encoder",
        "_framing",
        "_parser",
        "_reader",
        "_remaining",
        "_reuse",
        "buffer",
        "code",
        "reason_to_close",
        "remarks",
        "request",
        "sent_bytes",
        "shutting_down",
        "state",
    )

    def __init__(self, parser: HeadParser, encoder: HeadEncoder) -> None:
        # For the life of the connection.
        self._parser = parser
        self._encoder = encoder
        self.buffer: bytearray | None = None
        """Received, not yet understood. After a request: bytes of the next one are here already,
        which the socket will not announce."""
        self.state = HEAD
        self.shutting_down = False
        """Set by `shutdown`: the response under way is the connection's last."""
        # For one request.
        self._reader: HeadReader | None = None
        self._decoder: LengthDecoder | ChunkedDecoder | None = None
        self.request: Request | None = None
        # For one response.
        self._framing = NO_CONTENT
        self._remaining = 0
        self._reuse = False
        self.code = 0
        """Status code of the response."""
        self.sent_bytes = 0
        """Bytes of its content that were given out, before any framing."""
        self.remarks: list[str] = []
        """What was wrong with the response and repaired on the way, for the error log."""
        self.reason_to_close = ""
        """Why the connection ends with this response, for people; "" if it does not."""

    # -- Receiving ---------------------------------------------------------------------------

    def receive(self, data: bytes) -> Request | None:
        """HEAD: take bytes; return a request as soon as its head is there.

        The state then is CONTENT or COMPLETE. With b"" it goes on in bytes that came earlier.
        Raises `ProtocolError`.
        """
        if self._reader is not None:
            return self._read_on(data)
        buffer = self.buffer
        parser = self._parser
        if buffer:
            buffer += data
            end = -1
            if "bare-lf" not in parser.allow:  # where it is, the next CRLF can be far away
                end = buffer.find(b"\r\n\r\n", 0, parser.limits.head_bytes)
            data = bytes(buffer[: end + 4]) if end >= 0 else b""
        else:
            end = data.find(b"\r\n\r\n", 0, parser.limits.head_bytes)
        if end >= 0:
            # The short way: the head lies there whole. What it does not accept is read again.
            start_end = data.find(b"\r\n")
            raw = data[:start_end]
            start = parser.start_lines.get(raw) or parser.accept_start_line(raw)
            if start is not None:
                method, target, path, query, version, minor, authority = start
                raw = data[start_end + 2 : end]
                section = parser.sections[minor].get(raw) or parser.accept_section(raw, minor)
                if section is not None:
                    fields, content_length, keep_alive, expects_continue = section
                    if authority is not None:
                        fields = {**fields, "HTTP_HOST": authority}
                    request = Request(
                        method, target, path, query, version, minor,
                        fields, content_length, keep_alive, expects_continue,
                    )  # fmt: skip
                    if buffer:
                        del buffer[: end + 4]
                    elif len(data) > end + 4:
                        self.buffer = bytearray(data[end + 4 :])
                    if content_length:
                        self._expect_content(request)
                    else:
                        self.request = request
                        self.state = COMPLETE
                    return request
        if buffer:
            data = b""  # it is in the buffer
        elif not data:
            return None
        self._reader = HeadReader(parser)
        return self._read_on(data)

    def _read_on(self, data: bytes) -> Request | None:
        """The long way: a head in pieces, or one that the short way does not accept."""
        assert self._reader is not None
        if self.buffer is None:
            self.buffer = bytearray()
        self.buffer += data
        request = self._reader.read(self.buffer)
        if request is not None:
            self._reader = None
            self._expect_content(request)
        return request

    def _expect_content(self, request: Request) -> None:
        self.request = request
        length = request.content_length
        if not length:
            self.state = COMPLETE
            return
        self.state = CONTENT
        if length == CHUNKED:
            bare_lf = "bare-lf" in self._parser.allow
            self._decoder = ChunkedDecoder(self._parser.limits, bare_lf)
        else:
            self._decoder = LengthDecoder(length)

    def receive_content(self, data: bytes) -> bytes:
        """CONTENT: take bytes; return the content in them, decoded.

        The state is COMPLETE after the last of it. Raises `ProtocolError`.
        """
        decoder = self._decoder
        assert decoder is not None
        if self.buffer is None:
            self.buffer = bytearray()
        if not self.buffer and type(decoder) is LengthDecoder and len(data) < decoder.remaining:
            decoder.remaining -= len(data)  # the bulk of an upload: no copy
            return data
        self.buffer += data
        content = decoder.decode(self.buffer)
        if decoder.finished:
            if decoder.relaxed and self.request is not None:
                known = self.request.relaxed
                self.request.relaxed += tuple(n for n in decoder.relaxed if n not in known)
            self._decoder = None
            self.state = COMPLETE
        return content

    def receive_eof(self) -> None:
        """HEAD, CONTENT: the peer will send nothing more.

        Raises `ProtocolError` (400) if that cuts a message off; the state is CLOSED.
        """
        state, self.state = self.state, CLOSED
        if state == CONTENT or self.buffer:
            part = "content" if state == CONTENT else "head"
            raise ProtocolError(
                400,
                f"the connection ended within the {part} of a request",
                "RFC 9112 section 8",
                "Send the whole request before closing.",
            )

    @property
    def begun(self) -> bool:
        """HEAD: part of a head has come. Empty lines before it are none of it."""
        return self._reader is not None and bool(self.buffer)

    # -- Responding --------------------------------------------------------------------------

    def encode_head(self, status: str, fields: Fields) -> Head:
        """Check what the application gave, for `send_head`. Raises `ResponseError`."""
        return self._encoder.encode(status, fields)

    def send_head(
        self, head: Head, length: int | None = None, content: bytes | None = None, ends: bool = True
    ) -> bytes:
        """COMPLETE, or CONTENT while the content is streamed: return the response's head.

        `length` is the content's length in bytes, if it is known without the application's
        word. `content` follows the head; if it is the whole (`ends`), the response is ended.
        """
        request = self.request
        assert request is not None
        code, lines, declared, closes, dropped = head
        self.code = code
        if dropped:
            self._remark(f"{', '.join(dropped)} left out: it is the server's to say")
        if content is not None and ends and (content or request.method != "HEAD"):
            length = len(content)
        known = length if declared is None else declared
        # RFC 9112 section 6.3, steps 1 and 8
        if request.method == "HEAD" or code in WITHOUT_CONTENT:
            framing = NO_CONTENT
            lines.append(tell_absent_length(code, declared, length))
        elif known is not None:
            framing = BY_LENGTH
            self._remaining = known
            lines.append(b"Content-Length: %d\r\n" % known)
        elif request.minor:
            framing = BY_CHUNKS
            lines.append(b"Transfer-Encoding: chunked\r\n")
        else:
            framing = BY_CLOSE
        self._framing = framing
        # The one reuse decision (RFC 9112 section 9.3): the first that speaks against it.
        self.reason_to_close = (
            _CLIENT_CLOSES[request.minor] if not request.keep_alive
            else "the application asked for it" if closes
            else "the end of the content is told by closing (HTTP/1.0, no length)"
            if framing == BY_CLOSE
            else "the server is stopping" if self.shutting_down
            else "content of the request is unread" if self.state != COMPLETE
            else ""
        )  # fmt: skip
        self._reuse = not self.reason_to_close
        if not self._reuse:
            lines.append(b"Connection: close\r\n")
        elif not request.minor:
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self.sent_bytes = 0
        if content is not None and framing != NO_CONTENT:
            if framing == BY_LENGTH and self._remaining == len(content):
                self.sent_bytes = self._remaining
                self._remaining = 0
                lines.append(content)
            else:
                lines.append(self.send_data(content))
                lines.append(self.send_end() if ends else b"")
        return b"".join(lines)

    def send_data(self, block: bytes) -> bytes:
        """After `send_head`: return `block` framed; b"" where there is no content to send.

        Content past the Content-Length is cut off and remarked on.
        """
        framing = self._framing
        if framing == NO_CONTENT:
            return b""
        if framing == BY_LENGTH:
            if len(block) > self._remaining:
                block = block[: self._remaining]
                self._remark("content past the Content-Length was cut off")
            self._remaining -= len(block)
        self.sent_bytes += len(block)
        if framing == BY_CHUNKS and block:
            return CHUNK % (len(block), block)
        return block

    def frame_data(self, block: bytes) -> tuple[bytes, ...]:
        """Like `send_data`, for a large block: what frames it stands beside it, uncopied."""
        if self._framing != BY_CHUNKS:
            data = self.send_data(block)
            return (data,) if data else ()
        self.sent_bytes += len(block)
        return CHUNK_START % len(block), block, CHUNK_END

    def claim_data(self, count: int) -> int:
        """After `send_head`: `count` bytes are to go out unframed by another way (sendfile).

        Returns how many may; -1 if they must be framed in chunks.
        """
        if self._framing == BY_CHUNKS:
            return -1
        if self._framing == NO_CONTENT:
            return 0
        if self._framing == BY_LENGTH:
            count = min(count, self._remaining)  # PEP 3333 lets a file be longer
            self._remaining -= count
        self.sent_bytes += count
        return count

    def send_end(self) -> bytes:
        """After all data: return what ends the response."""
        if self._framing == BY_CHUNKS:
            return LAST_CHUNK
        if self._framing == BY_LENGTH and self._remaining:
            self._remark("the content was shorter than its Content-Length: the connection closes")
            self.abandon("the content was shorter than its Content-Length")
        return b""

    @property
    def wants_content(self) -> bool:
        """After `send_head`: content of the response is sent at all, and more of it."""
        if self._framing == BY_LENGTH:
            return self._remaining > 0
        return self._framing != NO_CONTENT

    def abandon(self, reason: str) -> None:
        """The response cannot be ended properly: closing is how the client notices."""
        self._reuse = False
        self.reason_to_close = reason

    def _remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    @property
    def content_unread(self) -> bool:
        """Not all of the request's content has been received."""
        return self._decoder is not None

    @property
    def reusable(self) -> bool:
        """After the response: the connection can carry another request."""
        return self._reuse

    def finish(self) -> bool:
        """After the response: make ready for the next request; False and CLOSED: close."""
        if self._reuse:  # the client was told so, also if the server is stopping since
            self._reuse = False  # until the next response says so
            self.state = HEAD
            self.request = None
            if not self.buffer:
                self.buffer = None
            return True
        self.state = CLOSED
        return False

    def refuse(self, error: ProtocolError) -> bytes:
        """Any state but CLOSED by `refuse`: return the response to a refused request.

        The state is CLOSED: nothing that follows on the connection is read as a request.
        """
        if self.request is not None:
            is_head = self.request.method == "HEAD"
        else:
            # A head that is not understood lies in the buffer from its first byte.
            is_head = self.buffer is not None and self.buffer.startswith(b"HEAD ")
        self.state = CLOSED
        self.buffer = self._reader = self._decoder = None
        self.code = error.status
        self.reason_to_close = str(error)
        self._reuse = False
        return self._encoder.encode_refusal(error, with_content=not is_head)

    def shutdown(self) -> None:
        """Any state: the next response is the connection's last (RFC 9112 section 9.6)."""
        self.shutting_down = True


def tell_absent_length(code: int, declared: int | None, length: int | None) -> bytes:
    """Return the Content-Length line of a response without content: of the content that GET
    would give (RFC 9110 section 8.6), or none."""
    if code == 204:
        return b""
    if code == 205:
        return b"Content-Length: 0\r\n"
    if code == 304:
        # A framework that counted what it gives, which is nothing, does not know the length.
        declared = declared or None
    elif declared is None:
        declared = length
    return b"" if declared is None else b"Content-Length: %d\r\n" % declared
