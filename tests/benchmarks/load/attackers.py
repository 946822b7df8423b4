"""Clients that mean harm, or are merely on a very bad line.

`drip`: hold many connections that move one byte at a time. `head` sends a request's head so,
`content` its content, `read` reads its response so. A connection that the server ends is
opened again, so that the number under attack stays.

`break`: clients that go away in the middle of an upload or of a download, some by closing,
some by a reset.

`python -m tests.benchmarks.load.attackers drip PORT HOW COUNT SECONDS PATH`
`python -m tests.benchmarks.load.attackers break PORT HOW COUNT`
Both print JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.benchmarks.load.client import connect, write_request
from tests.benchmarks.servers import raise_descriptor_limit

INTERVAL_S = 0.1
"""Between two bytes of one connection."""

RECEIVE_BYTES = 4096
"""A small receive buffer, so that a slow reader is slow for the server and not for the kernel."""

CONTENT_BYTES = 1_000_000
HEAD = write_request("/", "GET", "User-Agent: " + "slow " * 200)
UPLOAD_BYTES = 4 << 20
UPLOAD_SENT_BYTES = 3 << 19
"""More than rawsgi keeps in memory, less than was announced."""

READ_TIMEOUT_S = 5.0
"""For the first bytes of all downloads together."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of zero: closing sends a reset."""


@dataclass(slots=True)
class Dripper:
    """One connection that moves one byte at a time."""

    port: int
    how: str
    path: str
    client: socket.socket | None = None
    rest: bytes = b""
    moved: int = 0
    opened: int = 0

    def step(self) -> None:
        """Move one byte, or open the connection when there is none."""
        try:
            if self.client is None:
                self._open()
            elif self.how == "read":
                self._read()
            else:
                self._send()
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def _open(self) -> None:
        self.client = connect(self.port, receive_bytes=RECEIVE_BYTES)
        self.opened += 1
        if self.how == "head":
            self.rest = HEAD
        elif self.how == "content":
            length = f"Content-Length: {CONTENT_BYTES}"
            self.client.sendall(write_request(self.path, "POST", length))
            self.rest = b"x" * CONTENT_BYTES
        else:
            self.client.sendall(write_request(self.path))
        self.client.setblocking(False)

    def _send(self) -> None:
        assert self.client is not None
        self.moved += self.client.send(self.rest[self.moved % len(self.rest) :][:1])
        if not self._is_open():
            self.close()

    def _is_open(self) -> bool:
        assert self.client is not None
        try:
            return self.client.recv(4096) != b""
        except BlockingIOError:
            return True

    def _read(self) -> None:
        assert self.client is not None
        if self.client.recv(1):
            self.moved += 1
        else:
            self.close()

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None


def drip(port: int, how: str, count: int, seconds: float, path: str) -> dict[str, float]:
    """Attack for `seconds`; says when all connections are up by the line `up`."""
    drippers = [Dripper(port, how, path) for _ in range(count)]
    for dripper in drippers:
        dripper.step()
    print("up", flush=True)
    end = time.monotonic() + seconds
    try:
        while (start := time.monotonic()) < end:
            for dripper in drippers:
                dripper.step()
            time.sleep(max(0.0, start + INTERVAL_S - time.monotonic()))
        return {
            "connections": float(sum(dripper.client is not None for dripper in drippers)),
            "opened": float(sum(dripper.opened for dripper in drippers)),
            "bytes": float(sum(dripper.moved for dripper in drippers)),
        }
    finally:
        for dripper in drippers:
            dripper.close()


@dataclass(slots=True)
class Leaver:
    """One client that breaks off; `how` is `upload`, `chunked`, `download` or `generated`."""

    port: int
    how: str
    resets: bool
    client: socket.socket | None = field(default=None)

    def begin(self) -> None:
        try:
            self.client = connect(self.port)
            self.client.settimeout(5)
            if self.how == "upload":
                length = f"Content-Length: {UPLOAD_BYTES}"
                self.client.sendall(write_request("/upload", "POST", length))
                self.client.sendall(b"x" * UPLOAD_SENT_BYTES)
            elif self.how == "chunked":
                coding = "Transfer-Encoding: chunked"
                self.client.sendall(write_request("/upload", "POST", coding))
                self.client.sendall(b"%x\r\n" % UPLOAD_BYTES + b"x" * UPLOAD_SENT_BYTES)
            else:
                self.client.sendall(write_request(f"/{self.how}"))
        except OSError:
            self.leave()

    def read_some(self, timeout_s: float) -> None:
        if self.client is None or self.how not in ("download", "generated"):
            return
        try:
            self.client.settimeout(max(0.001, timeout_s))
            self.client.recv(65536)
        except TimeoutError:
            pass  # the server has not come to it: leaves all the same
        except OSError:
            self.leave()

    def leave(self) -> None:
        if self.client is None:
            return
        if self.resets:
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.client.close()
        self.client = None


def break_off(port: int, how: str, count: int) -> dict[str, float]:
    """`count` clients at once: all begin, then all leave, every other one by a reset."""
    leavers = [Leaver(port, how, bool(number % 2)) for number in range(count)]
    for leaver in leavers:
        leaver.begin()
    reached = sum(leaver.client is not None for leaver in leavers)
    end = time.monotonic() + READ_TIMEOUT_S
    for leaver in leavers:
        leaver.read_some(end - time.monotonic())
    for leaver in leavers:
        leaver.leave()
    return {"begun": float(reached)}


def main(arguments: Sequence[str]) -> None:
    raise_descriptor_limit()
    # The client whose latency is measured shares this core and must not wait for the attack.
    os.nice(10)
    what, port, how, count = arguments[:4]
    if what == "drip":
        seconds, path = arguments[4:]
        figures = drip(int(port), how, int(count), float(seconds), path)
    else:
        figures = break_off(int(port), how, int(count))
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(list(itertools.islice(sys.argv, 1, None)))
