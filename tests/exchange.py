"""A fake exchange for the gateway: one request, and what its response would put on the wire.

Its rule: it frames with the real protocol, so that a test reads bytes; only the socket, the
outbox and the loop are missing.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from rawsgi.protocol.head import HeadParser
from rawsgi.protocol.http1 import COMPLETE, CONTENT, HTTP1
from rawsgi.protocol.message import ClientDisconnected, Limits, Request
from rawsgi.protocol.response import Fields, Head, HeadEncoder
from rawsgi.wsgi.environ import make_base
from rawsgi.wsgi.gateway import Gateway

TEXT = ("Content-Type", "text/plain")
BASE = make_base(
    "server.example", "8000", multithread=True, multiprocess=False, software="rawsgi/test"
)
PARSER = HeadParser(Limits())


class Exchange:
    """One request and what its response would put on the wire."""

    def __init__(self, head: str = "GET / HTTP/1.1", content: bytes = b"") -> None:
        self.protocol = HTTP1(PARSER, HeadEncoder())
        fields = "Host: a.example\r\n"
        if content:
            fields += f"Content-Length: {len(content)}\r\n"
        request = self.protocol.receive(f"{head}\r\n{fields}\r\n".encode("latin-1") + content)
        assert request is not None
        if self.protocol.state == CONTENT:
            assert self.protocol.receive_content(b"") == content
        assert self.protocol.state == COMPLETE
        self.request: Request = request
        self.base = BASE
        self.content: Any = io.BytesIO(content)
        self.content_bytes: int | None = len(content)
        self.remote = ("192.0.2.1", "4000")
        self.head_sent = False
        self.wire = b""
        """What has left."""
        self.events: list[str] = []
        """Which of its methods were called."""
        self.aborted = ""
        self.leaves_after = 1 << 60
        """How many bytes the client takes before it leaves."""

    def client_disconnected(self) -> bool:
        return len(self.wire) >= self.leaves_after

    def encode_head(self, status: str, fields: Fields) -> Head:
        return self.protocol.encode_head(status, fields)

    def send_response(self, head: Head, content: bytes) -> None:
        self.events.append("response")
        data = self.protocol.send_head(head, None, content)
        self.head_sent = True
        self._send(data)

    def begin_response(self, head: Head, length: int | None, block: bytes) -> bool:
        self.events.append("begin")
        data = self.protocol.send_head(head, length, block, ends=False)
        self.head_sent = True
        self._send(data)
        return self.protocol.wants_content

    def send_data(self, block: bytes) -> None:
        self.events.append("data")
        self._send(self.protocol.send_data(block))

    def send_end(self) -> None:
        self.events.append("end")
        self._send(self.protocol.send_end())

    def send_file(self, head: Head, file: Any, span: tuple[int, int]) -> bool:
        self.events.append("file")
        offset, count = span
        data = self.protocol.send_head(head, count)
        count = self.protocol.claim_data(count)
        self.protocol.send_end()
        self.head_sent = True
        self._send(data)
        self._send(os.pread(file.fileno(), count, offset))
        return True

    def abort(self, reason: str) -> None:
        self.events.append("abort")
        self.aborted = reason
        self.protocol.abandon(reason)

    def absorb_timeout(self) -> None:
        """There is none."""

    @property
    def wants_content(self) -> bool:
        return self.protocol.wants_content

    def _send(self, data: bytes) -> None:
        if len(self.wire) >= self.leaves_after:
            raise ClientDisconnected
        self.wire += data

    # -- What the tests ask ----------------------------------------------------------------------

    @property
    def status(self) -> int:
        return int(self.wire[9:12])

    @property
    def head(self) -> str:
        return self.wire.partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def framed(self) -> bytes:
        """What follows the head, framing included."""
        return self.wire.partition(b"\r\n\r\n")[2]

    def values(self, name: str) -> list[str]:
        lines = self.head.split("\r\n")[1:]
        return [line.split(": ", 1)[1] for line in lines if line.lower().startswith(name.lower())]


class Blocks:
    """An iterable that counts how often it was asked and closed."""

    def __init__(self, *blocks: Any) -> None:
        self.blocks = blocks
        self.taken = 0
        self.closed = 0

    def __iter__(self) -> Iterator[Any]:
        for block in self.blocks:
            self.taken += 1
            if isinstance(block, BaseException):
                raise block
            yield block

    def close(self) -> None:
        self.closed += 1


class SizedBlocks(Blocks):
    def __len__(self) -> int:
        return len(self.blocks)


def run(application: Any, head: str = "GET / HTTP/1.1", **settings: Any) -> Exchange:
    exchange = Exchange(head)
    for name, value in settings.items():
        setattr(exchange, name, value)
    Gateway(application).run(exchange)
    return exchange


def answer(result: Any, *fields: tuple[Any, Any], status: Any = "200 OK") -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, [TEXT, *fields])
        return result

    return application


class Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(logging.Formatter().format(record))

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


@pytest.fixture(name="log", autouse=True)
def watch_log() -> Iterator[Log]:
    logger = logging.getLogger("rawsgi.error")
    handler = Log()
    before = logger.level, logger.propagate, logger.disabled
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = logger.disabled = False
    yield handler
    logger.removeHandler(handler)
    logger.level, logger.propagate, logger.disabled = before
