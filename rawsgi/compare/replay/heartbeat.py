"""A clock that ticks with the server: plain requests beside the exchange under test.

How long must a server be silent until we may say that it waits for more input? Seconds alone
cannot tell: on a loaded machine every answer is late. So, while somebody waits, this thread asks
the same server small requests on connections of their own and counts the answers. A server that
has answered several requests which began after our last byte, and still says nothing to us, is
waiting; a slow machine slows this clock too. The rule: it runs only while somebody waits.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_PAUSE_S: Final = 0.04
# For one answer, from connecting to its end, however the server sends it.
_TIMEOUT_S: Final = 1.5
_LIMIT_BYTES: Final = 1 << 20
_LATE_S: Final = 0.25
_LATE_LIMIT: Final = 2
_REQUEST: Final = (
    b"GET /?rawsgi-heartbeat HTTP/1.1\r\nHost: heartbeat.example\r\nConnection: close\r\n\r\n"
)


class Heartbeat:
    """Counts answered requests. `count` may be read from any thread; close() joins the thread.

    `is_sick`: several answers in a row were very late, as when threads of the server spin.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.count = 0
        self.is_sick = False
        self._late = 0
        self._address = address
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    @contextmanager
    def needed(self) -> Iterator[None]:
        """Keep the clock running inside the block. Any thread."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._waiting -= 1

    def close(self) -> None:
        """Stop the thread and wait for it: at most the time of one request."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting > 0)
                if self._closed:
                    return
            began_s = time.monotonic()
            if self._beat():
                self.count += 1
            late = time.monotonic() - began_s > _LATE_S
            self._late = self._late + 1 if late else 0
            self.is_sick = self.is_sick or self._late >= _LATE_LIMIT
            with self._changed:
                self._changed.wait_for(lambda: self._closed, timeout=_PAUSE_S)

    def _beat(self) -> bool:
        """Ask once; say whether a whole answer came, to the end of the connection, in time."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        received = 0
        with (
            suppress(OSError),
            socket.create_connection(self._address, timeout=_TIMEOUT_S) as connection,
        ):
            connection.sendall(_REQUEST)
            while received < _LIMIT_BYTES:
                connection.settimeout(max(0.001, deadline_s - time.monotonic()))
                count = len(connection.recv(65536))
                if not count:
                    break
                received += count
        return received > 0
