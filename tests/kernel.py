"""A kernel of its own: sockets, a poller, files and threads whose every call may fail.

Why it exists: a real kernel cannot be told to fail at the third call. This one lives in memory,
counts the server's calls, and lets one of them fail with an error of one's choice. Its time is
that of a `Schedule`, and one thread moves at a time: the same plan gives the same run.
Its rule: only what the server calls is counted; clients and applications have calls that never
fail. Where real kernels differ, it does the worst: a reset destroys what was not read, small
buffers make every send a partial one, and the lowest number is given to the next descriptor.
"""

from __future__ import annotations

import errno
import io
import os
import socket
import types
from collections.abc import Callable, Iterable
from typing import Any

from rawsgi.net.client.connection import READ, WRITE
from tests.interleaving import Runner, Schedule, ScheduledThread

HANG_UP = 16
FAILURE = b"HTTP/1.1 5"
"""How the server begins to say that something is wrong."""
BUFFER_BYTES = 6000
"""What one direction of a connection takes until it is read."""

ERRORS: dict[str, tuple[str, ...]] = {
    "accept": ("EAGAIN", "EINTR", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED",
               "EPERM", "EPROTO"),
    "recv": ("EAGAIN", "EINTR", "ECONNRESET", "ETIMEDOUT", "ENOMEM", "EHOSTUNREACH"),
    "send": ("EAGAIN", "EINTR", "EPIPE", "ECONNRESET", "ENOBUFS", "ENOMEM", "ETIMEDOUT"),
    "sendmsg": ("EAGAIN", "EINTR", "EPIPE", "ECONNRESET", "ENOBUFS", "ENOMEM"),
    "sendfile": ("EAGAIN", "EINTR", "EPIPE", "ECONNRESET", "EIO", "ENOMEM", "EINVAL", "ENOSYS"),
    "shutdown": ("ENOTCONN", "ENOBUFS"),
    "setsockopt": ("EINVAL", "ENOBUFS"),
    "setblocking": ("EBADF",),
    "close": ("EIO", "EINTR", "ECONNRESET"),
    "register": ("ENOSPC", "ENOMEM", "EEXIST", "EBADF"),
    "modify": ("ENOENT", "ENOMEM", "EBADF"),
    "unregister": ("ENOENT", "EBADF"),
    "poll": ("EINTR", "ENOMEM", "EBADF"),
    "wake": ("EAGAIN", "EINTR", "EPIPE", "ENOBUFS", "ENOMEM"),
    "woken": ("EAGAIN", "EINTR", "ENOMEM"),
    "open": ("EMFILE", "ENFILE", "ENOSPC", "EACCES", "ENOMEM"),
    "write": ("ENOSPC", "EIO", "EDQUOT"),
    "flush": ("ENOSPC", "EIO"),
    "seek": ("EIO",),
    "read": ("EIO",),
    "close file": ("EIO", "ENOSPC"),
    "start thread": ("ENOMEM",),
}  # fmt: skip
"""What each call may fail with."""

TRANSIENT = frozenset(("EAGAIN", "EINTR"))
"""Not now: whoever tries again has lost nothing."""


