"""What happens on one connection, told as exchanges: the facts and the parts of each.

    received, sent, called, refused ... --> Conversation --> sinks (Transcript, Recorder)

The rule of this file: the order of things is decided here. Bytes of a next request that came
early wait until the response before them has ended; sinks see one exchange after the other.
Events come from the thread that leads the loop and from the one that runs the request: a lock
orders them. All instants are of `time.monotonic()`, in seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Protocol

from rawsgi.logs import log
from rawsgi.wire.scanner import BY_CLOSE, BY_LENGTH, EMPTY_LINE, Part, Scanner

if TYPE_CHECKING:
    from rawsgi.protocol.message import ProtocolError, Request

# Of the request as it was sent, to point at what was wrong.
_SAMPLE_BYTES = 1 << 14


class Link:
    """What is known of a connection. Written by its conversation."""

    __slots__ = ("accepted", "closed_by", "ignored_bytes", "last_length", "number",
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
        self.ignored_bytes = 0
        """What came after the last request that was read."""


class Facts:
    """What is known of one exchange. Written by its conversation; sinks read."""

    __slots__ = (
        "aborted", "application_length", "began", "called", "code", "complete", "ended", "error",
        "first_sent", "head_complete", "last_sent", "link", "number", "reason_to_close",
        "received_bytes", "remarks", "request", "response", "returned", "sample", "scanner",
        "sent_bytes", "time",
    )  # fmt: skip

    def __init__(self, link: Link, number: int, shows_secrets: bool) -> None:
        self.link = link
        self.number = number
        """Of this connection, from 1."""
        self.time = time()
        """When it began, in seconds since 1970."""
        # Instants; 0.0: has not been.
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


class Conversation:
    """One connection. Any thread may call."""

    def __init__(self, link: Link, sinks: Sequence[Sink], shows_secrets: bool = False) -> None:
        self.link = link
        self._sinks = list(sinks)
        self._shows_secrets = shows_secrets
        self._lock = threading.Lock()
        self._facts: Facts | None = None
        self._count = 0
        self._pending = b""
        """Of the next request, while the response is not over."""
        self._over = False
        """No further request will be read."""
        self._closed = False
        self._tell("accept", link)

    # -- Bytes -----------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """The peer sent `data`; b"": it ended its side."""
        now = monotonic()
        with self._lock:
            if not data:
                self.link.closed_by = self.link.closed_by or "client"
            elif self._over:
                self.link.ignored_bytes += len(data)
            elif self._facts is not None and self._facts.scanner.finished:
                self._pending += data
            else:
                self._read(data, now)

    def reset(self) -> None:
        """The socket failed: the peer is gone."""
        with self._lock:
            self.link.closed_by = "client"

    def _read(self, data: bytes, now: float) -> None:
        facts = self._facts or self._begin()
        scanner = facts.scanner
        if not scanner.begun:
            facts.began = now
        parts = scanner.feed(data)
        self._pending, scanner.rest = scanner.rest, b""
        for part in parts:
            facts.received_bytes += len(part[1])
            if part[0] != EMPTY_LINE and len(facts.sample) < _SAMPLE_BYTES:
                facts.sample += part[1][:_SAMPLE_BYTES]
            self._tell("take_request_part", facts, part)
        if scanner.head_complete and not facts.head_complete:
            facts.head_complete = now
        if scanner.finished:
            facts.complete = now

    def sent(self, data: bytes) -> None:
        """The socket took `data`."""
        now = monotonic()
        with self._lock:
            facts = self._facts or self._begin()
            if facts.response is None:
                facts.response = Scanner(facts.scanner.method, self._shows_secrets)
            response = facts.response
            for part in response.feed(data):
                self._tell("take_response_part", facts, part)
            facts.sent_bytes += len(data)
            facts.code = response.code or facts.code
            if response.head_complete:
                facts.first_sent = facts.first_sent or now
            facts.last_sent = now
            self._tell("pause", facts)

    # -- Decisions -------------------------------------------------------------------------------

    def call(self, request: Request) -> None:
        """The application is called for `request` now, in this thread."""
        now = monotonic()
        with self._lock:
            facts = self._facts
            if facts is not None:
                facts.called = now
                facts.request = request
                self._tell("pause", facts)

    def answer(self, fields: Sequence[tuple[str, str]]) -> None:
        """The application gave the head of its response."""
        with self._lock:
            if self._facts is not None:
                names = [str(field[0]).lower() for field in fields if field]
                self._facts.application_length = "content-length" in names

    def give_back(self, request: Request) -> None:
        """The application has returned from `request`, and its iterable was consumed."""
        now = monotonic()
        with self._lock:
            facts = self._facts
            if facts is not None and facts.request is request:
                facts.returned = now

    def abort(self, reason: str) -> None:
        """The response was broken off."""
        with self._lock:
            if self._facts is not None:
                self._facts.aborted = reason

    def refuse(self, error: ProtocolError) -> None:
        """The server answers for the application; no further request is read."""
        with self._lock:
            facts = self._facts or self._begin()
            for part in facts.scanner.drain():
                facts.received_bytes += len(part[1])
                facts.sample += part[1][:_SAMPLE_BYTES]
                self._tell("take_request_part", facts, part)
            facts.error = error
            facts.code = error.status
            facts.reason_to_close = "the request was refused"
            self._stop_reading()

    def finish(self, reason_to_close: str, remarks: Sequence[str], flushed: bool) -> None:
        """The response was handed over. `flushed`: nothing of it waits in the server."""
        with self._lock:
            facts = self._facts
            if facts is None:
                return
            facts.reason_to_close = reason_to_close
            facts.remarks += remarks
            if reason_to_close:
                self._stop_reading()
            if flushed:
                self._end()

    def flush(self) -> None:
        """The rest of the response was taken by the socket."""
        with self._lock:
            self._end()

    def shut(self) -> None:
        """The server has ended its side: a refusal is complete with that."""
        with self._lock:
            if self._facts is not None and self._facts.error is not None:
                self._end()

    def close(self, reason: str) -> None:
        """The connection is closed. `reason`: why, where no exchange says so. Once."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._stop_reading()
            self._end(reason)
            self._tell("close", self.link, reason)

    # -- With the lock ---------------------------------------------------------------------------

    def _tell(self, event: str, *arguments: Any) -> None:
        for sink in self._sinks[:]:
            try:
                getattr(sink, event)(*arguments)
            except Exception:  # whoever looks on must not disturb
                self._sinks.remove(sink)
                log.exception("%s gave up on a connection", type(sink).__name__)

    def _begin(self) -> Facts:
        self._count += 1
        self._facts = Facts(self.link, self._count, self._shows_secrets)
        return self._facts

    def _stop_reading(self) -> None:
        self._over = True
        self.link.ignored_bytes += len(self._pending)
        self._pending = b""

    def _end(self, reason: str = "") -> None:
        facts, self._facts = self._facts, None
        if facts is None:
            return
        if not facts.scanner.begun and not facts.code:
            self._count -= 1  # nothing but empty lines
            return
        facts.ended = monotonic()
        response = facts.response
        if facts.error is None and not facts.aborted:
            by_close = response is not None and response.framing == BY_CLOSE and not reason
            if response is None or not (response.finished or by_close):
                facts.aborted = describe_cut(facts, self.link, reason)
        if response is not None:
            for part in response.drain():
                self._tell("take_response_part", facts, part)
        self._tell("end", facts)
        self.link.last_length = facts.scanner.length if facts.scanner.framing == BY_LENGTH else 0
        if self._pending:
            pending, self._pending = self._pending, b""
            self._read(pending, facts.ended)


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
