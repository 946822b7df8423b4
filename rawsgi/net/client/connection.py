"""One client: its socket, its protocol, its deadline, and who owns it.

    state      owner                            leaves when
    WAITING    the loop                         a request is complete; deadline; end of file
    QUEUED     the loop                         a thread takes the request; the client leaves
    RUNNING    the thread that runs its request the response was handed over
    FLUSHING   the loop                         the rest of the response is written; deadline
    LINGERING  the loop                         the peer closed; a short deadline
    CLOSED     nobody

The rule of this file: its methods are called by the thread that leads the loop, and by nobody
else, but for `send_unsent`. A RUNNING connection's socket and protocol are left alone; `Exchange`
has them.
"""

from __future__ import annotations

import socket
from time import monotonic
from typing import TYPE_CHECKING

from rawsgi.logs import log
from rawsgi.net.client.buffers import Outbox, Spool
from rawsgi.net.client.exchange import Exchange
from rawsgi.net.client.journal import log_refusal, log_remarks, log_response, log_unanswered
from rawsgi.net.client.patience import await_content, await_reader, reads_on
from rawsgi.net.client.upload import Upload
from rawsgi.protocol.http1 import COMPLETE, HEAD, HTTP1
from rawsgi.protocol.message import ClientDisconnected, ProtocolError, Request
from rawsgi.protocol.response import CONTINUE

if TYPE_CHECKING:
    from rawsgi.net.listening.acceptor import Acceptor
    from rawsgi.net.loop import Loop

WAITING, QUEUED, RUNNING, FLUSHING, LINGERING, CLOSED = range(6)

# What the poller is asked for; the values are those of EPOLLIN and EPOLLOUT.
READ, WRITE = 1, 4

RECEIVE_BYTES = 1 << 16
_RECEIVE_CONTENT_BYTES = 1 << 17
# How long one upload is read before other connections have their turn.
_READING_S = 0.005
# Whoever has closed its sending side is served if a thread is free so soon.
_HALF_CLOSED_S = 0.1
# When the worker stops, a connection that was used so lately is waited for a little.
_BUSY_S = 1.0


