"""One connection without a socket: protocol and gateway joined as the server joins them.

Why it exists: the same bytes can be cut in any way, and the answer looked at byte by byte.
Its rule: the order of events is that of `net.connection`, the pieces in between are the real
ones; only the socket, the clock and the temporary file are missing.
"""

from __future__ import annotations

import io
import os
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from rawsgi.protocol.head import HeadParser
from rawsgi.protocol.http1 import CLOSED, COMPLETE, CONTENT, HEAD, HTTP1
from rawsgi.protocol.message import Limits, ProtocolError, Request
from rawsgi.protocol.response import CONTINUE, Fields, Head, HeadEncoder
from rawsgi.wsgi.environ import make_base
from rawsgi.wsgi.gateway import Gateway

DATE_LINE = b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
LINE = re.compile(rb"[^\n]*\n|[^\n]+")


def choose_seed() -> int:
    """Return the seed of this run and print it; RAWSGI_TEST_SEED repeats one."""
    seed = int(os.environ.get("RAWSGI_TEST_SEED") or random.randrange(1 << 32))
    print(f"to repeat: RAWSGI_TEST_SEED={seed}")
    return seed


def cut_at_random(data: bytes, generator: random.Random) -> list[bytes]:
    """Cut `data` at up to a dozen places, more often than not near a line end."""
    places = {generator.randrange(len(data) + 1) for _ in range(generator.randrange(1, 7))}
    feeds = [match.end() for match in LINE.finditer(data)]
    for _ in range(generator.randrange(7)):
        place = generator.choice(feeds or [0]) + generator.randrange(-3, 3)
        places.add(min(max(place, 0), len(data)))
    ends = sorted(places | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def cut_in_every_way(data: bytes, generator: random.Random) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the ways in which bytes may arrive: whole, by line, by byte, and three at random."""
    yield "whole", [data]
    yield "by line", LINE.findall(data)
    yield "by byte", [data[index : index + 1] for index in range(len(data))]
    for number in range(3):
        yield f"at random {number}", cut_at_random(data, generator)


def make_connection(limits: Limits | None = None, *allow: str) -> HTTP1:
    """Return a connection with a parser and an encoder of its own, and a date that stands."""
    encoder = HeadEncoder()
    encoder.date_line = DATE_LINE
    return HTTP1(HeadParser(limits or Limits(), frozenset(allow)), encoder)


class Exchange:
    """One request and its response, as the gateway sees it (`rawsgi.wsgi.gateway.Exchange`)."""

    base = make_base(
        "127.0.0.1", "8000", multithread=False, multiprocess=False, software="rawsgi/test"
    )
    remote = ("127.0.0.1", "40000")

    def __init__(self, protocol: HTTP1, request: Request, content: bytes) -> None:
        self.protocol = protocol
        self.request = request
        self.content = io.BytesIO(content)
        self.content_bytes: int | None = len(content)
        self.head_sent = False
        self.sent = bytearray()

    def client_disconnected(self) -> bool:
        return False

    def encode_head(self, status: str, fields: Fields) -> Head:
        return self.protocol.encode_head(status, fields)

    def send_response(self, head: Head, content: bytes) -> None:
        self.sent += self.protocol.send_head(head, None, content)
        self.head_sent = True

    def begin_response(self, head: Head, length: int | None, block: bytes) -> bool:
        self.sent += self.protocol.send_head(head, length, block, ends=False)
        self.head_sent = True
        return self.protocol.wants_content

    def send_data(self, block: bytes) -> None:
        self.sent += self.protocol.send_data(block)

    def send_end(self) -> None:
        self.sent += self.protocol.send_end()

    def send_file(self, head: Head, file: Any, span: tuple[int, int]) -> bool:
        offset, count = span
        self.sent += self.protocol.send_head(head, count)
        self.head_sent = True
        count = self.protocol.claim_data(count)
        self.sent += os.pread(file.fileno(), count, offset)
        self.sent += self.protocol.send_end()
        return True

    def abort(self, reason: str) -> None:
        self.protocol.abandon(reason)

    def absorb_timeout(self) -> None:
        """There is none."""

    @property
    def wants_content(self) -> bool:
        return self.protocol.wants_content


class Conversation:
    """A client's view of one connection: bytes go in, `output` and `closed` tell the rest."""

    def __init__(self, application: Callable[..., Any], limits: Limits, *allow: str) -> None:
        self.protocol = make_connection(limits, *allow)
        self.output = bytearray()
        self.closed = False
        self.refusals: list[ProtocolError] = []
        self._gateway = Gateway(application)
        self._content = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes from the client, and answer whatever is complete."""
        if self.closed or not data:
            return
        protocol = self.protocol
        try:
            while protocol.state != CLOSED:
                if protocol.state == HEAD:
                    request = protocol.receive(data)
                    if request is None:
                        return
                    if request.expects_continue:
                        self.output += CONTINUE
                    data = b""
                if protocol.state == CONTENT:
                    self._content += protocol.receive_content(data)
                    data = b""
                if protocol.state != COMPLETE:
                    return
                self._run()
        except ProtocolError as error:
            self.refuse(error)

    def _run(self) -> None:
        request = self.protocol.request
        assert request is not None
        exchange = Exchange(self.protocol, request, bytes(self._content))
        self._content.clear()
        self._gateway.run(exchange)
        self.output += exchange.sent
        self.closed = not self.protocol.finish()

    def end(self) -> None:
        """The client ends its sending side."""
        if self.closed:
            return
        try:
            self.protocol.receive_eof()
        except ProtocolError as error:
            self.refuse(error)
        self.closed = True

    def refuse(self, error: ProtocolError) -> None:
        """Answer a mistake of the client."""
        self.refusals.append(error)
        self.output += self.protocol.refuse(error)
        self.closed = True

    @property
    def idle(self) -> bool:
        """Nothing of a further request is here."""
        protocol = self.protocol
        return not self.closed and protocol.state == HEAD and not protocol.begun
