"""A small raw client: does the steps of an exchange and tells what came back.

The rule: it decides by events, never by a guess about speed. An answer is complete, the server
closed, or a follow-up request on the same connection was answered: each is an event. Only one
thing is not: silence, when a server waits for bytes that will not come. It is measured in
answers that the same server gave meanwhile to others (`heartbeat`), then the client ends its
sending side, which is an event for the server. Every wait is bounded in time, everything that is
read is bounded in bytes, and whatever a server does, `replay_exchange` returns.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from rawsgi.compare.exchanges import Exchange, Step
from rawsgi.compare.exchanges.outline import outline_requests
from rawsgi.compare.replay.heartbeat import Heartbeat
from rawsgi.compare.replay.responses import Response, ResponseReader
from rawsgi.compare.replay.transcript import Ending, Event, EventKind, Transcript, read_environ

HALF_CLOSED_S: Final = 0.4
CONNECT_S: Final = 3.0
# Of what has no end, the beginning is enough to show it.
ENDLESS_KEPT_BYTES: Final = 16384
FOLLOW_UP_MARK: Final = "rawsgi-follow-up"
FOLLOW_UP: Final = (
    f"GET /?{FOLLOW_UP_MARK} HTTP/1.1\r\nHost: follow-up.example\r\nConnection: close\r\n\r\n"
).encode("ascii")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the client waits, and how much it reads.

    silence_s: the shortest silence that means "it waits".
    heartbeats: how many other answers must lie within that silence (where there is a clock).
    silence_limit_s: the silence after which the heartbeat is not waited for any more.
    exchange_s: for the whole exchange. limit_bytes: of what is read on one connection.
    """

    silence_s: float = 0.4
    heartbeats: int = 4
    silence_limit_s: float = 3.0
    exchange_s: float = 10.0
    limit_bytes: int = 4 << 20


def replay_exchange(
    exchange: Exchange,
    address: tuple[str, int],
    patience: Patience,
    heartbeat: Heartbeat | None = None,
    probed: bool = True,
    cancelled: threading.Event | None = None,
) -> Transcript:
    """Do one exchange against the server at `address`. Any thread; never raises for the server.

    probed: whether the probe application runs there, so that the follow-up's answer can be
    recognised by its content; without it, it is the last response. cancelled: give up when set.
    """
    transcript = Transcript(port=address[1])
    cancelled = cancelled or threading.Event()
    client = _Client(exchange, address, patience, heartbeat, probed, cancelled, transcript)
    try:
        client.run()
    except ConnectionError:
        transcript.ending = "unreachable"
    finally:
        client.close()
    if transcript.ending == "endless":
        transcript.cut(ENDLESS_KEPT_BYTES)
    return transcript


