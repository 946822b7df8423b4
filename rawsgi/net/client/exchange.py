"""One request and its response, as the gateway sees it: the seam between net/ and wsgi/.

The rule of this file: the thread that runs the request owns the exchange and, through it, the
connection's socket and protocol, from `run` until it hands the exchange back. What the socket
does not take at once goes to the outbox, from where the loop sends it.
"""

from __future__ import annotations

import io
import select
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from rawsgi.net.client.buffers import GATHER_BYTES, HIGH_WATERMARK_BYTES, FileSpan, Outbox, Spool
from rawsgi.net.client.inbox import Inbox
from rawsgi.protocol.message import ClientDisconnected, Request
from rawsgi.protocol.response import Head

if TYPE_CHECKING:
    from rawsgi.net.client.connection import Connection

# Content above this is not joined to its head: a second buffer costs less than a copy.
_JOIN_BYTES = 1 << 15


class Exchange:
    """One exchange of one connection. A new one for each request, so that a late response can
    never meet the next request."""

    __slots__ = (
        "base",
        "called",
        "claim",
        "connection",
        "content",
        "content_bytes",
        "deadline",
        "encode_head",
        "gathers",
        "head_sent",
        "member",
        "parked",
        "remote",
        "request",
        "scheduled",
        "slow_logged",
        "started",
    )

    def __init__(
        self, connection: Connection, request: Request, spool: Spool | Inbox | None
    ) -> None:
        # Fixed for the life of the exchange.
        self.connection = connection
        self.request = request
        self.base = connection.acceptor.base
        self.remote = connection.remote
        self.encode_head = connection.loop.encoder.encode
        self.content: Any
        self.content_bytes: int | None
        if spool is None:
            self.content = io.BytesIO()
            self.content_bytes = 0
        elif isinstance(spool, Inbox):
            self.content = spool
            self.content_bytes = None
        else:
            self.content = spool.rewind()
            self.content_bytes = spool.length
        self.started = monotonic()
        """When the request was complete."""
        self.called = self.started
        """When the application was called; while queued, `started`."""
        # The running thread's.
        self.head_sent = False
        """Bytes of the response may be on the wire."""
        self.gathers = False
        """Somebody will flush what is gathered if the application takes its time. Set by the
        crew before the run, cleared by whoever takes the loop over."""
        # The loop's.
        self.member: Any = None
        """Who runs it; None while it is queued."""
        self.parked = False
        """Its thread waits for the client and does not count as running."""
        self.slow_logged = False
        self.claim: list[None] | None = None
        """Under a request timeout: whoever pops the one entry answers, thread or loop."""
        self.deadline = 0.0
        self.scheduled: float | None = None

    # -- For the gateway: the thread that runs the request --------------------------------------

    def client_disconnected(self) -> bool:
        """The client closed the connection, or at least its sending side.

        For applications that run long: `environ["rawsgi.client_disconnected"]()`. A client that
        only half-closes to say that its request is complete looks the same.
        """
        connection = self.connection
        if connection.broken:
            return True
        try:
            if not connection.socket.recv(1, socket.MSG_PEEK):
                return True
            return has_hung_up(connection.socket)  # the end may lie behind further bytes
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True

    def send_response(self, head: Head, content: bytes) -> None:
        """Send a whole response. Raises `ClientDisconnected`."""
        if self.claim is not None:
            self._claim_answer()
        connection = self.connection
        protocol = connection.protocol
        if len(content) > _JOIN_BYTES:
            data = protocol.send_head(head, len(content))
            parts = protocol.frame_data(content)
            protocol.send_end()
            self.head_sent = True
            self._send_large(data, *parts)
            return
        data = protocol.send_head(head, None, content)
        self.head_sent = True
        if self.gathers:
            connection.unsent.append(data)
        else:
            self._send(data)

    def begin_response(self, head: Head, length: int | None, block: bytes) -> bool:
        """Send the head with the first block; False: the response is complete.

        Raises `ClientDisconnected`.
        """
        if self.claim is not None:
            self._claim_answer()
        connection = self.connection
        protocol = connection.protocol
        if len(block) > _JOIN_BYTES:
            data = protocol.send_head(head, length)
            parts = protocol.frame_data(block)
            self.head_sent = True
            if protocol.wants_content:
                self._put(data, *parts)
                return True
            self._send_large(data, *parts)
            return False
        data = protocol.send_head(head, length, block, ends=False)
        self.head_sent = True
        more = protocol.wants_content
        if not self.gathers:
            self._send(data)
        elif more:
            self._put(data)
        else:
            connection.unsent.append(data)
        return more

    def _send_large(self, *parts: bytes) -> None:
        """Send a whole response. Head and content leave side by side: nothing is copied."""
        connection = self.connection
        outbox = connection.outbox = Outbox()
        with outbox.lock:
            for part in parts:
                outbox.put(part)
            self._flush_last(outbox)
            outbox.complete = True

    def send_data(self, block: bytes) -> None:
        """Send a block, or see to it that it is sent while the application goes on.

        Waits when the client is too far behind. Raises `ClientDisconnected`.
        """
        connection = self.connection
        if len(block) > _JOIN_BYTES:
            if parts := connection.protocol.frame_data(block):
                self._put(*parts)
        elif data := connection.protocol.send_data(block):
            if connection.outbox is not None:  # always where blocks are gathered
                self._put(data)
            else:
                self._send(data)

    def send_end(self) -> None:
        """End the response. Raises `ClientDisconnected`."""
        connection = self.connection
        data = connection.protocol.send_end()
        outbox = connection.outbox
        if outbox is not None:
            with outbox.lock:
                ends_here = not outbox or outbox.gathering
                outbox.gathering = False
                if data:
                    outbox.put(data)
                if ends_here:
                    self._flush_last(outbox)
                outbox.complete = True
        elif data:
            self._send(data)

    def send_file(self, head: Head, file: Any, span: tuple[int, int]) -> bool:
        """Send a whole response from an open file, which may be closed at once.

        False: it cannot be sent in this way, and nothing was. Raises `ClientDisconnected`.
        """
        connection = self.connection
        offset, count = span
        try:
            part = FileSpan(file, offset, count)
        except (OSError, ValueError):
            return False
        try:
            if self.claim is not None:
                self._claim_answer()
            data = connection.protocol.send_head(head, count)
            part.count = connection.protocol.claim_data(count)
            connection.protocol.send_end()
        except BaseException:
            part.close()
            raise
        self.head_sent = True
        outbox = connection.outbox = Outbox()
        with outbox.lock:
            outbox.put(data)
            if part.count:
                outbox.put_file(part)
            else:
                part.close()
            self._flush_last(outbox)
            outbox.complete = True
        return True

    def abort(self, reason: str) -> None:
        """The response cannot be ended: closing the connection is how the client notices."""
        if not self.head_sent:
            self.connection.protocol.code = 499  # for the access log: nothing was answered
            self.connection.protocol.sent_bytes = 0
        self.connection.protocol.abandon(reason)
        outbox = self.connection.outbox
        if outbox is not None:
            with outbox.lock:
                outbox.gathering = False
                self._flush_last(outbox)

    def absorb_timeout(self) -> None:
        """After `ClientDisconnected`: no request timeout is raised any more that has come."""
        if self.member is not None:
            self.member.absorb_interruption()

    @property
    def wants_content(self) -> bool:
        return self.connection.protocol.wants_content

    # -- Sending -------------------------------------------------------------------------------

    def _claim_answer(self) -> None:
        try:
            assert self.claim is not None
            self.claim.pop()
        except IndexError:
            raise ClientDisconnected from None  # the loop has answered with a 504
        self.claim = None

    def _send(self, data: bytes) -> None:
        """Nothing waits: send at once what the socket takes."""
        connection = self.connection
        try:
            sent = connection.socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            connection.broken = True
            connection.outbox = Outbox(lost_bytes=len(data))
            raise ClientDisconnected from None
        if sent != len(data):
            self._put(data[sent:])

    def _put(self, data: bytes, *further: bytes) -> None:
        """Append to the outbox and have the loop flush it; wait if it is too full."""
        connection = self.connection
        outbox = connection.outbox
        if outbox is None:
            outbox = connection.outbox = Outbox()
            outbox.gathering = self.gathers
        with outbox.lock:
            if connection.broken:
                outbox.lost_bytes += len(data) + sum(map(len, further))
                raise ClientDisconnected
            is_ours = not outbox or outbox.gathering
            outbox.put(data)
            for part in further:
                outbox.put(part)
            if self.gathers and outbox.bytes_waiting < outbox.gather_bytes:
                return
            if is_ours:
                outbox.gathering = self.gathers
                self._flush(outbox)
                outbox.gather_bytes = min(outbox.bytes_waiting + GATHER_BYTES, HIGH_WATERMARK_BYTES)
            self._have_watched(outbox)  # also while gathering: a throttled thread goes on by it
            if outbox.bytes_waiting > HIGH_WATERMARK_BYTES:
                outbox.throttled = True
                connection.loop.crew.parking.announce(self)
                outbox.wait_for_room()
            if connection.broken:
                raise ClientDisconnected

    def _flush(self, outbox: Outbox) -> None:
        """With the outbox's lock. A broken connection is noticed by the next who sends."""
        try:
            if self.connection.broken:
                outbox.discard()
            else:
                outbox.flush(self.connection.socket)
        except OSError:
            self.connection.broken = True
            outbox.discard()

    def _flush_last(self, outbox: Outbox) -> None:
        """With the outbox's lock, after the last block. The application may go on for long, so
        what is left is sent by the loop meanwhile, or by whoever takes it over."""
        self._flush(outbox)
        if self.gathers:
            outbox.gathering = bool(outbox)
        else:
            self._have_watched(outbox)

    def _have_watched(self, outbox: Outbox) -> None:
        """With the outbox's lock: the loop sends what is left in it."""
        if outbox and not outbox.watched:
            outbox.watched = True
            self.connection.loop.post(type(self.connection).watch_outbox, self.connection)

    # -- For the loop ----------------------------------------------------------------------------

    def close_content(self) -> None:
        """The request is over; a temporary file goes away."""
        try:
            self.content.close()
        except OSError:
            pass  # what was not written to it is of no use any more; it is closed nevertheless

    def stop_gathering(self) -> None:
        """The thread that runs the request leads no more: what it gathered leaves now.

        The leader, twice: when it takes the loop over, and a moment later, in case that the
        thread had just begun to gather; by then it sees `gathers`.
        """
        self.gathers = False
        if self.connection.unsent:
            self.connection.send_unsent()
            self.connection.watch_outbox()
        outbox = self.connection.outbox
        if outbox is not None and outbox.gathering:
            with outbox.lock:
                outbox.gathering = False
                self._flush(outbox)
                self._have_watched(outbox)
        if self.connection.broken and self.connection.upload is not None:
            self.connection.upload.fail(ClientDisconnected())  # the thread may wait for content

    def expire(self, now: float) -> None:
        """The clock: the request has been running for long."""
        self.connection.loop.crew.overtime.judge(self, now)


def has_hung_up(sock: socket.socket) -> bool:
    """The client has closed its sending side, whatever lies unread; False where nobody knows."""
    if not hasattr(select, "POLLRDHUP"):
        return False
    poller = select.poll()
    try:
        poller.register(sock.fileno(), select.POLLRDHUP)
    except ValueError:
        return True  # closed on our side
    return bool(poller.poll(0))
