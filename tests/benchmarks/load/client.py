"""One HTTP/1.1 exchange at a time, for the load generators of our own.

Rule: it reads only what the workloads' applications answer (a Content-Length, or an end by
closing), asks nothing of rawsgi's parser, and keeps no more than one response in memory.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Sequence

from tests.benchmarks.servers import HOST, ROOT, pinned

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


def connect(port: int, source: str = "", receive_bytes: int = 0) -> socket.socket:
    """A blocking connection; `source` is a loopback address, `receive_bytes` the buffer's size."""
    client = socket.socket()
    try:
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if source:
            # Without this the kernel reserves a port per address for all destinations.
            client.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
            client.bind((source, 0))
        client.settimeout(10)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect((HOST, port))
    except OSError:
        client.close()
        raise
    return client


def write_request(path: str, method: str = "GET", *fields: str) -> bytes:
    """The bytes of a request without content."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *fields, "", ""]
    return "\r\n".join(lines).encode("ascii")


def read_outcome(received: bytes, ended: bool) -> tuple[int, bool] | None:
    """The status of the response in `received` and whether the connection can go on.

    `None` while the response is not complete. A connection that ends before a complete
    response gives status 0.
    """
    head, blank, content = received.partition(b"\r\n\r\n")
    status = _STATUS.match(head)
    if not blank or status is None:
        return (0, False) if ended else None
    length = _LENGTH.search(head)
    if length is not None and len(content) >= int(length[1]):
        return int(status[1]), not ended and not _CLOSE.search(head)
    if ended:
        return (int(status[1]) if length is None else 0), False
    return None


def start_client(
    module: str, arguments: Sequence[str], cores: frozenset[int]
) -> subprocess.Popen[str]:
    """Start a load generator of this folder in a process of its own, on `cores`."""
    with pinned(cores):
        return subprocess.Popen(
            [sys.executable, "-m", f"tests.benchmarks.load.{module}", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


def end_client(client: subprocess.Popen[str]) -> None:
    """End a load generator that may have ended already, and close its pipes."""
    if client.poll() is None:
        client.kill()
    client.wait()
    for stream in (client.stdin, client.stdout):
        if stream is not None:
            stream.close()