class End:
    """One end of a connection: what has arrived, and what it knows of the other."""

    def __init__(self) -> None:
        self.arrived = bytearray()
        self.peer: End
        self.has_ended = False
        """The peer sends nothing more."""
        self.is_reset = False
        self.is_shut = False
        """This end sends nothing more."""
        self.is_closed = False

    @property
    def is_readable(self) -> bool:
        return bool(self.arrived) or self.has_ended or self.is_reset

    @property
    def room_bytes(self) -> int:
        return BUFFER_BYTES - len(self.peer.arrived)

    @property
    def is_writable(self) -> bool:
        return self.is_reset or self.peer.is_closed or self.room_bytes > 0

    def take(self, size: int, peek: bool = False) -> bytes:
        """Raises `OSError` after a reset, and when there is nothing."""
        if self.is_reset:
            raise make_error("ECONNRESET")
        if not self.arrived and not self.has_ended:
            raise make_error("EAGAIN")
        data = bytes(self.arrived[:size])
        if not peek:
            del self.arrived[:size]
        return data

    def put(self, data: bytes) -> int:
        """Raises `OSError` when nobody is there, and when there is no room."""
        if self.is_reset or self.is_shut or self.peer.is_closed:
            raise make_error("EPIPE")
        count = min(self.room_bytes, len(data))
        if not count:
            raise make_error("EAGAIN")
        self.peer.arrived += data[:count]
        return count

    def shut(self) -> None:
        self.is_shut = self.peer.has_ended = True

    def close(self, reset: bool = False) -> None:
        """Unread bytes make a reset of it (RFC 9293 section 3.10.4)."""
        if not self.is_closed:
            self.is_closed = True
            if self.arrived or reset:
                self.peer.is_reset = True
                self.peer.arrived.clear()
            self.shut()


def connect() -> tuple[End, End]:
    """Return both ends of a new connection."""
    ours, theirs = End(), End()
    ours.peer, theirs.peer = theirs, ours
    return ours, theirs


def make_error(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))


class Socket:
    """A socket of the server. `None` for an end: it listens."""

    type = socket.SOCK_STREAM
    family = socket.AF_INET

    def __init__(self, kernel: Kernel, end: End | None, prefix: str = "") -> None:
        self._kernel = kernel
        self.end = end
        self.backlog: list[End] = []
        self._names = ("woken", "wake") if prefix else ("recv", "send")
        self._number = kernel.open_descriptor(self)

    def fileno(self) -> int:
        return self._number

    @property
    def events(self) -> int:
        """What the poller would report."""
        end = self.end
        if end is None:
            return READ if self.backlog else 0
        over = end.is_reset or (end.has_ended and end.is_shut)
        return (
            (READ if end.is_readable else 0)
            | (WRITE if end.is_writable else 0)
            | (HANG_UP if over else 0)
        )

    def accept(self) -> tuple[Socket, Any]:
        if self.backlog:  # otherwise it says EAGAIN anyway
            self._kernel.enter("accept")
        if not self.backlog:
            raise make_error("EAGAIN")
        return Socket(self._kernel, self.backlog.pop(0)), ("127.0.0.1", 40000)

    def recv(self, size: int, flags: int = 0) -> bytes:
        assert self.end is not None
        self._kernel.enter(self._names[0])
        return self.end.take(size, bool(flags & socket.MSG_PEEK))

    def send(self, data: bytes | memoryview) -> int:
        assert self.end is not None
        self._kernel.enter(self._names[1])
        return self.end.put(bytes(data))

    def sendmsg(self, buffers: Iterable[bytes | memoryview]) -> int:
        assert self.end is not None
        self._kernel.enter("sendmsg")
        return self.end.put(b"".join(buffers))

    def setblocking(self, flag: bool) -> None:
        self._kernel.enter("setblocking")

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self._kernel.enter("setsockopt")

    def shutdown(self, how: int) -> None:
        assert self.end is not None
        self._kernel.enter("shutdown")
        self.end.shut()
        if how == socket.SHUT_RDWR:
            self.end.has_ended = True

    def close(self) -> None:
        """An error of close(2) does not keep the descriptor open."""
        if self._number < 0:
            return
        self._kernel.close_descriptor(self._number)
        self._number = -1
        if self.end is not None:
            self.end.close()
        for end in self.backlog:
            end.close(reset=True)
        self._kernel.enter("close")


