"""A connection of which the socket, the poller, the crew and time are played.

Its rule: `Connection`, `Exchange`, `Outbox`, `Upload`, `Inbox`, `Clock` and the protocol are the
real ones. Nothing happens by itself: the socket takes as much as a test makes room for, time
stands still, and what was posted runs when a test says so. So it all happens in one thread.
"""

from __future__ import annotations

import socket
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from rawsgi.config import Settings
from rawsgi.net.client.connection import READ, RUNNING, WRITE, Connection
from rawsgi.net.client.exchange import Exchange
from rawsgi.net.clock import Clock
from rawsgi.protocol.head import HeadParser
from rawsgi.protocol.message import Limits
from rawsgi.protocol.response import HeadEncoder


class Socket:
    """Takes what there is room for, and gives what the client has sent."""

    def __init__(self) -> None:
        self.room = 0
        self.attempts = 0
        """How often it was asked to take something."""
        self.sent = bytearray()
        self.incoming: deque[bytes | OSError] = deque()
        """Blocks; b"" is the end, an error is raised."""
        self.reads = 0
        self.failure: OSError | None = None

    def send(self, data: bytes | memoryview) -> int:
        self.attempts += 1
        if self.failure is not None:
            raise self.failure
        taken = bytes(data[: self.room])
        if not taken:
            raise BlockingIOError
        self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def sendmsg(self, parts: list[bytes]) -> int:
        return self.send(b"".join(parts))

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.reads += 1
        if not self.incoming:
            raise BlockingIOError
        block = self.incoming[0]
        if isinstance(block, OSError):
            raise block
        if block and not flags & socket.MSG_PEEK:
            self.incoming.popleft()
            if block[size:]:
                self.incoming.appendleft(block[size:])
        return block[:size]

    def fileno(self) -> int:
        """No descriptor: what goes past this class would fail."""
        return -1

    def shutdown(self, how: int) -> None:
        """The client would see an end."""

    def close(self) -> None:
        """There is no descriptor."""


class Poller:
    """Knows what it is asked for."""

    def __init__(self) -> None:
        self.mask = 0

    def register(self, fd: int, mask: int) -> None:
        self.mask = mask

    modify = register

    def unregister(self, fd: int) -> None:
        self.mask = 0


class Parking:
    """Notes who wants to be parked or readmitted."""

    def __init__(self) -> None:
        self.readmits = True
        """Who announces that it will wait need not."""
        self.count = 0
        self.announced: list[Exchange] = []
        self.ways_given = 0
        self.readmitted: list[Exchange] = []
        self.on_announce: Callable[[Exchange], None] = lambda exchange: None

    def announce(self, exchange: Exchange) -> None:
        self.announced.append(exchange)
        self.on_announce(exchange)
        if not self.readmits:
            return
        outbox, upload = exchange.connection.outbox, exchange.connection.upload
        if outbox is not None:
            assert outbox.throttled, "whoever is told must be able to see it"
            outbox.throttled = False  # as `readmit` does, which needs the lock
        if upload is not None and upload.inbox.starved:
            upload.inbox.starved = False

    def give_way(self, exchange: Exchange) -> None:
        self.ways_given += 1

    def readmit(self, exchange: Exchange) -> None:
        self.readmitted.append(exchange)
        connection = exchange.connection
        if connection.outbox is not None:
            connection.outbox.readmit()
        if connection.upload is not None:
            connection.upload.inbox.readmit()


class Loop:
    """What a connection uses of the loop."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.parser = HeadParser(Limits())
        self.encoder = HeadEncoder()
        self.now = 1000.0
        self.idle_timeout_s = self.settings.keep_alive_timeout_s
        self.failures: list[Exception] = []
        self.clock = Clock(self.contain)
        self.poller = Poller()
        self.handlers: dict[int, Any] = {}
        self.complete: deque[Exchange] = deque()
        self.deferred: list[Exchange] = []
        self.resumed: deque[Connection] = deque()
        self.observer = self.access_log = None
        self.streams_request = True
        self.parking = Parking()
        self.crew: Any = types.SimpleNamespace(parking=self.parking, is_pressed=False)
        self.posts: deque[tuple[Callable[[Any], object], Any]] = deque()

    def post(self, function: Callable[[Any], object], argument: Any) -> None:
        self.posts.append((function, argument))

    def run_posts(self) -> int:
        """Return how many there were."""
        count = len(self.posts)
        for _ in range(count):
            function, argument = self.posts.popleft()
            function(argument)
        return count

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.clock.expire_due(self.now)
        assert self.failures == []

    def contain(self, culprit: object, error: Exception) -> None:
        self.failures.append(error)

    def defer(self, exchange: Exchange) -> None:
        self.deferred.append(exchange)

    def release(self, connection: Connection) -> None:
        """Connections are not counted."""


class Client:
    """One connection whose first request has been read, and runs."""

    def __init__(
        self,
        head: str = "GET / HTTP/1.1",
        content: bytes = b"",
        given_loop: Loop | None = None,
        **settings: Any,
    ) -> None:
        self.loop = given_loop or Loop(**settings)
        self.socket = Socket()
        loop: Any = self.loop
        acceptor: Any = types.SimpleNamespace(base={})
        sock: Any = self.socket
        self.connection = Connection(loop, acceptor, sock, ("", ""))
        self.socket.incoming.append(f"{head}\r\nHost: a.example\r\n\r\n".encode() + content)
        self.connection.on_event(READ)
        self.exchange = self.loop.complete.pop()
        self.connection.state = RUNNING
        self.exchange.member = object()

    def take(self, count: int = 1 << 30) -> None:
        """The client reads so much, and the poller reports it if it is asked to."""
        self.socket.room = count
        if self.loop.poller.mask & WRITE:
            self.connection.on_event(WRITE)

    def send(self, *blocks: bytes) -> None:
        """The client sends; the poller reports it if it is asked to."""
        self.socket.incoming.extend(blocks)
        if self.loop.poller.mask & READ:
            self.connection.on_event(READ)

    @property
    def wire(self) -> bytes:
        """What was sent after the response's head."""
        return bytes(self.socket.sent).partition(b"\r\n\r\n")[2]
