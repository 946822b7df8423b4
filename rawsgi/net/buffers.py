"""What waits in memory or on disk because one side is slower than the other.

`Spool` holds content that arrives before the application is called; `Outbox` holds what the
client has not taken yet. The rule of this file: each has a bound in memory, whatever application
and client do.
"""

from __future__ import annotations

import io
import os
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from typing import IO, Any

HIGH_WATERMARK_BYTES = 1 << 18
"""An application that runs ahead of its client by more than this waits."""
LOW_WATERMARK_BYTES = 1 << 16
"""It goes on when no more than this is left."""

_SENDFILE_BYTES = 1 << 20
_SEND_BYTES = 1 << 18


class Spool:
    """Content as it arrives: in memory up to a limit, then in a temporary file.

    Owned by the loop until the request is complete, then by the thread that runs it.
    """

    __slots__ = ("_file", "_memory_bytes", "length")

    def __init__(self, memory_bytes: int) -> None:
        self._file: IO[bytes] = io.BytesIO()
        self._memory_bytes = memory_bytes
        self.length = 0

    def append(self, content: bytes) -> None:
        """Raises `OSError` when the disk is full."""
        length = self.length + len(content)
        if self.length <= self._memory_bytes < length:
            memory, self._file = self._file, tempfile.TemporaryFile(prefix="rawsgi-")
            assert isinstance(memory, io.BytesIO)
            self._file.write(memory.getbuffer())
        self._file.write(content)
        self.length = length

    def rewind(self) -> IO[bytes]:
        """Return the content as a file at its beginning, to be wsgi.input."""
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        self._file.close()


class FilePart:
    """A span of an open file that is on its way out."""

    __slots__ = ("close", "count", "file", "offset")

    def __init__(self, file: Any, offset: int, count: int, close: Callable[[], None]) -> None:
        self.file = file
        self.offset = offset
        self.count = count
        self.close = close

    def send(self, sock: socket.socket) -> bool:
        """Send what the socket takes; True when all was sent. Raises `OSError`."""
        while self.count:
            sent = _send_file(sock, self.file, self.offset, min(self.count, _SENDFILE_BYTES))
            if not sent:
                raise OSError("the file became shorter while it was sent")
            self.offset += sent
            self.count -= sent
        return True


if hasattr(os, "sendfile"):

    def _send_file(sock: socket.socket, file: Any, offset: int, count: int) -> int:
        return os.sendfile(sock.fileno(), file.fileno(), offset, count)

else:

    def _send_file(sock: socket.socket, file: Any, offset: int, count: int) -> int:
        file.seek(offset)
        return sock.send(file.read(min(count, _SEND_BYTES)))


class Outbox:
    """What the client has not taken yet, in order.

    The thread that runs the request puts, the loop flushes; `lock` is held by whoever does.
    Exists only for connections whose socket was full, or whose blocks are being gathered.
    """

    __slots__ = ("_parts", "_room", "bytes_waiting", "gathering", "lock", "sent_bytes", "watched")

    def __init__(self) -> None:
        self._parts: deque[memoryview | FilePart] = deque()
        self.lock = threading.Lock()
        self._room = threading.Condition(self.lock)
        self.bytes_waiting = 0
        self.sent_bytes = 0
        self.watched = False
        """The loop was asked to flush, and does so until the box is empty."""
        self.gathering = False

    def __bool__(self) -> bool:
        return bool(self._parts)

    def put(self, data: bytes | memoryview) -> None:
        """With the lock: append bytes."""
        self._parts.append(memoryview(data))
        self.bytes_waiting += len(data)

    def put_file(self, part: FilePart) -> None:
        """With the lock: append a file. It does not count as waiting: it needs no memory."""
        self._parts.append(part)

    def flush(self, sock: socket.socket) -> bool:
        """With the lock: send what the socket takes; True when nothing is left.

        Raises `OSError` when the connection is broken.
        """
        parts = self._parts
        try:
            while parts:
                part = parts[0]
                if isinstance(part, FilePart):
                    before = part.count
                    try:
                        part.send(sock)
                    finally:
                        self.sent_bytes += before - part.count
                    parts.popleft()
                    part.close()
                elif len(parts) > 1 and len(part) < _SEND_BYTES:
                    self._send_several(sock)
                else:
                    sent = sock.send(part[:_SEND_BYTES])
                    self._take(sent)
        except (BlockingIOError, InterruptedError):
            return False
        finally:
            if self.bytes_waiting <= LOW_WATERMARK_BYTES:
                self._room.notify_all()
        return True

    def _send_several(self, sock: socket.socket) -> None:
        """Small blocks leave in one call."""
        buffers = []
        size = 0
        for part in self._parts:
            if isinstance(part, FilePart) or size >= _SEND_BYTES or len(buffers) == 64:
                break
            buffers.append(part)
            size += len(part)
        self._take(sock.sendmsg(buffers) if hasattr(sock, "sendmsg") else sock.send(buffers[0]))

    def _take(self, sent: int) -> None:
        self.sent_bytes += sent
        self.bytes_waiting -= sent
        parts = self._parts
        while sent:
            part = parts[0]
            assert isinstance(part, memoryview)
            if sent < len(part):
                parts[0] = part[sent:]
                return
            sent -= len(part)
            parts.popleft()

    def wait_for_room(self, is_broken: Callable[[], bool]) -> None:
        """With the lock: wait until the box is below the low watermark or the way is broken.

        Only the thread that runs the request; the loop must be in somebody else's hands.
        """
        while self.bytes_waiting > LOW_WATERMARK_BYTES and not is_broken():
            self._room.wait()

    def discard(self) -> None:
        """With the lock: the connection is gone. Files are closed, a waiting thread wakes up."""
        for part in self._parts:
            if isinstance(part, FilePart):
                part.close()
        self._parts.clear()
        self.bytes_waiting = 0
        self._room.notify_all()
