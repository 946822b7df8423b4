"""Somebody looks on: sockets that report what passes through them, and the events around.

    Acceptor -> Observer.wrap -> Tap around the socket      what was received and sent
    Connection -> Observer.finish, refuse, flush, close     what was decided
    worker -> Observer.watch_runs around the gateway        when the application ran

The rule of this file: it adds no byte, changes no decision, and exists only where the loop has
an observer. Without one, a connection and a response cost one look at `Loop.observer` each.
What the events are made into is not known here: a `Watch` per connection takes them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from rawsgi.protocol.http1 import HEAD
from rawsgi.protocol.message import ProtocolError, Request
from rawsgi.protocol.response import Fields, Head

if TYPE_CHECKING:
    from rawsgi.net.client.connection import Connection
    from rawsgi.net.client.exchange import Exchange

_FILE_BYTES = 1 << 17


class Watch(Protocol):
    """Who is told about one connection. Any thread, and more than one; it raises nothing."""

    def received(self, data: bytes) -> None: ...
    def reset(self) -> None: ...
    def sent(self, data: bytes) -> None: ...
    def call(self, request: Request) -> None: ...
    def answer(self, fields: Fields) -> None: ...
    def give_back(self, request: Request) -> None: ...
    def abort(self, reason: str) -> None: ...
    def refuse(self, error: ProtocolError) -> None: ...
    def finish(self, reason_to_close: str, remarks: Sequence[str], flushed: bool) -> None: ...
    def flush(self) -> None: ...
    def shut(self) -> None: ...
    def close(self, reason: str) -> None: ...


class Tap:
    """A socket, or what stands for one, that reports the bytes. Whoever owns the socket calls.

    Calls that are not here go to the socket itself.
    """

    __slots__ = ("_socket", "watch")

    def __init__(self, sock: Any, watch: Watch) -> None:
        self._socket = sock
        self.watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def recv(self, size: int, flags: int = 0) -> bytes:
        try:
            data: bytes = self._socket.recv(size, flags) if flags else self._socket.recv(size)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError:
            self.watch.reset()
            raise
        if not flags & socket.MSG_PEEK:
            self.watch.received(data)
        return data

    def send(self, data: bytes | memoryview) -> int:
        return self._report((data,), lambda: self._socket.send(data))

    def sendmsg(self, buffers: Iterable[bytes | memoryview]) -> int:
        listed = list(buffers)
        return self._report(listed, lambda: self._socket.sendmsg(listed))

    def send_file(self, descriptor: int, offset: int, count: int) -> int:
        """Send part of a file from `offset`, as `os.sendfile` would, but where it can be seen."""
        return self.send(os.pread(descriptor, min(count, _FILE_BYTES), offset))

    def shutdown(self, how: int) -> None:
        self._socket.shutdown(how)
        self.watch.shut()

    def _report(self, buffers: Sequence[bytes | memoryview], send: Callable[[], Any]) -> int:
        try:
            sent: int = send()
        except (BlockingIOError, InterruptedError):
            raise
        except OSError:
            self.watch.reset()
            raise
        left = sent
        for buffer in buffers:
            if not left:
                break
            piece = bytes(buffer[:left])
            left -= len(piece)
            self.watch.sent(piece)
        return sent


class Observer:
    """What the loop tells about its connections. `begin` makes a `Watch` for each."""

    __slots__ = ("_begin",)

    def __init__(self, begin: Callable[[tuple[str, str], tuple[str, str]], Watch]) -> None:
        """`begin` is given the address and port of the client, and those of the server."""
        self._begin = begin

    def wrap(
        self, sock: socket.socket, remote: tuple[str, str], base: dict[str, Any]
    ) -> socket.socket:
        """A connection was accepted: return what takes the place of its socket."""
        watch = self._begin(remote, (base["SERVER_NAME"], base["SERVER_PORT"]))
        return cast(socket.socket, Tap(sock, watch))

    def watch_runs(self, run: Callable[[Any], None]) -> Callable[[Exchange], None]:
        """Return `run`, the gateway's, with a report before and after it."""

        def run_watched(exchange: Exchange) -> None:
            watch = find_watch(exchange.connection)
            request = exchange.request
            watch.call(request)
            try:
                run(WatchedExchange(exchange, watch))
            finally:
                watch.give_back(request)

        return run_watched

    # -- The leader ------------------------------------------------------------------------------

    def finish(self, connection: Connection, exchange: Exchange) -> None:
        """A response was handed over. Before the protocol is made ready for the next request."""
        protocol = connection.protocol
        flushed = connection.outbox is None
        find_watch(connection).finish(protocol.reason_to_close, protocol.remarks, flushed)

    def refuse(self, connection: Connection, error: ProtocolError) -> None:
        """The server is about to send an answer of its own."""
        find_watch(connection).refuse(error)

    def flush(self, connection: Connection) -> None:
        """What waited of a response was sent."""
        find_watch(connection).flush()

    def close(self, connection: Connection) -> None:
        """The connection is about to be closed."""
        find_watch(connection).close(explain_close(connection))


class WatchedExchange:
    """An `Exchange` as the gateway sees it, that reports the head that the application gave."""

    __slots__ = ("_exchange", "_fields", "_watch")

    def __init__(self, exchange: Exchange, watch: Watch) -> None:
        self._exchange = exchange
        self._fields: Fields = ()
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    def encode_head(self, status: str, fields: Fields) -> Head:
        head = self._exchange.encode_head(status, fields)
        self._fields = fields
        return head

    def send_response(self, head: Head, content: bytes) -> None:
        self._watch.answer(self._fields)
        self._exchange.send_response(head, content)

    def begin_response(self, head: Head, length: int | None, block: bytes) -> bool:
        self._watch.answer(self._fields)
        return self._exchange.begin_response(head, length, block)

    def send_file(self, head: Head, file: Any, span: tuple[int, int]) -> bool:
        begun = self._exchange.send_file(head, file, span)
        if begun:
            self._watch.answer(self._fields)
        return begun

    def abort(self, reason: str) -> None:
        self._watch.abort(reason)
        self._exchange.abort(reason)


def find_watch(connection: Connection) -> Watch:
    """The watch of a connection whose socket was wrapped."""
    return cast(Tap, connection.socket).watch


def explain_close(connection: Connection) -> str:
    """Why the server closes a connection, where the protocol does not say so."""
    loop = connection.loop
    if connection.protocol.shutting_down:
        return "the server is stopping"
    if connection.scheduled is None and loop.now >= connection.deadline:
        if connection.outbox is not None:
            return "the client reads its response too slowly"
        if connection.protocol.state == HEAD:
            return f"nothing came for {loop.now - connection.since:.0f} s"
    return ""
