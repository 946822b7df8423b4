"""What waits in memory or on disk because one side is slower than the other.

`Spool` holds content that arrives before the application is called; `Outbox` holds what the
client has not taken yet. The rule of this file: each has a bound in memory, whatever application
and client do.
"""

from __future__ import annotations

import errno
import io
import os
import socket
import tempfile
import threading
from collections import deque
from typing import IO, Any

from rawsgi.logs import log
from rawsgi.net.tap import Tap

HIGH_WATERMARK_BYTES = 1 << 17
"""An application that runs ahead of its client by more than this waits."""
LOW_WATERMARK_BYTES = 1 << 15
"""It goes on when no more than this is left."""
GATHER_BYTES = 1 << 16
"""Blocks gathered while the application computes the next one leave at this size at the latest."""

# sendfile(2): "applications may wish to fall back", for file systems that do not have it.
_NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

# One call's worth, and one turn's: a fast reader of a long response does not hold the loop.
_SEND_BYTES = 1 << 18
_TURN_BYTES = 1 << 19


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
        self._file.flush()  # so that it is here that a full disk is noticed
        self.length = length

    def rewind(self) -> IO[bytes]:
        """Return the content as a file at its beginning, to be wsgi.input."""
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # the disk is full, which was said before; it is closed nevertheless


class FileSpan:
    """A span of a file that is on its way out, by a descriptor of its own.

    The application closes its file when it likes, in its own thread, and nothing of it is called
    by the loop.
    """

    __slots__ = ("_copy", "count", "offset")

    def __init__(self, file: Any, offset: int, count: int) -> None:
        """Raises `OSError`: there are no descriptors left; what `file.fileno` raises."""
        # All in C, so that no request timeout comes between the descriptor and its owner.
        (self._copy,) = map(io.FileIO, map(os.dup, (file.fileno(),)))
        self.offset = offset
        self.count = count

    def send(self, sock: socket.socket) -> int:
        """Send some of it; return how many bytes. Raises `OSError`, also `BlockingIOError`."""
        sent = _send_file(sock, self._copy.fileno(), self.offset, min(self.count, _SEND_BYTES))
        if not sent:
            log.error("a file became shorter while it was sent: the response is cut")
            raise OSError(errno.EIO, "the file became shorter while it was sent")
        self.offset += sent
        self.count -= sent
        return sent

    def close(self) -> None:
        """When it was sent, or cannot be. May be called again."""
        self._copy.close()


def _send_file(sock: Any, descriptor: int, offset: int, count: int) -> int:
    if isinstance(sock, Tap):
        return sock.send_file(descriptor, offset, count)
    if hasattr(os, "sendfile"):
        try:
            return os.sendfile(sock.fileno(), descriptor, offset, count)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
    sent: int = sock.send(os.pread(descriptor, count, offset))
    return sent


class Outbox:
    """What the client has not taken yet, in order.

    The thread that runs the request puts, the loop flushes; `lock` is held by whoever does.
    Exists for a response that is large or a file, whose blocks are gathered, or that the socket
    did not take at once.
    """

    __slots__ = ("_parts", "_room", "bytes_waiting", "complete", "gather_bytes", "gathering",
                 "lock", "lost_bytes", "sent_bytes", "throttled", "watched")  # fmt: skip

    def __init__(self, lost_bytes: int = 0) -> None:
        self._parts: deque[bytes | memoryview | FileSpan] = deque()
        self.lock = threading.Lock()
        self._room = threading.Condition(self.lock)
        self.bytes_waiting = 0
        self.sent_bytes = 0
        self.lost_bytes = lost_bytes
        """What was given up: the way is broken."""
        self.complete = False
        """The response was put in whole, and its thread sends nothing more: an interruption
        can neither cut it nor come between sending and the account of it."""
        self.watched = False
        """The loop was asked to flush, and does so until the box is empty."""
        self.gathering = False
        """Only the thread that runs the request flushes, and whoever takes the loop over."""
        self.gather_bytes = GATHER_BYTES
        """So much may wait before it tries to send again."""
        self.throttled = False
        """The thread waits until the client has caught up, and is readmitted."""

    def __bool__(self) -> bool:
        return bool(self._parts)

    def put(self, data: bytes | memoryview) -> None:
        """With the lock: append bytes, which are not empty."""
        self._parts.append(data)
        self.bytes_waiting += len(data)

    def put_file(self, part: FileSpan) -> None:
        """With the lock: append a file. It does not count as waiting: it needs no memory."""
        self._parts.append(part)

    def flush(self, sock: socket.socket) -> bool:
        """With the lock: send what the socket takes, and at most one turn's worth.

        True when nothing is left. Raises `OSError` when the connection is broken.
        """
        parts = self._parts
        turn_ends = self.sent_bytes + _TURN_BYTES
        try:
            while parts:
                part = parts[0]
                if self.sent_bytes >= turn_ends:
                    return False
                if isinstance(part, FileSpan):
                    self.sent_bytes += part.send(sock)
                    if not part.count:
                        parts.popleft()
                        part.close()
                elif len(parts) > 1 and len(part) < _SEND_BYTES:
                    self._send_several(sock)
                else:
                    self._take(sock.send(memoryview(part)[:_SEND_BYTES]))
        except (BlockingIOError, InterruptedError):
            return False
        return True

    def _send_several(self, sock: socket.socket) -> None:
        """Small blocks leave in one call."""
        buffers: list[bytes | memoryview] = []
        size = 0
        for part in self._parts:
            if isinstance(part, FileSpan) or size >= _SEND_BYTES or len(buffers) == 64:
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
            assert not isinstance(part, FileSpan)
            if sent < len(part):
                parts[0] = memoryview(part)[sent:]
                return
            sent -= len(part)
            parts.popleft()

    @property
    def has_room(self) -> bool:
        """The client has caught up."""
        return self.bytes_waiting <= LOW_WATERMARK_BYTES

    def wait_for_room(self) -> None:
        """With the lock: wait until the thread is readmitted: there is room, or the way is broken.

        Only the thread that runs the request; the loop must be in somebody else's hands.
        """
        while self.throttled:
            self._room.wait()

    def readmit(self) -> None:
        """The leader, without the lock: let the waiting thread go on."""
        with self.lock:
            self.throttled = False
            self._room.notify_all()

    def discard(self) -> None:
        """With the lock: the connection is gone. Files are closed; a waiting thread has room."""
        self.lost_bytes += self.bytes_waiting
        for part in self._parts:
            if isinstance(part, FileSpan):
                self.lost_bytes += part.count
                part.close()
        self._parts.clear()
        self.bytes_waiting = 0