class Poller:
    """epoll, level-triggered. A descriptor that is closed is forgotten by itself."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.watched: dict[int, int] = {}

    def register(self, fd: int, mask: int) -> None:
        self._kernel.enter("register")
        self._check(fd, fd not in self.watched, "EEXIST")
        self.watched[fd] = mask

    def modify(self, fd: int, mask: int) -> None:
        self._kernel.enter("modify")
        self._check(fd, fd in self.watched, "ENOENT")
        self.watched[fd] = mask

    def unregister(self, fd: int) -> None:
        # Where it fails, the kernel has never known, or has forgotten, the descriptor.
        self.watched.pop(fd, None)
        self._kernel.enter("unregister")

    def _check(self, fd: int, condition: bool, name: str) -> None:
        if fd not in self._kernel.descriptors:
            raise make_error("EBADF")
        if not condition:
            raise make_error(name)

    def poll(self, timeout_s: float, limit: int) -> list[tuple[int, int]]:
        kernel = self._kernel
        kernel.enter("poll")
        kernel.polls += 1
        timeout = None if timeout_s < 0 else timeout_s
        kernel.schedule.wait(self._find_ready, timeout, f"poll({timeout})")
        return self._find_ready()[:limit]

    def _find_ready(self) -> list[tuple[int, int]]:
        """The loop sees to the last one first: to those who come anew, before those who ask."""
        ready = []
        descriptors = self._kernel.descriptors
        for fd, mask in self.watched.items():
            events = descriptors[fd].events & (mask | HANG_UP)
            if events:
                ready.append((fd, events))
        ready.sort(key=lambda entry: descriptors[entry[0]].end is None)
        return ready

    def close(self) -> None:
        self.watched.clear()


class File(io.BytesIO):
    """A temporary file."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        super().__init__()
        kernel.enter("open")
        kernel.files.append(self)

    def write(self, data: Any) -> int:
        self._kernel.enter("write")
        return super().write(data)

    def flush(self) -> None:
        self._kernel.enter("flush")

    def seek(self, offset: int, whence: int = 0) -> int:
        self._kernel.enter("seek")
        return super().seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        self._kernel.enter("read")
        return super().read(size)

    def close(self) -> None:
        if not self.closed:
            super().close()
            if self._kernel.is_armed:  # not when the interpreter sweeps up after a failure
                self._kernel.enter("close file")


