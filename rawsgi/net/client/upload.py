"""Content that is handed over while it arrives (`--stream-request`): the loop's side of an inbox.

The rule of this file: the thread that leads reads the socket of a RUNNING connection, here and
nowhere else, and only while the inbox has room. Of the protocol it touches what receives; the
thread that runs the request touches what sends. `Inbox` alone is shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rawsgi.net.client.buffers import LOW_WATERMARK_BYTES
from rawsgi.net.client.inbox import Inbox
from rawsgi.protocol.http1 import COMPLETE
from rawsgi.protocol.message import ClientDisconnected, ProtocolError
from rawsgi.protocol.response import CONTINUE

if TYPE_CHECKING:
    from rawsgi.net.client.connection import Connection
    from rawsgi.net.client.exchange import Exchange

_READ = 1
_RECEIVE_BYTES = 1 << 16
# Reads of one upload before other connections have their turn.
_READS_IN_A_ROW = 4
# A parked thread rests so long for each that is parked, unless a good part has come: it is not
# worth waking hundreds of threads for each of their bytes.
_REST_S = 0.003


class Upload:
    """The content of one request, from its first byte to its last. The leader calls, except
    where said otherwise."""

    __slots__ = ("_ended", "_exchange", "_paused_at", "_rests_until", "_started", "connection",
                 "deadline", "inbox", "late_at", "mask", "scheduled")  # fmt: skip

    def __init__(self, connection: Connection, waits: bool) -> None:
        """`waits`: the client sends its content only after a 100 (Continue)."""
        self.connection = connection
        self._exchange: Exchange
        self._ended = False
        invite = self._invite if waits else _do_nothing
        self.inbox = Inbox(invite, self._on_room, self._on_wait, self._on_starved)
        self.mask = 0
        """READ while the socket is to be read; what `Connection.arm` adds to its own."""
        self._started = 0.0
        """When the client began to send, moved on by the time that it had to wait for us."""
        self._paused_at = 0.0
        self.late_at = 0.0
        """When the client is too slow."""
        self._rests_until = 0.0
        """Until then the thread is not readmitted for little."""
        # For the clock.
        self.deadline = 0.0
        self.scheduled: float | None = None

    # -- The thread that runs the request --------------------------------------------------------

    def _invite(self) -> None:
        """The application wants content that the client holds back (RFC 9110 section 10.1.1)."""
        connection = self.connection
        if not self._exchange.head_sent:
            try:
                connection.socket.send(CONTINUE)
            except OSError:
                connection.loop.post(Upload._lose, self)  # it would wait for the 100 for ever
                return
        connection.loop.post(Upload._begin, self)

    def _on_room(self) -> None:
        self.connection.loop.post(Upload._resume, self)

    def _on_wait(self) -> bool:
        crew = self.connection.loop.crew
        crew.parking.give_way(self._exchange)
        return not crew.is_pressed

    def _on_starved(self) -> None:
        self.connection.loop.crew.parking.announce(self._exchange)

    # -- The leader ------------------------------------------------------------------------------

    def start(self, exchange: Exchange, content: bytes, waits: bool) -> None:
        """Begin to read, unless the client is to be asked first. `content` came with the head."""
        self._exchange = exchange
        if content:
            self.inbox.put(content)
        if content or not waits:
            self._begin()

    def _lose(self) -> None:
        """The way to the client is broken."""
        self.connection.broken = True
        self.fail(ClientDisconnected())

    def _begin(self) -> None:
        self._started = self._paused_at = self.connection.loop.now
        self._resume()

    def _resume(self) -> None:
        if not self._ended:
            self._started += self.connection.loop.now - self._paused_at
            self.mask = _READ
            self._await()
            self.connection.arm(self.connection.mask)

    def _stop(self) -> None:
        """Read no more, for now or for good."""
        self.mask = 0
        self._paused_at = self.connection.loop.now
        self.connection.loop.clock.forget(self)
        self.connection.stop_reading()

    def receive(self) -> None:
        """The socket has content, or an end."""
        connection = self.connection
        protocol = connection.protocol
        inbox = self.inbox
        for _ in range(_READS_IN_A_ROW):
            try:
                data = connection.socket.recv(_RECEIVE_BYTES)
                if not data:
                    protocol.receive_eof()
                content = protocol.receive_content(data)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._lose()
                return
            except ProtocolError as error:
                self.fail(error)
                return
            has_room = inbox.put(content) if content else True
            if protocol.state == COMPLETE:
                self._ended = True
                inbox.finish()
                self._feed()
                self._stop()
                return
            if not has_room:
                self._feed()
                self._stop()
                return
            if len(data) < _RECEIVE_BYTES:
                break  # that was all, most likely
        self._feed()
        self._await()

    def _feed(self) -> None:
        """Let a thread that waits for content go on, if there is enough for it."""
        inbox = self.inbox
        if inbox.starved:
            loop = self.connection.loop
            much = self._ended or inbox.bytes_waiting >= LOW_WATERMARK_BYTES
            if much or (inbox.bytes_waiting and loop.now >= self._rests_until):
                self._rests_until = loop.now + _REST_S * loop.crew.parking.count
                loop.crew.parking.readmit(self._exchange)

    def _await(self) -> None:
        """Content may pause for a while, and must come at a rate on average."""
        loop = self.connection.loop
        settings = loop.settings
        deadline = loop.now + settings.content_timeout_s
        if settings.content_rate_bytes:
            grace = self._started + settings.content_timeout_s
            rate = self.inbox.received_bytes / settings.content_rate_bytes
            deadline = min(deadline, grace + rate)
        self.late_at = deadline
        self._schedule()

    def _schedule(self) -> None:
        self.deadline = self.late_at
        if self.inbox.starved and self.inbox.bytes_waiting:
            self.deadline = min(self.deadline, self._rests_until)
        self.connection.loop.clock.schedule(self)

    def expire(self, now: float) -> None:
        """The clock: the thread has rested, or the client is too slow."""
        if now < self.late_at:
            self._feed()
            self._schedule()
            return
        self.fail(
            ProtocolError(
                408, "the content of the request did not arrive in time", "RFC 9110 section 15.5.9"
            )
        )

    def fail(self, error: ProtocolError | ClientDisconnected) -> None:
        """No more will come, or it is not wanted: wake the thread if it waits."""
        self._ended = True
        self.inbox.fail(error)
        self._feed()
        self._stop()

    def end(self) -> None:
        """The response is over."""
        self._ended = True
        self.connection.upload = None
        self._stop()
        self.inbox.close()


def _do_nothing() -> None:
    """The client did not ask to be invited."""
