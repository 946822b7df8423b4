"""Fast and slow requests mixed, at a fixed rate, with the fast ones timed by themselves.

An open loop: requests start when they are due, whether or not earlier ones have been
answered, and a latency counts from the instant a request was due. A closed loop (wrk) would
send less the slower the server is, and so hide the very delay that is looked for. Requests
without an answer count with the time that they have waited until the end. Intervals and kinds
are random with a seed, so that each server gets the same sequence.

`python -m tests.benchmarks.load.mixed PORT SECONDS RATE SLOW_SHARE SEED` prints JSON.
"""

from __future__ import annotations

import collections
import json
import random
import select
import socket
import sys
import time
from dataclasses import dataclass, field

from tests.benchmarks.load.client import connect, read_outcome, write_request

DRAIN_S = 3.0
CONNECTIONS = 256
"""No more than this at once; past it a request waits, and its latency counts on."""


@dataclass(slots=True)
class Mixed:
    """The state of one run. Latencies in milliseconds."""

    port: int
    free: list[socket.socket] = field(default_factory=list)
    busy: dict[int, tuple[socket.socket, float, bool, bytearray]] = field(default_factory=dict)
    fast_ms: list[float] = field(default_factory=list)
    slow_ms: list[float] = field(default_factory=list)
    errors: int = 0
    poller: select.epoll = field(default_factory=select.epoll)

    def send(self, due: float, slow: bool) -> None:
        request = write_request("/slow" if slow else "/fast")
        try:
            client = self.free.pop() if self.free else self._open()
            client.send(request)
        except OSError:
            self.errors += 1
            self.record(due, slow)
            return
        self.busy[client.fileno()] = (client, due, slow, bytearray())

    def _open(self) -> socket.socket:
        client = connect(self.port)
        client.setblocking(False)
        self.poller.register(client.fileno(), select.EPOLLIN)
        return client

    def receive(self, timeout_s: float) -> None:
        for descriptor, _ in self.poller.poll(timeout_s):
            entry = self.busy.get(descriptor)
            if entry is None:
                self._drop_free(descriptor)
                continue
            client, due, slow, received = entry
            try:
                block = client.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                block = b""
            received += block
            outcome = read_outcome(bytes(received), not block)
            if outcome is None:
                continue
            del self.busy[descriptor]
            self.record(due, slow)
            self.errors += outcome[0] != 200
            if outcome[1]:
                self.free.append(client)
            else:
                self._close(client)

    def record(self, due: float, slow: bool) -> None:
        (self.slow_ms if slow else self.fast_ms).append((time.monotonic() - due) * 1e3)

    def _drop_free(self, descriptor: int) -> None:
        for client in self.free:
            if client.fileno() == descriptor:
                self.free.remove(client)
                self._close(client)
                return

    def _close(self, client: socket.socket) -> None:
        self.poller.unregister(client.fileno())
        client.close()

    def close(self) -> None:
        for client in [*self.free, *(entry[0] for entry in self.busy.values())]:
            client.close()
        self.poller.close()


def plan(seconds: float, rate: float, slow_share: float, seed: int) -> list[tuple[float, bool]]:
    """When each request is due (seconds from the start) and whether it is a slow one."""
    chance = random.Random(seed)
    due, requests = 0.0, []
    while (due := due + chance.expovariate(rate)) < seconds:
        requests.append((due, chance.random() < slow_share))
    return requests


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def run(port: int, requests: list[tuple[float, bool]]) -> dict[str, float]:
    """Send the requests and return the figures in milliseconds."""
    mixed = Mixed(port)
    start = time.monotonic()
    waiting = collections.deque((start + due, slow) for due, slow in requests)
    end = (waiting[-1][0] if waiting else start) + DRAIN_S
    try:
        while (waiting or mixed.busy) and time.monotonic() < end:
            while waiting and waiting[0][0] <= time.monotonic() and len(mixed.busy) < CONNECTIONS:
                mixed.send(*waiting.popleft())
            mixed.receive(_choose_wait(waiting[0][0] if waiting else end))
        unanswered = [(due, slow) for _, due, slow, _ in mixed.busy.values()] + list(waiting)
    finally:
        mixed.close()
    answered = len(mixed.fast_ms) + len(mixed.slow_ms) - mixed.errors
    for due, slow in unanswered:
        mixed.record(due, slow)
    return {
        "fast_p50_ms": percentile(mixed.fast_ms, 0.5),
        "fast_p99_ms": percentile(mixed.fast_ms, 0.99),
        "fast_max_ms": max(mixed.fast_ms, default=0.0),
        "slow_p50_ms": percentile(mixed.slow_ms, 0.5),
        "slow_p99_ms": percentile(mixed.slow_ms, 0.99),
        "requests": float(answered),
        "errors": float(mixed.errors + len(unanswered)),
    }


def _choose_wait(until: float) -> float:
    """How long to poll. epoll rounds up to milliseconds: the last one is spent polling."""
    wait = until - time.monotonic() - 0.001
    return min(wait, 0.1) if wait > 0.001 else 0.0


if __name__ == "__main__":
    number, length, per_second, share, chosen_seed = sys.argv[1:]
    sequence = plan(float(length), float(per_second), float(share), int(chosen_seed))
    print(json.dumps(run(int(number), sequence)))