class Kernel:
    """Everything that the server calls, and the one call that is to fail."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.descriptors: dict[int, Socket] = {}
        self.files: list[File] = []
        self.poller: Poller
        self.calls: list[str] = []
        self.polls = 0
        self.is_armed = False
        """Calls are counted, and may fail."""
        self.fail_at = -1
        self.error = ""
        self.broken = ""
        """A call that always fails."""
        self.hit = ""
        """Which call has failed, and how; "" if none has yet."""

    def enter(self, name: str) -> None:
        """A call of the server. Raises `OSError` if it is the one."""
        self.schedule.step()
        if not self.is_armed:
            return
        number = len(self.calls)
        self.calls.append(name)
        if name == self.broken:
            raise make_error(ERRORS[name][-1])
        if number == self.fail_at:
            self.hit = f"{name} {self.error}"
            raise make_error(self.error)

    def open_descriptor(self, opened: Socket) -> int:
        number = 3
        while number in self.descriptors:
            number += 1
        self.descriptors[number] = opened
        return number

    def close_descriptor(self, number: int) -> None:
        del self.descriptors[number]
        self.poller.watched.pop(number, None)

    # -- What modules of the server call by name -------------------------------------------------

    def make_poller(self, kind: str) -> Poller:
        self.poller = Poller(self)
        return self.poller

    def make_pair(self) -> tuple[Socket, Socket]:
        """The two ends of the waker."""
        ours, theirs = connect()
        return Socket(self, ours, "wake"), Socket(self, theirs, "wake")

    def send_file(self, out_fd: int, in_fd: int, offset: int, count: int) -> int:
        self.enter("sendfile")
        end = self.descriptors[out_fd].end
        assert end is not None
        return end.put(os.pread(in_fd, count, offset))

    def make_thread(
        self, target: Callable[..., None], args: Any, name: str, daemon: bool
    ) -> Thread:
        return Thread(self, target, args, name)

    def make_file(self, prefix: str = "") -> File:
        return File(self)

    def send_signal(self, wakeup: Any, number: int) -> None:
        """What `signal.set_wakeup_fd` has the interpreter do."""
        wakeup.end.put(bytes((number,)))


class Thread(ScheduledThread):
    """A thread whose start may fail, as `threading.Thread.start` says it."""

    def __init__(self, kernel: Kernel, target: Any, args: Any, name: str) -> None:
        super().__init__(kernel.schedule, target, args, name)
        self._kernel = kernel

    def start(self) -> None:
        try:
            self._kernel.enter("start thread")
        except OSError:
            self.can_start = False
        super().start()


class Client:
    """Whoever talks to the server. Each has a thread of its own, in which its calls wait."""

    def __init__(self, schedule: Schedule, listening: Socket) -> None:
        self._schedule = schedule
        self._end, theirs = connect()
        self.received = bytearray()
        self.outcome = ""
        """"closed" or "reset" once the server has ended the connection."""
        self.bring_another: Callable[[], Client]
        """A further client of the same visit."""
        listening.backlog.append(theirs)

    def send(self, data: bytes) -> None:
        """Wait until all of it is sent, or nobody takes it."""
        while data:
            self._schedule.wait(lambda: self._end.is_writable, None, "client sends")
            try:
                data = data[self._end.put(data) :]
            except OSError:
                return

    def read(self, size: int = BUFFER_BYTES) -> bool:
        """Wait for something; False when nothing more comes."""
        self._schedule.wait(lambda: self._end.is_readable, None, "client reads")
        try:
            data = self._end.take(size)
        except OSError:
            self.outcome = "reset"
            return False
        self.received += data
        if not data:
            self.outcome = "closed"
        return bool(data)

    def read_until(self, mark: bytes, count: int = 1, size: int = BUFFER_BYTES) -> bool:
        """Wait until the mark has come so often; False when it never will."""
        while self.received.count(mark) < count:
            if self.received.rfind(FAILURE) >= 0:
                self.pause(0.05)  # for the rest of it
                self.read_waiting()
                return False
            if not self.read(size):
                return False
        return True

    def read_waiting(self) -> None:
        """What is there already."""
        while not self._end.is_closed and self._end.is_readable and self.read():
            pass

    def read_to_end(self, size: int = BUFFER_BYTES) -> None:
        while self.read(size):
            pass

    @property
    def now(self) -> float:
        return self._schedule.now

    def pause(self, duration_s: float) -> None:
        self._schedule.sleep(duration_s)

    def shut(self) -> None:
        self._end.shut()

    def close(self) -> None:
        self._end.close()

    def reset(self) -> None:
        self._end.close(reset=True)


class Condition:
    """`threading.Condition` with what the server uses of it."""

    def __init__(self, schedule: Schedule, lock: Any) -> None:
        self._schedule = schedule
        self._lock = lock
        self._waiting: dict[Runner, bool] = {}

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__()

    def wait(self, timeout: float | None = None) -> bool:
        me = self._schedule.current
        self._waiting[me] = False
        self._lock.__exit__()
        woken = self._schedule.wait(lambda: self._waiting[me], timeout, "condition")
        del self._waiting[me]
        self._lock.__enter__()
        return woken

    def notify(self) -> None:
        for runner, woken in self._waiting.items():
            if not woken:
                self._waiting[runner] = True
                return

    def notify_all(self) -> None:
        for runner in self._waiting:
            self._waiting[runner] = True


def make_listener(kernel: Kernel) -> Any:
    """What `Worker` uses of a `Listener`."""
    listening = Socket(kernel, None)
    return types.SimpleNamespace(
        socket=listening,
        is_unix=False,
        server_name="127.0.0.1",
        server_port="8000",
        close=listening.close,
    )
