"""Servers that misbehave in one way each, and small exchanges to try the tester on them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import MappingProxyType

from rawsgi.compare.exchanges import Alternatives, Exchange, Expectation, Step
from rawsgi.compare.replay.client import FOLLOW_UP_MARK, Patience

Behaviour = Callable[[socket.socket], None]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
REPORT = (
    b'{"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": "%s", '
    b'"HTTP_HOST": "follow-up.example"}' % FOLLOW_UP_MARK.encode("ascii")
)
ANSWERED_FOLLOW_UP = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
    len(REPORT),
    REPORT,
)
# Short, so that the tests are: a fake on this machine answers in microseconds, when it has time.
QUICK = Patience(silence_s=0.3, heartbeats=2, silence_limit_s=1.0, exchange_s=2.0)


class Fake:
    """A listening socket and a thread for each connection that runs `behaviour`."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with self._lock:
                    self._open.add(connection)
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        with connection, contextlib.suppress(OSError):
            self._behaviour(connection)
        with self._lock:
            self._open.discard(connection)

    def close(self) -> None:
        """End everything; every thread is waited for."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(10)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@contextlib.contextmanager
def fake(behaviour: Behaviour) -> Iterator[Fake]:
    """A Fake for the time of the block."""
    server = Fake(behaviour)
    try:
        yield server
    finally:
        server.close()


def read_head(connection: socket.socket) -> bytes:
    """Read up to a blank line, or to the end."""
    data = b""
    while b"\r\n\r\n" not in data and (piece := connection.recv(65536)):
        data += piece
    return data


def drain(connection: socket.socket) -> None:
    """Read until the client ends its side."""
    while connection.recv(65536):
        pass


def say(*pieces: bytes, then: Behaviour | None = drain) -> Behaviour:
    """Read a head, send the pieces one by one, and then do something."""

    def behave(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        read_head(connection)
        for piece in pieces:
            connection.sendall(piece)
        if then is not None:
            then(connection)

    return behave


def keep_alive(first: bytes, second: bytes = ANSWERED_FOLLOW_UP) -> Behaviour:
    """Answer one request, and the follow-up after it, on one connection."""
    return say(first, then=say(second, then=None))


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def flood(piece: bytes) -> Behaviour:
    """Send the piece without end, for as long as the client reads."""

    def behave(connection: socket.socket) -> None:
        read_head(connection)
        block = piece * max(1, 65536 // len(piece))
        while True:
            connection.sendall(block)

    return behave


def trickle(data: bytes) -> Behaviour:
    """Send the data over and over, one byte every 20 ms."""
    stop = threading.Event()

    def behave(connection: socket.socket) -> None:
        read_head(connection)
        while True:
            for code in data:
                connection.sendall(bytes([code]))
                stop.wait(0.02)

    return behave


def expect(*responses: Alternatives, **other: object) -> Expectation:
    """Make an expectation that asks for these statuses and nothing else."""
    values: dict[str, object] = {
        "responses": responses,
        "interim": None,
        "connection": "any",
        "complete": True,
        "reason": None,
        "content": None,
        "fields": MappingProxyType({}),
        "present_fields": frozenset(),
        "absent_fields": frozenset(),
        "environ": MappingProxyType({}),
        "absent_environ": frozenset(),
    }
    return Expectation(**(values | other))  # type: ignore[arg-type]


def ask(
    *steps: bytes | Step,
    expected: Expectation | None = None,
    id_: str = "conformance/made/one",
    level: str = "MUST",
    security: bool = False,
    title: str = "A made exchange",
    heads: frozenset[int] = frozenset(),
) -> Exchange:
    """Make an exchange of what is sent."""
    expectation = expected or expect((200,))
    return Exchange(
        id=id_,
        title=title,
        rfc="RFC 9112 section 2",
        demand="What is demanded.",
        level=level,  # type: ignore[arg-type]
        security=security,
        steps=tuple(
            step if isinstance(step, Step) else Step("send", data=step) for step in steps or (GET,)
        ),
        heads=heads,
        expect=expectation,
        rfc_expect=expectation if level in ("MUST", "SHOULD") else None,
        allow=None,
        allow_expect=None,
    )
