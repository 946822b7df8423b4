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
from time import monotonic
from typing import TYPE_CHECKING, Any

from rawsgi.logs import log
from rawsgi.wire.facts import Facts, Link, Sink, describe_cut
from rawsgi.wire.scanner import BY_CLOSE, BY_LENGTH, EMPTY_LINE, HEAD_END, Scanner

if TYPE_CHECKING:
    from rawsgi.protocol.message import ProtocolError, Request

# Of the request as it was sent, to point at what was wrong.
_SAMPLE_BYTES = 1 << 14


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
                if part[0] == HEAD_END:
                    facts.head_bytes = len(facts.sample)
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
        if facts.request is not None:
            self.link.relaxed.update(facts.request.relaxed)
        self.link.last_length = facts.scanner.length if facts.scanner.framing == BY_LENGTH else 0
        if self._pending:
            pending, self._pending = self._pending, b""
            self._read(pending, facts.ended)
