"""Content that is handed over while it arrives (`--stream-request`): the loop's side of an inbox.

The rule of this file: the thread that leads reads the socket of a RUNNING connection, here and
nowhere else, and only while the inbox has room. Of the protocol it touches what receives; the
thread that runs the request touches what sends. `Inbox` alone is shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rawsgi.net.inbox import Inbox
from rawsgi.protocol.http1 import COMPLETE
from rawsgi.protocol.message import ClientDisconnected, ProtocolError
from rawsgi.protocol.response import CONTINUE

if TYPE_CHECKING:
    from rawsgi.net.connection import Connection
    from rawsgi.net.exchange import Exchange

_READ = 1
_RECEIVE_BYTES = 1 << 16
# Reads of one upload before other connections have their turn.
_READS_IN_A_ROW = 4


class Upload:
    """The content of one request, from its first byte to its last. The leader calls, except
    where said otherwise."""

    __slots__ = ("_connection", "_ended", "_exchange", "_paused_at", "_started", "deadline",
                 "inbox", "mask", "scheduled")  # fmt: skip

    def __init__(self, connection: Connection, waits: bool) -> None:
        """`waits`: the client sends its content only after a 100 (Continue)."""
        self._connection = connection
        self._exchange: Exchange
        self._ended = False
        self.inbox = Inbox(self._invite if waits else _do_nothing, self._on_room)
        self.mask = 0
        """READ while the socket is to be read; what `Connection.arm` adds to its own."""
        self._started = 0.0
        """When the client began to send, moved on by the time that it had to wait for us."""
        self._paused_at = 0.0
        # For the clock.
        self.deadline = 0.0
        self.scheduled: float | None = None

    # -- The thread that runs the request --------------------------------------------------------

    def _invite(self) -> None:
        """The application wants content that the client holds back (RFC 9110 section 10.1.1)."""
        connection = self._connection
        if not self._exchange.head_sent:
            try:
                connection.socket.send(CONTINUE)
            except OSError:
                pass  # the loop notices when it reads
        connection.loop.post(Upload._begin, self)

    def _on_room(self) -> None:
        self._connection.loop.post(Upload._resume, self)

    # -- The leader ------------------------------------------------------------------------------

    def start(self, exchange: Exchange, content: bytes, waits: bool) -> None:
        """Begin to read, unless the client is to be asked first. `content` came with the head."""
        self._exchange = exchange
        if content:
            self.inbox.put(content)
        if content or not waits:
            self._begin()

    def _begin(self) -> None:
        self._started = self._paused_at = self._connection.loop.now
        self._resume()

    def _resume(self) -> None:
        if not self._ended:
            self._started += self._connection.loop.now - self._paused_at
            self.mask = _READ
            self._await()
            self._connection.arm(self._connection.mask)

    def _stop(self) -> None:
        """Read no more, for now or for good."""
        self.mask = 0
        self._paused_at = self._connection.loop.now
        self._connection.loop.clock.forget(self)
        self._connection.arm(self._connection.mask & ~_READ)

    def receive(self) -> None:
        """The socket has content, or an end."""
        connection = self._connection
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
                connection.broken = True
                self.fail(ClientDisconnected())
                return
            except ProtocolError as error:
                self.fail(error)
                return
            has_room = inbox.put(content) if content else True
            if protocol.state == COMPLETE:
                self._ended = True
                inbox.finish()
                self._stop()
                return
            if not has_room:
                self._stop()
                return
        self._await()

    def _await(self) -> None:
        """Content may pause for a while, and must come at a rate on average."""
        loop = self._connection.loop
        settings = loop.settings
        deadline = loop.now + settings.content_timeout_s
        if settings.content_rate_bytes:
            grace = self._started + settings.content_timeout_s
            rate = self.inbox.received_bytes / settings.content_rate_bytes
            deadline = min(deadline, grace + rate)
        self.deadline = deadline
        loop.clock.schedule(self)

    def expire(self, now: float) -> None:
        """The clock: the client is too slow."""
        self.fail(
            ProtocolError(
                408, "the content of the request did not arrive in time", "RFC 9110 section 15.5.9"
            )
        )

    def fail(self, error: ProtocolError | ClientDisconnected) -> None:
        """No more will come, or it is not wanted: wake the thread if it waits."""
        self._ended = True
        self.inbox.fail(error)
        self._stop()

    def end(self) -> None:
        """The response is over."""
        self._ended = True
        self._connection.upload = None
        self._stop()
        self.inbox.close()


def _do_nothing() -> None:
    """The client did not ask to be invited."""
