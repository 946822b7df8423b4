"""The loop: waits for sockets, deadlines and other threads, and sees to each in turn.

The rule of this file: everything here belongs to the thread that leads (see `crew`), except
`post`, which any thread may call. Wherever a thread may lose the lead (it ran a request), the
loop's state is complete in the object, so that another thread goes on from there.
"""

from __future__ import annotations

import select
import selectors
import socket
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from math import inf
from time import monotonic, time
from typing import Any, Protocol

from rawsgi.config import Settings
from rawsgi.logs import AccessLog, log
from rawsgi.net.client.connection import READ, WRITE, Connection
from rawsgi.net.client.exchange import Exchange
from rawsgi.net.client.journal import describe
from rawsgi.net.clock import Clock
from rawsgi.net.crew.crew import Crew
from rawsgi.net.tap import Observer
from rawsgi.protocol.head import HeadParser
from rawsgi.protocol.response import HeadEncoder

# While requests run in other threads Date goes on; a stalled log is tried again as often.
_TICK_S = 1.0
# With a thousand busy connections, sockets that were read a moment ago are still in the caches
# when their responses are written.
_EVENTS_IN_A_TURN = 64
# How long a response may wait for others to leave with.
_DEFER_S = 0.001
# The poller takes milliseconds as an int of C; some settings may be longer than that.
_LONGEST_POLL_S = 86400.0


class Handler(Protocol):
    """Whoever has a descriptor that is watched."""

    def on_event(self, events: int) -> None: ...


class Poller(Protocol):
    """The few calls of `select.epoll` that the loop makes. Level-triggered."""

    def register(self, fd: int, mask: int) -> None: ...
    def modify(self, fd: int, mask: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def poll(self, timeout_s: float, limit: int) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class PortablePoller:
    """The same calls over `selectors`, where there is no epoll."""

    __slots__ = ("_selector",)

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    @staticmethod
    def _translate(mask: int) -> int:
        return (selectors.EVENT_READ if mask & READ else 0) | (
            selectors.EVENT_WRITE if mask & WRITE else 0
        )

    def register(self, fd: int, mask: int) -> None:
        self._selector.register(fd, self._translate(mask))

    def modify(self, fd: int, mask: int) -> None:
        self._selector.modify(fd, self._translate(mask))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout_s: float, limit: int) -> list[tuple[int, int]]:
        ready = self._selector.select(None if timeout_s < 0 else timeout_s)
        return [
            (
                key.fd,
                (READ if events & selectors.EVENT_READ else 0)
                | (WRITE if events & selectors.EVENT_WRITE else 0),
            )
            for key, events in ready
        ]

    def close(self) -> None:
        self._selector.close()


def make_poller(kind: str) -> Poller:
    """Return the poller of that kind: "auto", "epoll" or "portable"."""
    if kind != "portable" and hasattr(select, "epoll"):
        return select.epoll()
    return PortablePoller()


class Waker:
    """A pair of sockets: a byte in one end is an event at the other.

    Signals arrive in this way too, as their numbers (`signal.set_wakeup_fd`): a main thread that
    is stuck in an application cannot hide them. They have a pair of their own: a number for which
    there is no room would be lost, while of the bytes that wake one is as good as a thousand.
    """

    __slots__ = ("_loop", "_receiver", "sender")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._receiver, self.sender = socket.socketpair()
        self._receiver.setblocking(False)
        self.sender.setblocking(False)
        loop.poller.register(self._receiver.fileno(), READ)
        loop.handlers[self._receiver.fileno()] = self

    def wake(self) -> None:
        """Any thread."""
        try:
            self.sender.send(b"\0")
        except OSError:
            pass  # full: it will be awake; closed: it has ended

    def on_event(self, events: int) -> None:
        try:
            data = self._receiver.recv(4096)
        except OSError:
            return  # nothing there, or not now: the poller reports it again
        for number in data:
            if number:
                self._loop.on_signal(number)

    def close(self) -> None:
        self._receiver.close()
        self.sender.close()


def do_nothing() -> None:
    """Nobody wants to know."""


