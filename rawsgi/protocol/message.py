"""The nouns that the layers share: a request, a refusal, the limits.

The rule of this file: data, no behaviour beyond what an exception or a dataclass brings.
"""

from __future__ import annotations

from dataclasses import dataclass

CHUNKED = -1
"""`Request.content_length` of content in the chunked transfer coding (RFC 9112 section 7.1)."""


class ProtocolError(Exception):
    """The peer broke the protocol: answer `status`, then close the connection.

    `reason` says in one clause what was wrong, `source` which rule says so (RFC section), and
    `hint` in sentences how to write it right. None of the texts carries bytes from the wire
    unescaped.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        source: str,
        hint: str = "",
        offset: int | None = None,
        field: str = "",
    ) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.source = source
        self.hint = hint
        self.offset = offset
        """The byte of the head, if it is known; the first of the request-line is 0."""
        self.content_offset: int | None = None
        """The byte of the content with its chunk framing, if that is where the mistake is."""
        self.field = field
        """Name of the field at fault: whoever has the head at hand finds its byte."""

    @property
    def place(self) -> str:
        """Where the mistake is, such as "byte 24 of the request"; "" if that is not known."""
        if self.content_offset is not None:
            return f"byte {self.content_offset} of the content"
        return "" if self.offset is None else f"byte {self.offset} of the request"

    def __str__(self) -> str:
        at = f" at {self.place}" if self.place else ""
        return f"{self.status}: {self.reason}{at} ({self.source})"


class ResponseError(Exception):
    """The application gave a response head that cannot go on the wire: its fault, a 500.

    One sentence for the error log; no byte of the head was sent.
    """


class ClientDisconnected(Exception):
    """The response can go nowhere any more: the client left, or was answered with a 504."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a peer may send before it is refused. Sizes in bytes."""

    request_line_bytes: int = 8190
    """Length of the request-line without its CRLF; past it 414."""
    fields: int = 100
    """Number of field lines in a header or trailer section; past it 431."""
    head_bytes: int = 65536
    """The whole head with its empty line, and the trailer section likewise; past it 431."""
    content_bytes: int = 1 << 30
    """The content, decoded; past it 413."""
    chunk_line_bytes: int = 4096
    """One chunk-size with its extensions; past it 400. All extensions of a request together may
    take `head_bytes` and as much again as there is content."""
    blank_lines: int = 4
    """Empty lines before a request-line (RFC 9112 section 2.2 asks for at least one)."""


RELAXATIONS = {
    "bare-lf": "a line feed without a carriage return ends a line of a head or of chunk framing",
    "missing-host": "an HTTP/1.1 request without Host is served",
    "obs-fold": "a folded field line is unfolded into one",
    "underscores": "field names with an underscore reach the application",
}
"""What `Settings.allow` may name, and what each means. All are off unless named."""


class Request:
    """One request whose head was accepted. All text is latin-1: a character is a byte."""

    __slots__ = (
        "content_length",
        "expects_continue",
        "fields",
        "keep_alive",
        "method",
        "minor",
        "path",
        "query",
        "relaxed",
        "target",
        "version",
    )

    def __init__(
        self,
        method: str,
        target: str,
        path: str,
        query: str,
        version: str,
        minor: int,
        fields: dict[str, str],
        content_length: int,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self.method = method
        self.target = target
        """request-target as it was sent (RFC 9112 section 3.2)."""
        self.path = path
        """The path, still percent-encoded; "" for asterisk-form."""
        self.query = query
        """What follows the first "?"; "" without one."""
        self.version = version
        """HTTP-version as it was sent, such as "HTTP/1.1"."""
        self.minor = minor
        """0 or 1: the version that the connection is held to."""
        self.fields = fields
        """CGI variable name (RFC 3875 section 4.1.18) to value; repeated lines are joined.
        Shared between requests: never to be changed."""
        self.content_length = content_length
        """Bytes of content; 0 without any; `CHUNKED`."""
        self.keep_alive = keep_alive
        """The peer wishes to keep the connection (RFC 9112 section 9.3)."""
        self.expects_continue = expects_continue
        """100 (Continue) is due before the content comes (RFC 9110 section 10.1.1)."""
        self.relaxed: tuple[str, ...] = ()
        """The relaxations that were needed to accept this request: those of the content are
        here once it is complete."""