class _Client:
    """One exchange in progress, in one thread."""

    def __init__(
        self,
        exchange: Exchange,
        address: tuple[str, int],
        patience: Patience,
        heartbeat: Heartbeat | None,
        probed: bool,
        cancelled: threading.Event,
        transcript: Transcript,
    ) -> None:
        self.exchange = exchange
        self.address = address
        self.patience = patience
        self.heartbeat = heartbeat
        self.probed = probed
        self.cancelled = cancelled
        self.transcript = transcript
        self.started = time.monotonic()
        # Of the current connection:
        self.socket: socket.socket | None = None
        self.reader = ResponseReader()
        self.received_bytes = 0
        self.ended = False  # nothing more will come
        self.unsendable = False  # the server will read no more
        self.half_closed = False
        self.active_s = self.started  # when the last byte went either way
        self.active_beats = 0
        self.finals_before = 0  # final responses of earlier connections

    # --- the steps ---

    def run(self) -> None:
        steps = self.exchange.steps
        connections = _split_connections(steps)
        for number, part in enumerate(connections):
            self._connect()
            for step in part:
                self._do(step)
            sent = b"".join(step.data for step in part)
            if number < len(connections) - 1:
                self._receive_responses(len(outline_requests(sent).requests))
                self._keep(self.reader)
                self.close()
            elif len(connections) > 1:
                self._finish(sent, max(1, len(outline_requests(sent).requests)))
            else:
                self._finish(sent, self._count_wanted())

    def _do(self, step: Step) -> None:
        if step.kind == "send":
            self._send(step.data)
        elif step.kind == "half-close":
            self._half_close()
        elif step.awaited == "response":
            before = self.reader.count_complete()
            self._receive(lambda: self.reader.count_complete() > before)
        else:
            before = self.reader.count_complete()
            status = int(step.awaited)
            self._receive(
                lambda: (
                    any(response.status == status for response in self.reader.responses)
                    or self.reader.count_complete() > before
                )
            )

    def _finish(self, sent: bytes, wanted: int) -> None:
        """Wait for `wanted` final responses, then find out what became of the connection."""
        result = self._receive_responses(wanted)
        answer: int | None = None
        if result == "done":
            result, answer = self._probe_survival(sent)
        self._keep(self.reader, answer)
        self.transcript.ending = result
        if result == "waits":
            known = len(self.reader.responses)
            self._half_close()
            self._receive(lambda: False)
            self.transcript.late = self.reader.responses[known:]
        if self.reader.garbage is not None:
            self.transcript.garbage = self.reader.stream[self.reader.garbage :]

    def _count_wanted(self) -> int:
        """How many final responses to wait for on the only connection."""
        expected = [len(self.exchange.expect.responses)]
        if self.exchange.rfc_expect is not None:
            expected.append(len(self.exchange.rfc_expect.responses))
        return max(expected)

    def _receive_responses(self, wanted: int) -> Ending | Literal["done"]:
        """Receive that many final responses; after garbage no more can be told apart."""
        return self._receive(
            lambda: self.reader.count_complete() >= wanted or self.reader.garbage is not None
        )

    def _probe_survival(self, sent: bytes) -> tuple[Ending, int | None]:
        """Send one more request, and tell by its fate what became of the connection.

        Returns the position of its answer too. A cut request at the end would take the follow-up
        for its own continuation: where the exchange ends in one and the connection ought to stay,
        silence has to do.
        """
        tail = outline_requests(sent).tail
        cut = tail != "none" and self.exchange.expect.connection == "open"
        silent = not self.reader.responses and self.reader.garbage is None
        if self.half_closed or cut or silent:
            result = self._receive(lambda: False)
            return (result if result != "done" else "waits"), None
        announced = any(response.closes() for response in self.reader.finals()[-1:])
        known = len(self.reader.responses)
        self._send(FOLLOW_UP, "follow-up")
        if announced:
            # Some servers read on until the client has ended its side too. This spares the wait.
            self._half_close()
        if self.reader.garbage is not None:
            mark = FOLLOW_UP_MARK.encode("ascii")
            result = self._receive(lambda: mark in self.reader.stream)
            return ("open" if result == "done" else result), None
        result = self._receive(lambda: self._find_follow_up(known) is not None)
        position = self._find_follow_up(known)
        if position is not None:
            clean = not self.probed or _is_clean(self.reader.responses[position])
            return ("open" if clean else "poisoned"), position
        if result == "waits":
            return ("closed" if announced else "stuck"), None
        return (result if result != "done" else "closed"), None

    def _find_follow_up(self, known: int) -> int | None:
        """Return the position of the answer to the follow-up, once it is complete."""
        new = range(known, len(self.reader.responses))
        responses = self.reader.responses
        for position in new:
            response = responses[position]
            if response.interim or not (response.complete or self.ended):
                continue
            if self.probed:
                if FOLLOW_UP_MARK.encode("ascii") in response.content:
                    return position
            elif response.closes() or self.ended:
                return position if position == len(responses) - 1 else None
        return None

    def _keep(self, reader: ResponseReader, end: int | None = None) -> None:
        """Add the responses of this connection, up to the position `end`, to the transcript."""
        kept = reader.responses[:end]
        self.transcript.responses += kept
        self.finals_before += sum(not response.interim for response in kept)

    # --- the socket ---

    def _connect(self) -> None:
        try:
            self.socket = socket.create_connection(self.address, timeout=CONNECT_S)
        except OSError as error:
            raise ConnectionError(str(error)) from error
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        before, heads = self.finals_before, self.exchange.heads
        self.reader = ResponseReader(lambda position: position + before in heads)
        self.received_bytes = 0
        self.ended = self.unsendable = self.half_closed = False
        self._note("connected")

    def close(self) -> None:
        """Close the current connection, if there is one."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def _note(self, kind: EventKind, data: bytes = b"") -> None:
        now = time.monotonic()
        self.active_s = now
        self.active_beats = self.heartbeat.count if self.heartbeat else 0
        self.transcript.events.append(Event(now - self.started, kind, data))

    def _half_close(self) -> None:
        if self.socket is None or self.ended or self.half_closed:
            return
        self.half_closed = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        self._note("half-closed")

    def _send(self, data: bytes, kind: EventKind = "sent") -> None:
        """Send, reading meanwhile, so that neither side can block the other for ever."""
        rest = memoryview(data)
        sent = 0
        stopped: Ending | None = None
        while rest and not (self.ended or self.unsendable or self.half_closed or stopped):
            assert self.socket is not None
            try:
                count = self.socket.send(rest[:65536])
            except BlockingIOError:
                stopped = self._wait(writing=True)
            except OSError:
                # The server closed. What it said before can still be read.
                self.unsendable = True
            else:
                sent += count
                rest = rest[count:]
                self.active_s = time.monotonic()
        self._note(kind, data[:sent])

    def _receive(self, done: Callable[[], bool]) -> Ending | Literal["done"]:
        """Read until `done`, the end, silence ("waits") or a limit."""
        if done():
            return "done"
        if self.heartbeat is None:
            return self._receive_until(done)
        # Most answers come at once: the clock is started only when one does not.
        self._wait()
        if done():
            return "done"
        with self.heartbeat.needed():
            return self._receive_until(done)

    def _receive_until(self, done: Callable[[], bool]) -> Ending | Literal["done"]:
        while True:
            if done():
                return "done"
            if self.ended:
                return "closed"
            stopped = self._wait()
            if stopped and not done():
                return stopped

    def _wait(self, writing: bool = False) -> Ending | None:
        """Wait a moment for the socket and read what has come; tell when waiting must end."""
        if self.ended:
            return None
        assert self.socket is not None
        poller = select.poll()
        poller.register(self.socket, select.POLLIN | (select.POLLOUT if writing else 0))
        ready = poller.poll(30)
        if ready and ready[0][1] & ~select.POLLOUT:
            self._read()
        if self.received_bytes > self.patience.limit_bytes:
            return "endless"
        if time.monotonic() - self.started > self.patience.exchange_s:
            return "endless" if self.received_bytes else "waits"
        if self.cancelled.is_set():
            return "waits"
        return None if ready or self.ended else self._judge_silence()

    def _read(self) -> None:
        assert self.socket is not None
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self._end("reset")
            return
        if not data:
            self._end("closed")
            return
        self.received_bytes += len(data)
        self._note("received", data)
        self.reader.feed(data)

    def _end(self, kind: EventKind) -> None:
        self.ended = True
        self.reader.end()
        self._note(kind)

    def _judge_silence(self) -> Ending | None:
        silence_s = time.monotonic() - self.active_s
        # Having ended our side, we only wait to see whether the server notices.
        enough_s = HALF_CLOSED_S if self.half_closed else self.patience.silence_s
        if silence_s < enough_s:
            return None
        if self.heartbeat is None:
            return "waits"
        # One more: a beat that began before our last byte does not count.
        if self.heartbeat.count > self.active_beats + self.patience.heartbeats:
            return "waits"
        return "blocked" if silence_s > self.patience.silence_limit_s else None


def _split_connections(steps: tuple[Step, ...]) -> list[tuple[Step, ...]]:
    parts: list[list[Step]] = [[]]
    for step in steps:
        if step.kind == "reconnect":
            parts.append([])
        else:
            parts[-1].append(step)
    return [tuple(part) for part in parts]


def _is_clean(answer: Response) -> bool:
    """Say whether the probe application saw the follow-up request as it was sent."""
    environ = read_environ(answer)
    return (
        environ is not None
        and environ.get("REQUEST_METHOD") == "GET"
        and environ.get("PATH_INFO") == "/"
        and environ.get("QUERY_STRING") == FOLLOW_UP_MARK
        and environ.get("HTTP_HOST") == "follow-up.example"
    )
