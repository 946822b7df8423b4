"""A normal client beside others: asks every 10 ms and notes how long each answer took.

Mostly on one kept connection, and on a new one for every tenth request, because an attack
can spare the one and starve the other.

`python -m tests.benchmarks.load.steady PORT SECONDS` prints JSON, times in milliseconds.
"""

from __future__ import annotations

import json
import socket
import sys
import time

from tests.benchmarks.load.client import connect, read_outcome, write_request
from tests.benchmarks.load.mixed import percentile

INTERVAL_S = 0.01
NEW_EVERY = 10
TIMEOUT_S = 10.0


def ask(client: socket.socket) -> tuple[int, bool]:
    """One exchange: the status (0 for none) and whether the connection can go on."""
    client.settimeout(TIMEOUT_S)
    client.sendall(write_request("/"))
    received = b""
    while True:
        block = client.recv(65536)
        received += block
        outcome = read_outcome(received, not block)
        if outcome is not None:
            return outcome


def run(port: int, seconds: float) -> dict[str, float]:
    """Ask for `seconds` and return the figures."""
    kept: socket.socket | None = None
    latencies: list[float] = []
    errors = number = 0
    end = time.monotonic() + seconds
    while (start := time.monotonic()) < end:
        number += 1
        new = number % NEW_EVERY == 0 or kept is None
        client: socket.socket | None = None
        goes_on = False
        try:
            client = connect(port) if new or kept is None else kept
            status, goes_on = ask(client)
            errors += status != 200
        except OSError:
            errors += 1
        latencies.append((time.monotonic() - start) * 1e3)
        if client is not None and (not goes_on or (kept is not None and client is not kept)):
            client.close()
            kept = None if client is kept else kept
        elif client is not None:
            kept = client
        time.sleep(max(0.0, start + INTERVAL_S - time.monotonic()))
    if kept is not None:
        kept.close()
    return {
        "p50_ms": percentile(latencies, 0.5),
        "p99_ms": percentile(latencies, 0.99),
        "max_ms": max(latencies, default=0.0),
        "requests": float(len(latencies)),
        "errors": float(errors),
    }


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), float(sys.argv[2]))))
