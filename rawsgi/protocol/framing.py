"""How long is the content: the one decision, and the decoders and encoders that follow from it.

The rule of this file: whether bytes belong to this message or to the next is decided here and
nowhere else. A doubt is a refusal, because two readings of one length are how requests are
smuggled (RFC 9112 section 11.2).
"""

from __future__ import annotations

from rawsgi.protocol import grammar
from rawsgi.protocol.message import CHUNKED, Limits, ProtocolError

# Anything above this many significant digits is past every limit; int() never sees more.
_LENGTH_DIGITS = 18
# A chunk-size of more digits has zeros in front, or is past every limit.
_SIZE_DIGITS = 16
_CRLF = b"\r\n"
_LENGTH = "Content-Length"
_CODING = "Transfer-Encoding"


def find_content_length(fields: dict[str, str], minor: int, limits: Limits) -> int:
    """Return the length of a request's content in bytes, or `CHUNKED`.

    The steps are numbered as in RFC 9112 section 6.3; the others concern responses.
    Raises `ProtocolError` (400, 413, 501).
    """
    coding = fields.get("HTTP_TRANSFER_ENCODING")
    length = fields.get("CONTENT_LENGTH")
    if coding is not None:
        if minor == 0:
            raise ProtocolError(
                400,
                "Transfer-Encoding in an HTTP/1.0 request",
                "RFC 9112 section 6.1",
                "HTTP/1.0 knows no transfer codings: send Content-Length instead.",
                field=_CODING,
            )
        # 3. Both at once is the mark of an attack: refused, although the RFC allows to go on.
        if length is not None:
            raise ProtocolError(
                400,
                "Transfer-Encoding and Content-Length together",
                "RFC 9112 section 6.3",
                "Send one of them, never both.",
                field=_LENGTH,
            )
        # 4. chunked must be the one and final coding.
        return _check_transfer_coding(coding)
    if length is not None:
        # 5. A list of lengths, even of equal ones, is refused as well.
        if grammar.content_length.fullmatch(length) is None:
            raise ProtocolError(
                400,
                "Content-Length is not one number",
                "RFC 9110 section 8.6",
                "Write it once, in decimal digits only: Content-Length: 13",
                field=_LENGTH,
            )
        # 6. A valid length.
        digits = length.lstrip("0")
        if len(digits) > _LENGTH_DIGITS or int(digits or "0") > limits.content_bytes:
            raise _content_too_large(limits, _LENGTH)
        return int(digits or "0")
    # 7. A request with neither has no content.
    return 0


def _check_transfer_coding(value: str) -> int:
    codings = [coding.strip(" \t").lower() for coding in value.split(",")]
    if codings == ["chunked"]:
        return CHUNKED
    names = [coding.partition(";")[0].rstrip(" \t") for coding in codings]
    if any(grammar.token.fullmatch(name) is None for name in names):
        raise ProtocolError(
            400,
            "Transfer-Encoding is not a list of codings",
            "RFC 9112 section 6.1",
            "Write: Transfer-Encoding: chunked",
            field=_CODING,
        )
    # A coding that is not understood is 501 (section 6.1). Section 6.3 wants 400 where chunked is
    # not the last; of one that is not there at all, 501 says more (docs/decisions).
    if "chunked" in names[:-1]:
        raise ProtocolError(
            400,
            "chunked is not the last transfer coding, or stands there twice",
            "RFC 9112 section 6.3",
            "Write: Transfer-Encoding: chunked",
            field=_CODING,
        )
    if names[-1] == "chunked" and codings[-1] != "chunked":
        raise ProtocolError(
            400,
            "the chunked coding has no parameters",
            "RFC 9112 section 7.1",
            "Write: Transfer-Encoding: chunked",
            field=_CODING,
        )
    raise ProtocolError(
        501,
        "the only transfer coding understood here is chunked",
        "RFC 9112 section 6.1",
        "Send the content uncompressed, or name its compression in Content-Encoding.",
        field=_CODING,
    )


