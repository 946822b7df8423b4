"""What is known of a connection and of its exchanges, and who is told.

The rule of this file: data. It is written by the conversation that it belongs to; sinks read it.
All instants are of `time.monotonic()`, in seconds; 0.0 is one that has not been.
"""

from __future__ import annotations

from time import monotonic, time
from typing import TYPE_CHECKING, Protocol

from rawsgi.wire.scanner import Part, Scanner

if TYPE_CHECKING:
    from rawsgi.protocol.message import ProtocolError, Request


class Link:
    """What is known of a connection. Written by its conversation."""

    __slots__ = ("accepted", "closed_by", "ignored_bytes", "last_length", "number", "relaxed",
                 "remote", "server")  # fmt: skip

    def __init__(self, number: int, remote: tuple[str, str], server: tuple[str, str]) -> None:
        self.number = number
        """Of this process, from 1."""
        self.remote = remote
        """Address and port of the peer; empty for a Unix socket."""
        self.server = server
        """SERVER_NAME and SERVER_PORT."""
        self.accepted = monotonic()
        self.closed_by = ""
        """"client" where it ended its side or was lost before the server closed; else ""."""
        self.last_length = 0
        """Content-Length of the last request: what is typed past it is taken for the next one."""
        self.relaxed: set[str] = set()
        """The relaxations that exchanges before have needed."""
        self.ignored_bytes = 0
        """What came after the last request that was read."""


class Facts:
    """What is known of one exchange. Written by its conversation; sinks read."""

    __slots__ = (
        "aborted", "application_length", "began", "called", "code", "complete", "ended", "error",
        "first_sent", "head_bytes", "head_complete", "last_sent", "link", "number",
        "reason_to_close", "received_bytes", "remarks", "request", "response", "returned",
        "sample", "scanner", "sent_bytes", "time",
    )  # fmt: skip

    def __init__(self, link: Link, number: int, shows_secrets: bool) -> None:
        self.link = link
        self.number = number
        """Of this connection, from 1."""
        self.time = time()
        """When it began, in seconds since 1970."""
        self.began = monotonic()
        self.head_complete = 0.0
        self.complete = 0.0
        self.called = 0.0
        self.returned = 0.0
        self.first_sent = 0.0
        self.last_sent = 0.0
        self.ended = 0.0
        # The request.
        self.scanner = Scanner(shows_secrets=shows_secrets)
        self.sample = bytearray()
        """The request's first bytes, from its request-line on, secrets masked."""
        self.head_bytes = 0
        """Of the sample: where the content begins; 0: the head is not complete."""
        self.received_bytes = 0
        self.request: Request | None = None
        """As the server understood it, once the application is called."""
        self.error: ProtocolError | None = None
        """Why it was refused."""
        # The response.
        self.response: Scanner | None = None
        self.sent_bytes = 0
        self.code = 0
        self.application_length: bool | None = None
        """The application gave a Content-Length; None: nothing is known of its response."""
        self.remarks: list[str] = []
        self.reason_to_close = ""
        self.aborted = ""
        """Why the exchange did not come to its proper end."""

    @property
    def failed(self) -> bool:
        """Refused by the server, answered with a 5xx, or broken off."""
        return self.error is not None or self.code >= 500 or bool(self.aborted)


class Sink(Protocol):
    """Somebody who is told of one connection's exchanges, in order and one call at a time.

    What it raises ends nothing but its being told.
    """

    def accept(self, link: Link) -> None: ...
    def take_request_part(self, facts: Facts, part: Part) -> None: ...
    def take_response_part(self, facts: Facts, part: Part) -> None: ...

    def pause(self, facts: Facts) -> None:
        """The application is about to be called, or a piece of the response has gone out."""

    def end(self, facts: Facts) -> None:
        """Nothing more will come of this exchange."""

    def close(self, link: Link, reason: str) -> None: ...


def describe_cut(facts: Facts, link: Link, reason: str) -> str:
    """Where an exchange was when its connection was closed."""
    if not facts.scanner.head_complete:
        where = "within the head of the request"
    elif not facts.complete:
        where = "within the content of the request"
    elif not facts.sent_bytes:
        where = "before the response"
    else:
        where = "within the response"
    if link.closed_by == "client":
        return f"the client left {where}"
    return f"{reason or 'it ended too early'}, {where}"
