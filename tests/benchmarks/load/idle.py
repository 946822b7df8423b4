"""Hold many connections that do nothing.

Each asks for one page first, because a server may rightly close a connection that never
sends its first request, and then is silent. Source addresses 127.0.0.2 and following share
the load of port numbers.

Speaks with its parent by lines: prints the number of connections that it holds, then for
each line that it reads how many the server has kept open; ends at the end of its input.

`python -m tests.benchmarks.load.idle PORT COUNT`
"""

from __future__ import annotations

import select
import socket
import sys
import time

from tests.benchmarks.load.client import connect, read_outcome, write_request
from tests.benchmarks.servers import raise_descriptor_limit

PER_ADDRESS = 2500
BATCH = 200
OPEN_TIMEOUT_S = 30.0


def hold(port: int, count: int) -> list[socket.socket]:
    """Open `count` connections and let each make one request; those refused are left out.

    Ends early, with fewer, when the server takes longer than `OPEN_TIMEOUT_S` for all.
    """
    request = write_request("/")
    held: list[socket.socket] = []
    end = time.monotonic() + OPEN_TIMEOUT_S
    for start in range(0, count, BATCH):
        if time.monotonic() > end:
            break
        batch = []
        for number in range(start, min(start + BATCH, count)):
            try:
                client = connect(port, f"127.0.0.{2 + number // PER_ADDRESS}")
                client.sendall(request)
            except OSError:
                continue
            batch.append(client)
        held += [client for client in batch if _read_answer(client, end)]
    return held


def _read_answer(client: socket.socket, end: float) -> bool:
    received = b""
    outcome = None
    while outcome is None:
        try:
            client.settimeout(max(0.01, min(5.0, end - time.monotonic())))
            block = client.recv(65536)
        except OSError:
            block = b""
        received += block
        outcome = read_outcome(received, not block)
    if outcome[1]:
        return True
    client.close()
    return False


def count_open(clients: list[socket.socket]) -> int:
    """How many the server has not closed: a silent connection has nothing to be read."""
    with select.epoll() as poller:
        for client in clients:
            poller.register(client.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        return len(clients) - len(poller.poll(0, max(1, len(clients))))


def main() -> None:
    raise_descriptor_limit()
    clients = hold(int(sys.argv[1]), int(sys.argv[2]))
    print(len(clients), flush=True)
    for _ in sys.stdin:
        print(count_open(clients), flush=True)
    for client in clients:
        client.close()


if __name__ == "__main__":
    main()
