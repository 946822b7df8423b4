"""Content on its way from the loop to the thread that reads it (`--stream-request`).

The rule of this file: memory is bounded. Above the high watermark the loop stops reading the
socket, so that the client's own buffers fill and TCP slows it down; when the thread has read
down to the low watermark, the loop goes on. Nobody but the reading thread ever waits here; it
says so when it waits for long, so that it can be parked meanwhile (see `parking`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from rawsgi.net.client.buffers import HIGH_WATERMARK_BYTES, LOW_WATERMARK_BYTES
from rawsgi.protocol.message import ClientDisconnected, ProtocolError

# So long a thread waits for content before it says so: the next packet may be on its way.
_SHORT_WAIT_S = 0.01


class Inbox:
    """The content of one request, in order. The loop puts, the thread gets.

    Fields are written with `_changed` held, except `_on_wanted`, which is the thread's alone.
    `error`, `received_bytes`, `bytes_waiting` and `starved` may be read without.
    """

    __slots__ = ("_blocks", "_changed", "_ended", "_on_room", "_on_starved", "_on_wait",
                 "_on_wanted", "_paused", "bytes_waiting", "error", "received_bytes",
                 "starved")  # fmt: skip

    def __init__(
        self,
        on_wanted: Callable[[], None],
        on_room: Callable[[], None],
        on_wait: Callable[[], bool] | None = None,
        on_starved: Callable[[], None] = lambda: None,
    ) -> None:
        """The thread calls

        - `on_wanted` once, when it wants content and none has come yet (the moment for a 100
          Continue), with no lock held;
        - `on_room` whenever the loop may put again after it was told not to, with no lock held;
        - `on_wait` each time that it is about to wait; True: it may do so for a little while;
        - `on_starved` when that is over: it goes on when `readmit` is called, and only then. Both
          with the lock held.
        """
        self._on_wait = on_wait
        self._on_starved = on_starved
        self.starved = False
        """The thread waits to be readmitted, whatever is here."""
        self._changed = threading.Condition(threading.Lock())
        self._blocks: deque[memoryview] = deque()
        self._on_wanted: Callable[[], None] | None = on_wanted
        self._on_room = on_room
        self._paused = False
        """The loop was told not to put."""
        self._ended = False
        """Nothing more will be put, or nobody will get it."""
        self.bytes_waiting = 0
        self.received_bytes = 0
        self.error: ProtocolError | ClientDisconnected | None = None
        """Why the content ended before its end."""

    # -- The loop --------------------------------------------------------------------------------

    def put(self, content: bytes) -> bool:
        """Append content; False: no more until `on_room` is called. After the end: a no-op."""
        with self._changed:
            if self._ended:
                return True
            self._blocks.append(memoryview(content))
            self.bytes_waiting += len(content)
            self.received_bytes += len(content)
            self._paused = self.bytes_waiting > HIGH_WATERMARK_BYTES
            if not self.starved:
                self._changed.notify()
            return not self._paused

    def finish(self) -> None:
        """The content is complete: after what is here, the thread gets b""."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def fail(self, error: ProtocolError | ClientDisconnected) -> None:
        """The rest will not come. What is here can still be read; then the thread learns `error`.

        Also wakes a thread that waits and is to be given up. No-op after the end.
        """
        with self._changed:
            if not self._ended:
                self._ended = True
                self.error = error
                self._changed.notify_all()

    def close(self) -> None:
        """The response is over, nobody should read: let go of what is here and of what comes.

        Whoever reads all the same must not take what he got for the whole.
        """
        with self._changed:
            if self.error is None and (self._blocks or not self._ended):
                self.error = ClientDisconnected()
            self._ended = True
            self.starved = False
            self._blocks.clear()
            self.bytes_waiting = 0
            self._paused = False
            self._changed.notify_all()

    def readmit(self) -> None:
        """Let a starved thread go on: there is something for it, or nothing more comes."""
        with self._changed:
            self.starved = False
            self._changed.notify_all()

    # -- The thread that runs the request ----------------------------------------------------------

    def get(self, limit_bytes: int) -> bytes | memoryview:
        """Return 1 to `limit_bytes` bytes of the content, after waiting for the first of them.

        b"" at the end, whether the content is complete or `error` says why it is not.
        """
        on_wanted = self._on_wanted
        if on_wanted is not None:
            self._on_wanted = None
            if not self.received_bytes and not self._ended:
                on_wanted()
        with self._changed:
            if not self._blocks and not self._wait_for_content():
                return b""
            content = self._blocks[0]
            if len(content) > limit_bytes:
                self._blocks[0] = content[limit_bytes:]
                content = content[:limit_bytes]
            else:
                self._blocks.popleft()
            self.bytes_waiting -= len(content)
            resumes = self._paused and self.bytes_waiting <= LOW_WATERMARK_BYTES
            if resumes:
                self._paused = False
        if resumes:
            self._on_room()
        return content

    def _wait_for_content(self) -> bool:
        """With the lock. False: there is nothing more."""
        on_wait = self._on_wait
        patient = True
        while not self._blocks and not self._ended:
            if on_wait is None:
                self._changed.wait()
            elif patient and on_wait():
                patient = self._changed.wait(_SHORT_WAIT_S)
            else:
                self.starved = True  # first: whoever is told looks whether it still holds
                self._on_starved()
                while self.starved:
                    self._changed.wait()
        return bool(self._blocks)