class Connection:
    """One connection. See the table above for who may touch it."""

    __slots__ = (
        "acceptor",
        "broken",
        "deadline",
        "exchange",
        "loop",
        "mask",
        "outbox",
        "phase_since",
        "progress",
        "protocol",
        "remote",
        "resuming",
        "scheduled",
        "since",
        "socket",
        "spool",
        "state",
        "taken",
        "unlogged",
        "unsent",
        "upload",
    )

    def __init__(
        self, loop: Loop, acceptor: Acceptor, sock: socket.socket, remote: tuple[str, str]
    ) -> None:
        # For the life of the connection.
        self.loop = loop
        self.acceptor = acceptor
        self.socket = sock
        self.remote = remote
        """REMOTE_ADDR and REMOTE_PORT."""
        self.protocol = HTTP1(loop.parser, loop.encoder)
        self.state = WAITING
        self.mask = 0
        """What the poller watches; 0: the descriptor is not registered."""
        self.broken = False
        """Nothing more can be sent. Set by whoever finds out."""
        # For the clock.
        self.since = loop.now
        """When the wait for the next request began."""
        self.deadline = loop.now + loop.settings.head_timeout_s
        self.scheduled: float | None = None
        # For one request.
        self.resuming = False
        """The next request is in the protocol's buffer; only then comes what the socket has."""
        self.spool: Spool | None = None
        self.upload: Upload | None = None
        """Instead of `spool`: content that is handed over while it arrives."""
        self.phase_since = 0.0
        """When its head, its content or the sending of its response began, whichever was last;
        an instant before `since` is none of this request."""
        self.exchange: Exchange | None = None
        """The exchange that is queued or runs."""
        # For one response.
        self.unsent: list[bytes] = []
        """A whole response that is ready to leave: the one who pops it sends it."""
        self.outbox: Outbox | None = None
        """What the socket did not take; with its own lock (see `buffers`)."""
        self.progress = 0
        """`outbox.sent_bytes` at the last look."""
        self.taken: int | None = None
        """How much of that the client had taken then; None: not looked at yet."""
        self.unlogged: Exchange | None = None
        """An exchange whose response is on its way, and then goes to the access log."""

    # -- Events ----------------------------------------------------------------------------------

    def on_event(self, events: int) -> None:
        """The poller reports the socket."""
        if self.state != WAITING or self.resuming:
            self._on_event_later(events)
            return
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            self.arm(READ)
            return
        except OSError:
            self.close()
            return
        protocol = self.protocol
        try:
            if not data:
                self._end_input()
            elif protocol.state != HEAD:
                self._read_content(data)
            else:
                request = protocol.receive(data)
                if request is None:
                    self._await_head()
                elif protocol.state == COMPLETE:
                    self.state = QUEUED  # as `_complete` does: one call less
                    self.exchange = exchange = Exchange(self, request, None)
                    self.loop.complete.append(exchange)
                else:
                    self._begin_content(request)
        except ProtocolError as error:
            self.refuse(error)

    def _on_event_later(self, events: int) -> None:
        """The poller reports a connection that waits for no request."""
        state, upload = self.state, self.upload
        if upload is not None and upload.mask and events & ~WRITE:
            upload.receive()
            if not events & WRITE:
                return
        if state == FLUSHING or (state == RUNNING and self.mask & WRITE):
            self.flush()
        elif state == LINGERING:
            self._discard_input()
        elif state in (QUEUED, RUNNING):
            self._look_at_peer()

    def read_buffered(self) -> None:
        """WAITING: go on in bytes that are here already."""
        self.resuming = False
        if self.state != WAITING:
            return
        try:
            request = self.protocol.receive(b"")
            if request is None:
                self._await_head()
            elif self.protocol.state == COMPLETE:
                self._complete(Exchange(self, request, None))
            else:
                self._begin_content(request)
        except ProtocolError as error:
            self.refuse(error)

    # -- The request -----------------------------------------------------------------------------

    def _complete(self, exchange: Exchange) -> None:
        """The application can be called: its turn comes when all that is ready has been read."""
        self.state = QUEUED
        self.exchange = exchange
        self.loop.complete.append(exchange)

    def _await_head(self) -> None:
        """Part of a head has come: the head as a whole has one deadline, which further bytes do
        not move. A client cannot hold a connection by sending a byte now and then."""
        now = self.loop.now
        if self.protocol.begun and self.phase_since <= self.since:
            self.phase_since = now
            deadline = now + self.loop.settings.head_timeout_s
            # The first head of a connection has had its time since the connection was accepted;
            # a later one has all of it, however long the connection was idle before.
            self.deadline = deadline if self.protocol.code else min(self.deadline, deadline)
        self.arm(READ)

    def _begin_content(self, request: Request) -> None:
        if self.loop.streams_request:
            self._begin_upload(request)
            return
        settings = self.loop.settings
        self.spool = Spool(settings.content_memory_bytes)
        self.phase_since = self.loop.now
        if request.expects_continue:
            try:
                self.socket.send(CONTINUE)
            except OSError:
                self.close()
                return
        self._read_content(b"")

    def _begin_upload(self, request: Request) -> None:
        """The application is called now, and the content handed over as it comes."""
        content = self.protocol.receive_content(b"")
        if self.protocol.state == COMPLETE:
            spool = Spool(len(content))  # it is in memory already
            spool.append(content)
            self._complete(Exchange(self, request, spool))
            return
        self.upload = upload = Upload(self, request.expects_continue)
        exchange = Exchange(self, request, upload.inbox)
        upload.start(exchange, content, request.expects_continue)
        self._complete(exchange)

    def _read_content(self, data: bytes) -> None:
        protocol = self.protocol
        spool = self.spool
        assert spool is not None
        ends_at = monotonic() + _READING_S
        while True:
            content = protocol.receive_content(data)
            if content:
                try:
                    spool.append(content)
                except OSError as error:
                    log.error("content could not be written to the temporary folder: %s", error)
                    raise ProtocolError(
                        507, "there is no room for the content", "RFC 4918 section 11.5"
                    ) from None
            if protocol.state == COMPLETE:
                assert protocol.request is not None
                exchange = Exchange(self, protocol.request, spool)  # rewinds, which may fail
                self.spool = None
                self._complete(exchange)
                return
            if monotonic() >= ends_at:
                break  # more may be there: others first, the poller reports it again
            try:
                data = self.socket.recv(_RECEIVE_CONTENT_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self.close()
                return
            if not data:
                self._end_input()
                return
        await_content(self, spool.length)
        self.arm(READ)

    def _end_input(self) -> None:
        """WAITING: the peer sends nothing more."""
        self.protocol.receive_eof()  # raises where a message was cut off
        self.close()

    def refuse(self, error: ProtocolError) -> None:
        """WAITING: answer a broken request, then close so that the answer arrives."""
        if self.loop.observer is not None:
            self.loop.observer.refuse(self, error)
        unread = self.protocol.buffer
        data = self.protocol.refuse(error)
        log_refusal(self, error, unread, data)
        self._discard_spool()
        try:
            self.socket.send(data)
        except OSError:
            self.close()
            return
        self.linger()

    # -- The response ----------------------------------------------------------------------------

    def finish(self, exchange: Exchange) -> None:
        """RUNNING: the thread has handed the exchange back, or this thread ran it."""
        if self.unsent:
            self.send_unsent()
        protocol = self.protocol
        loop = self.loop
        if exchange.content_bytes:
            exchange.close_content()
        if self.upload is not None:
            self.upload.end()
        self.exchange = None
        if loop.observer is not None:
            loop.observer.finish(self, exchange)
        if protocol.remarks:
            log_remarks(self, exchange)
        if self.outbox is None:
            if loop.access_log is not None:
                log_response(self, exchange)
            if self.broken:
                self.close()
            elif protocol.finish():
                self.state = WAITING
                self.since = loop.now
                self.deadline = loop.now + loop.idle_timeout_s
                if protocol.buffer:
                    self.resuming = True
                    loop.resumed.append(self)
                elif self.mask != READ or self.scheduled is None or self.scheduled > self.deadline:
                    self.arm(READ)
            else:
                self._end_connection()
        else:
            self.state = FLUSHING
            self.progress = -1
            self.unlogged = exchange
            self.flush()

    def send_unsent(self) -> None:
        """RUNNING: send the response that the application has given whole. The thread that ran
        the request, or the leader once it has the exchange back or has taken over."""
        try:
            data = self.unsent.pop()
        except IndexError:
            return
        try:
            sent = self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.broken = True
            self.outbox = Outbox(lost_bytes=len(data))
            return
        if sent != len(data):
            self.outbox = outbox = Outbox()
            outbox.put(memoryview(data)[sent:])

    def watch_outbox(self) -> None:
        """RUNNING: the thread has put into the outbox what the socket did not take."""
        if self.state == RUNNING and self.outbox is not None:
            self.progress = -1
            self.flush()

    def flush(self) -> None:
        """FLUSHING, or RUNNING with a watched outbox: send what the socket takes."""
        outbox = self.outbox
        assert outbox is not None
        with outbox.lock:
            try:
                empty = outbox.flush(self.socket)
            except OSError:
                self.broken = True
                outbox.discard()
                empty = True
            outbox.watched = not empty
            progress = outbox.sent_bytes
            catches_up = outbox.throttled and outbox.has_room
        if catches_up and self.exchange is not None:
            self.loop.crew.parking.readmit(self.exchange)
        if self.broken and self.state == FLUSHING:
            self.close()
        elif not empty:
            await_reader(self, progress)
            self.arm(WRITE)
        elif self.state == FLUSHING:
            self._log_end()
            self.outbox = None
            if self.loop.observer is not None:
                self.loop.observer.flush(self)
            if self.protocol.finish():
                self._wait_for_request()
            else:
                self.linger()  # much of it may still be on its way, which a reset would destroy
        else:
            self.arm(0)

    def _wait_for_request(self) -> None:
        loop = self.loop
        self.state = WAITING
        self.since = loop.now
        self.deadline = loop.now + loop.idle_timeout_s
        if self.protocol.buffer:
            self.arm(0)  # nothing is to be sent until the next request has its response
            self.resuming = True
            loop.resumed.append(self)
        else:
            self.arm(READ)

    def _log_end(self) -> None:
        """A response that took its time has left, or is given up."""
        exchange, self.unlogged = self.unlogged, None
        if exchange is not None:
            log_response(self, exchange)

    def _end_connection(self) -> None:
        """The response was the last one. Unread input would turn the close into a reset, which
        can destroy the response on its way; a client that said close sends nothing more."""
        protocol = self.protocol
        unread = protocol.buffer or protocol.content_unread
        if protocol.request is not None and not protocol.request.keep_alive and not unread:
            self.close()
        else:
            self.linger()

    def linger(self) -> None:
        """Half-close, then read what the peer still sends until it closes, briefly
        (RFC 9112 section 9.6)."""
        self.state = LINGERING
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.deadline = self.loop.now + self.loop.settings.linger_timeout_s
        self.arm(READ)

    def _discard_input(self) -> None:
        """One read a turn: a flood does not hold the loop."""
        try:
            if self.socket.recv(RECEIVE_BYTES):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self.close()

    # -- The clock and the end -------------------------------------------------------------------

    def arm(self, mask: int) -> None:
        """Have the poller report the socket for `mask`, and the clock watch the deadline."""
        if self.upload is not None:
            mask |= self.upload.mask
        if mask != self.mask:
            poller = self.loop.poller
            fd = self.socket.fileno()
            if not self.mask:
                poller.register(fd, mask)
                self.loop.handlers[fd] = self
            elif not mask:
                del self.loop.handlers[fd]
                try:
                    poller.unregister(fd)
                except (OSError, KeyError, ValueError) as error:  # not watched, as is wanted
                    log.error("a connection could not be unregistered: %s", error)
            else:
                poller.modify(fd, mask)
            self.mask = mask
        if mask and (self.scheduled is None or self.scheduled > self.deadline):
            self.loop.clock.schedule(self)

    def _look_at_peer(self) -> None:
        """QUEUED, RUNNING: either the peer has left, or it sends the next request early.

        Level-triggered, the poller would report this again and again: it stops watching.
        """
        self.arm(0)
        if self.state == QUEUED and self.exchange is not None:
            self._look_for_leaver(self.exchange)

    def _look_for_leaver(self, exchange: Exchange) -> None:
        """QUEUED: has the client gone? Who has closed its sending side only looks the same: it is
        given a little time, in which a thread that is free takes its request."""
        try:
            if self.socket.recv(1, socket.MSG_PEEK):
                return
            served_until = exchange.started + _HALF_CLOSED_S
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            served_until = 0.0
        if self.loop.now >= served_until:
            self._leave_queue(exchange)
        else:
            self.deadline = served_until
            self.loop.clock.schedule(self)

    def _leave_queue(self, exchange: Exchange) -> None:
        """QUEUED: the client has gone; its request is not started."""
        if not self.loop.crew.drop_queued(exchange):
            return
        exchange.close_content()
        self.exchange = None
        log_unanswered(self, exchange.request, exchange.started)
        self.close()

    def refuse_queued(self, exchange: Exchange, status: int, reason: str) -> None:
        """A complete request that no thread will run: answer it here."""
        self.state = WAITING
        self.exchange = None
        self.since = exchange.started
        exchange.close_content()
        if self.upload is not None:
            self.upload.end()
        self.refuse(ProtocolError(status, reason, "RFC 9110 section 15.6.4"))

    def answer_timeout(self, exchange: Exchange) -> None:
        """RUNNING, and the right to answer was won from the thread: it sends nothing now."""
        self.state = WAITING
        self.exchange = None
        self.since = exchange.started
        if self.upload is not None:
            self.upload.end()
        self.refuse(
            ProtocolError(504, "the application took too long to answer", "RFC 9110 section 15.6.5")
        )

    def stop_reading(self) -> None:
        """The upload needs no more. Who is queued is still watched: the client may leave."""
        self.arm(READ if self.state == QUEUED else self.mask & ~READ)

    def cut(self) -> None:
        """RUNNING, the thread has begun to answer and takes too long: the client notices the end.

        The descriptor stays open until the thread has handed the exchange back, so that no other
        connection can get its number meanwhile.
        """
        self.broken = True
        if self.upload is not None:
            self.upload.fail(ClientDisconnected())
        self.arm(0)
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        outbox = self.outbox
        if outbox is not None:
            with outbox.lock:
                outbox.discard()
                waits = outbox.throttled
            if waits and self.exchange is not None:
                self.loop.crew.parking.readmit(self.exchange)

    def expire(self, now: float) -> None:
        """The clock: the deadline has passed."""
        state = self.state
        if state == WAITING:
            protocol = self.protocol
            if protocol.state == HEAD and not protocol.begun:
                self.close()  # idle: closing is no news to the client
            else:
                part = "head" if protocol.state == HEAD else "content"
                self.refuse(
                    ProtocolError(
                        408,
                        f"the {part} of the request did not arrive in time",
                        "RFC 9110 section 15.5.9",
                    )
                )
        elif state == FLUSHING or (state == RUNNING and self.mask & WRITE):
            if reads_on(self):
                self.loop.clock.schedule(self)
                return
            log.info("%s reads its response too slowly: closed", self.remote[0] or "a client")
            if state == RUNNING:
                self.cut()
            else:
                self.close()
        elif state == QUEUED:
            if self.exchange is not None:
                self._look_for_leaver(self.exchange)
        elif state == LINGERING:
            self.close()

    def fail(self) -> None:
        """The server itself failed at this connection: it ends, whatever its state is."""
        exchange = self.exchange
        if exchange is not None and self.state == QUEUED:
            is_taken = not self.loop.crew.drop_queued(exchange)
        else:
            is_taken = exchange is not None and exchange.member is not None
        if is_taken:
            self.cut()  # a thread has it, and will hand it back
            return
        if exchange is not None:
            exchange.close_content()
        self.close()

    def close(self) -> None:
        """Close the socket and forget everything. Not while RUNNING."""
        if self.state == CLOSED:
            return
        if self.loop.observer is not None:
            self.loop.observer.close(self)
        self.state = CLOSED
        self.broken = True
        if self.upload is not None:
            self.upload.end()
        self.arm(0)
        self.loop.clock.forget(self)
        if self.spool is not None and self.protocol.request is not None:
            log_unanswered(self, self.protocol.request, self.phase_since)
        self._discard_spool()
        outbox = self.outbox
        if outbox is not None:
            with outbox.lock:
                outbox.discard()
        if self.unlogged is not None:
            self._log_end()
        try:
            self.socket.close()
        except OSError:
            pass
        self.loop.release(self)

    def shutdown(self) -> None:
        """The worker is stopping: end as soon as the request under way is answered.

        An idle connection ends now, unless a request lies in its socket already, or it was busy
        a moment ago: the next one may be on its way.
        """
        protocol = self.protocol
        protocol.shutdown()
        if self.state != WAITING or protocol.state != HEAD or protocol.begun or protocol.buffer:
            return
        try:
            if self.socket.recv(1, socket.MSG_PEEK):
                return
        except OSError:
            pass  # nothing there, or nobody
        if self.loop.now - self.since < _BUSY_S:
            self.deadline = min(self.deadline, self.loop.now + self.loop.idle_timeout_s)
            self.loop.clock.schedule(self)
            return
        self.close()

    def _discard_spool(self) -> None:
        if self.spool is not None:
            self.spool.close()
            self.spool = None