class Loop:
    """The sockets of one worker process."""

    def __init__(
        self,
        settings: Settings,
        parser: HeadParser,
        encoder: HeadEncoder,
        access_log: AccessLog | None,
        on_signal: Callable[[int], None],
    ) -> None:
        self.settings = settings
        self.parser = parser
        self.encoder = encoder
        self.access_log = access_log
        self.observer: Observer | None = None
        """Who looks on, if anybody. Set before the first connection is accepted."""
        self.on_signal = on_signal
        self.crew: Crew
        self.streams_request = False
        """Content is handed over while it arrives."""
        self.on_empty: Callable[[], None] = do_nothing
        """Called when the last connection has gone."""
        self.on_release: Callable[[], None] = do_nothing
        """Called when a connection has gone."""
        self.idle_timeout_s = settings.keep_alive_timeout_s
        """How long a connection may wait for its next request; less once the worker stops."""
        self.poller = make_poller(settings.poller)
        self.handlers: dict[int, Handler] = {}
        self.connections: set[Connection] = set()
        self.clock = Clock(self.contain)
        self.now = monotonic()
        """The instant of the last look at the clock."""
        self.finished = False
        """Set once: whoever leads returns."""
        self.resumed: deque[Connection] = deque()
        """Connections that have a next request in their buffer."""
        self.ready: list[tuple[int, int]] = []
        """What the poller reported and nobody has seen to yet, in reverse."""
        self.complete: deque[Exchange] = deque()
        """Requests of this turn that are complete. They run when all has been read: the code
        that reads, the application and the code that sends each find the caches warm."""
        self.deferred: list[Exchange] = []
        """Complete exchanges whose responses leave together."""
        self.defer_until = 0.0
        self._posts: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._next_second = 0.0
        self._waker = Waker(self)
        self._signals = Waker(self)
        self.wakeup_socket = self._signals.sender
        self._tell_date()

    def lead(self) -> bool:
        """Serve until this thread loses the loop (True) or the loop is done with it (False).

        Only a thread that holds the crew's token.
        """
        handlers = self.handlers
        complete = self.complete
        crew = self.crew
        clock = self.clock
        me = crew.leader
        if self.deferred:
            self.finish_deferred()  # of the last leader, which is busy now
        while not self.finished:
            ready = self.ready
            while ready:
                fd, events = ready.pop()
                handler = handlers.get(fd)
                if handler is None:
                    continue  # closed since the poller reported it
                try:
                    handler.on_event(events)
                except Exception as error:
                    self.contain(handler, error)
            if self.resumed:
                self._resume()
            if self._posts:
                self._run_posts()
                if crew.successor is not None:
                    crew.abdicate()
                    return False
            while complete:
                exchange = complete.popleft()
                try:
                    if not crew.execute(exchange):
                        return True
                except Exception as error:
                    if not me.leads:
                        raise
                    self.contain(exchange, error)
            if self.deferred:
                self.finish_deferred()
            stalled = self.access_log is not None and not self.access_log.flush()
            timeout_s = -1.0
            if clock.soonest != inf:
                timeout_s = min(max(clock.soonest - self.now, 0.0), _LONGEST_POLL_S)
            if self.resumed or self.finished:
                timeout_s = 0.0
            elif (crew.running or stalled) and not 0 <= timeout_s <= _TICK_S:
                timeout_s = _TICK_S
            ready = self.ready = self.poller.poll(timeout_s, _EVENTS_IN_A_TURN)
            now = self.now = monotonic()
            if now >= self._next_second:
                self._tell_date()
            if now >= clock.soonest:
                clock.expire_due(now)
        return False

    def defer(self, exchange: Exchange) -> None:
        """Send this response together with those of the requests that came with it.

        Each send may wake a client up, which costs the sender; clients that are awake already
        cost little. Nobody waits longer than a millisecond for it, or than the standby does.
        """
        now = monotonic()
        if not self.deferred:
            self.defer_until = now + _DEFER_S
        self.deferred.append(exchange)
        if now >= self.defer_until:
            self.finish_deferred()

    def finish_deferred(self) -> None:
        deferred, self.deferred = self.deferred, []
        for exchange in deferred:
            connection = exchange.connection
            try:
                connection.finish(exchange)
            except Exception as error:
                self.contain(connection, error)

    def post(self, function: Callable[[Any], object], argument: Any) -> None:
        """Any thread: have the leader call `function(argument)` soon."""
        self._posts.append((function, argument))
        self._waker.wake()

    def contain(self, culprit: object, error: BaseException) -> None:
        """The server failed at a connection, at its exchange or upload: that connection ends,
        everything else goes on. What the system refuses is a line, our own fault a traceback."""
        connection = getattr(culprit, "connection", culprit)
        if not isinstance(connection, Connection):
            log.error("the server failed at %r, and goes on", culprit, exc_info=error)
            return
        request = connection.protocol.request
        what = describe(request) if request else "a connection"
        if isinstance(error, OSError):
            log.error("%s: cut off, because the system refused: %s", what, error)
        else:
            log.error("%s: the server failed", what, exc_info=error)
        try:
            connection.fail()
        except Exception as further:
            log.error("%s: it could not be closed cleanly", what, exc_info=further)

    def _run_posts(self) -> None:
        posts = self._posts
        while posts:
            function, argument = posts.popleft()
            try:
                function(argument)
            except Exception as error:
                self.contain(argument, error)

    def _resume(self) -> None:
        """One request of each connection that has more."""
        for _ in range(len(self.resumed)):
            connection = self.resumed.popleft()
            try:
                connection.read_buffered()
            except Exception as error:
                self.contain(connection, error)

    def _tell_date(self) -> None:
        seconds = time()
        self._next_second = self.now + 1.0 - seconds % 1.0
        self.encoder.date_line = f"Date: {formatdate(seconds, usegmt=True)}\r\n".encode()

    def release(self, connection: Connection) -> None:
        """A connection has closed."""
        self.connections.discard(connection)
        self.on_release()
        if not self.connections:
            self.on_empty()

    def leave(self) -> None:
        """In a child that the application forked: close this copy of every descriptor.

        The poller first: an epoll instance is shared with the parent, and nothing may be taken
        out of it here.
        """
        self.finished = True
        self.poller.close()
        self._waker.close()
        self._signals.close()
        for connection in self.connections:
            connection.socket.close()

    def close(self) -> None:
        """After the last leader returned: close everything."""
        for connection in list(self.connections):
            connection.close()
        self._waker.close()
        self._signals.close()
        self.poller.close()
