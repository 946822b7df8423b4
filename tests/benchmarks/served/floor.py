"""The floor: the least that any server written in Python can cost.

An epoll loop that reads whatever comes and answers a constant. It parses nothing, checks
nothing and calls no application, so its cost per request is one `recv`, one `send`, a share
of one `poll`, and the few bytecodes between them. What a real server costs above this line
is what its work costs.
"""

from __future__ import annotations

import argparse
import select
import socket

from tests.benchmarks.served.applications import HELLO

ANSWER = (
    b"HTTP/1.1 200 OK\r\n"
    b"Server: floor\r\n"
    b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    b"Content-Type: text/plain\r\n"
    b"Content-Length: %d\r\n"
    b"\r\n" % len(HELLO)
) + HELLO
LAST_ANSWER = ANSWER.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


def serve(host: str, port: int) -> None:
    """Serve until the process is ended by a signal."""
    listener = socket.create_server((host, port), backlog=2048)
    listener.setblocking(False)
    poller = select.epoll()
    poller.register(listener.fileno(), select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in poller.poll():
            connection = connections.get(descriptor)
            if connection is None:
                _accept(listener, poller, connections)
                continue
            try:
                received = connection.recv(65536)
                last = not received or b"Connection: close" in received
                if received:
                    connection.send(LAST_ANSWER if last else ANSWER)
            except OSError:
                last = True
            if last:
                del connections[descriptor]
                connection.close()


def _accept(
    listener: socket.socket, poller: select.epoll, connections: dict[int, socket.socket]
) -> None:
    try:
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections[connection.fileno()] = connection
            poller.register(connection.fileno(), select.EPOLLIN)
    except BlockingIOError:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer a constant, as fast as Python can.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    serve(arguments.host, arguments.port)


if __name__ == "__main__":
    main()