def _content_too_large(limits: Limits, field: str = "") -> ProtocolError:
    return ProtocolError(
        413,
        f"the content is longer than {limits.content_bytes} bytes",
        "RFC 9110 section 15.5.14",
        "The server's content limit (--content-limit) decides.",
        field=field,
    )


class LengthDecoder:
    """Content of a known length: counts down."""

    __slots__ = ("remaining",)
    relaxed: tuple[str, ...] = ()
    """The relaxations that were needed."""

    def __init__(self, length: int) -> None:
        self.remaining = length

    def decode(self, buffer: bytearray) -> bytes:
        """Take the content's bytes off the front of `buffer`."""
        piece = bytes(buffer[: self.remaining])
        del buffer[: len(piece)]
        self.remaining -= len(piece)
        return piece

    @property
    def finished(self) -> bool:
        return not self.remaining


# Where a chunked decoder stands.
_SIZE, _DATA, _DATA_END, _TRAILER, _FINISHED = range(5)


class ChunkedDecoder:
    """Content in the chunked transfer coding (RFC 9112 section 7.1).

    Chunk extensions are checked and ignored, the trailer section is checked and discarded
    (section 7.1.2 allows it; merging it into the header section would let a client add fields
    after everybody looked).
    """

    __slots__ = ("_bare_lf", "_consumed", "_extension_bytes", "_fields", "_limits", "_remaining",
                 "_scanned", "_state", "_total", "_trailer_bytes", "relaxed")  # fmt: skip

    def __init__(self, limits: Limits, bare_lf: bool = False) -> None:
        self._limits = limits
        self._bare_lf = bare_lf
        self.relaxed: tuple[str, ...] = ()
        """The relaxations that were needed."""
        self._state = _SIZE
        self._consumed = 0  # bytes of the content as it is sent, before the buffer
        self._remaining = 0  # of the chunk
        self._total = 0  # of all chunks that were announced
        self._scanned = 0  # bytes of a line that is not complete: no line feed is among them
        self._extension_bytes = 0
        self._trailer_bytes = 0
        self._fields = 0

    @property
    def finished(self) -> bool:
        return self._state == _FINISHED

    def decode(self, buffer: bytearray) -> bytes:
        """Take what belongs to the content off the front of `buffer`; return it decoded.

        Raises `ProtocolError` (400, 413, 431), which tells the byte of the content.
        """
        pieces = []
        at = 0  # consumed; the buffer is cut once, at the end
        find_size = grammar.chunk_line.match
        try:
            while self._state != _FINISHED:
                if self._state == _DATA:
                    piece = bytes(buffer[at : at + self._remaining])
                    if not piece:
                        break
                    pieces.append(piece)
                    at += len(piece)
                    self._remaining -= len(piece)
                    if self._remaining:
                        break
                    self._state = _DATA_END
                    # The short ways: a line lies there whole and clean.
                    if buffer.startswith(_CRLF, at):
                        at += 2
                        self._state = _SIZE
                elif (
                    self._state == _SIZE
                    and not self._scanned
                    and (match := find_size(buffer, at)) is not None
                    and buffer.startswith(_CRLF, match.end())
                ):
                    self._begin_chunk(*match.groups())
                    at = match.end() + 2
                else:
                    end = self._find_line_end(buffer, at)
                    if end < 0:
                        break
                    self._take_line(bytes(buffer[at:end]).removesuffix(b"\r"))
                    at = end + 1
        except ProtocolError as error:
            # `at` is where the line begins; the error knows the byte within the line.
            error.content_offset = self._consumed + at + (error.offset or 0)
            error.offset = None
            raise
        finally:
            del buffer[:at]
            self._consumed += at
        return b"".join(pieces)

    def _find_line_end(self, buffer: bytearray, at: int) -> int:
        """Return the index of the line feed that ends the line at `at`; -1: not there yet."""
        end = buffer.find(b"\n", at + self._scanned)
        length = (len(buffer) if end < 0 else end) - at
        self._check_line_length(length, buffer, at)
        if end < 0:
            self._scanned = length
            return -1
        self._scanned = 0
        if length == 0 or buffer[end - 1] != 0x0D:
            if not self._bare_lf:
                raise ProtocolError(
                    400,
                    "a line of the chunk framing ends in a bare line feed",
                    "RFC 9112 section 2.2",
                    "End each line with a carriage return and a line feed.",
                    end - at,
                )
            self.relaxed = ("bare-lf",)
        return end

    def _check_line_length(self, length: int, buffer: bytearray, at: int) -> None:
        """`length` bytes of a line are there, its line feed not counted."""
        if self._state == _DATA_END:
            # Only CRLF may stand here; whatever else does need not be waited for.
            if length > 1 or (length == 1 and buffer[at] != 0x0D):
                raise ProtocolError(
                    400,
                    "a chunk is longer than its chunk-size",
                    "RFC 9112 section 7.1",
                    "After the chunk's data comes CRLF, then the next chunk-size. "
                    "The chunk-size counts the line feed that you typed, too.",
                    int(buffer[at] == 0x0D),
                )
        elif self._state == _SIZE:
            if length > self._limits.chunk_line_bytes + 1:
                raise self._chunk_line_too_long()
        elif self._trailer_bytes + length + 1 > self._limits.head_bytes:
            raise ProtocolError(
                431,
                f"the trailer section is longer than {self._limits.head_bytes} bytes",
                "RFC 6585 section 5",
                offset=self._limits.head_bytes - self._trailer_bytes,
            )

    def _take_line(self, line: bytes) -> None:
        if self._state == _DATA_END:
            self._state = _SIZE
        elif self._state == _SIZE:
            match = grammar.chunk_line.fullmatch(line)
            if match is None:
                raise ProtocolError(
                    400,
                    "a chunk does not begin with its size",
                    "RFC 9112 section 7.1",
                    "Write the size in hexadecimal digits on a line of its own, such as: d",
                )
            self._begin_chunk(*match.groups())
        elif line:
            self._trailer_bytes += len(line) + 2
            self._fields += 1
            if grammar.field_line.fullmatch(line) is None:
                raise ProtocolError(
                    400, "a line of the trailer section is no field line", "RFC 9112 section 7.1.2"
                )
            if self._fields > self._limits.fields:
                raise ProtocolError(
                    431,
                    f"the trailer section has more than {self._limits.fields} field lines",
                    "RFC 6585 section 5",
                )
        else:
            self._state = _FINISHED

    def _begin_chunk(self, digits: bytes, extensions: bytes) -> None:
        size = self._remaining = int(digits, 16)
        self._total += size
        if extensions or len(digits) > _SIZE_DIGITS:
            self._check_extensions(len(digits), len(extensions))
        if self._total > self._limits.content_bytes:
            raise _content_too_large(self._limits)
        self._state = _DATA if size else _TRAILER

    def _check_extensions(self, digits: int, extension_bytes: int) -> None:
        """RFC 9112 section 7.1.1: what carries nothing must not cost without limit. Zeros in
        front of a size are no better than extensions."""
        limits = self._limits
        if digits + extension_bytes > limits.chunk_line_bytes:
            raise self._chunk_line_too_long()
        self._extension_bytes += extension_bytes + max(digits - _SIZE_DIGITS, 0)
        if self._extension_bytes > limits.head_bytes + self._total:
            raise ProtocolError(
                400, "there are more chunk extensions than content", "RFC 9112 section 7.1.1"
            )

    def _chunk_line_too_long(self) -> ProtocolError:
        return ProtocolError(
            400,
            f"a chunk's line is longer than {self._limits.chunk_line_bytes} bytes",
            "RFC 9112 section 7.1.1",
            offset=self._limits.chunk_line_bytes,
        )


# Chunks of a response (RFC 9112 section 7.1).
CHUNK = b"%x\r\n%b\r\n"
"""To be formatted with the length of a block, which is not 0, and the block."""
CHUNK_START = b"%x\r\n"
"""To be formatted with the length, where the block stands beside it."""
CHUNK_END = b"\r\n"
LAST_CHUNK = b"0\r\n\r\n"
