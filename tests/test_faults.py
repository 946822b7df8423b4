"""Every system call that the server makes on its sockets fails once, in turn.

Each visit of a client is made once to count the calls, and then again and again with one of them
failing: the first, the second, and so on, with each error that such a call may have. The client
that was hit may get anything, or nothing. Everybody else must be served, the loop must go on, and
nothing may be left behind: no connection, descriptor, file or thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from rawsgi.config import Settings
from rawsgi.logs import log
from rawsgi.net import buffers
from rawsgi.net import loop as loop_module
from rawsgi.net.listener import open_listeners
from rawsgi.process.worker import Worker
from tests.proc import needs_proc
from tests.serving import Reader, wait_until

ERRORS = {
    "accept": ("EMFILE", "ENFILE", "ECONNABORTED", "EINTR", "ENOBUFS", "EPERM"),
    "recv": ("ECONNRESET", "EINTR", "ETIMEDOUT", "ENOMEM"),
    "send": ("EPIPE", "ECONNRESET", "EINTR", "ENOBUFS", "EAGAIN"),
    "sendmsg": ("EPIPE", "ECONNRESET", "EINTR", "ENOBUFS", "EAGAIN"),
    "sendfile": ("EPIPE", "ECONNRESET", "EINTR", "EIO", "EAGAIN"),
    "shutdown": ("ENOTCONN", "ENOBUFS"),
    "setsockopt": ("EINVAL", "ENOBUFS"),
    "setblocking": ("EBADF",),
    "close": ("EIO", "EINTR", "ECONNRESET"),
    "register": ("ENOSPC", "ENOMEM", "EEXIST"),
    "modify": ("ENOENT", "ENOMEM"),
    "unregister": ("ENOENT", "EBADF"),
    "poll": ("EINTR", "EBADF"),
}


class Faults:
    """Counts the calls, and makes one of them fail."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls: list[str] = []
        self._fail_at = -1
        self._variant = 0
        self.hit = ""
        """Which call has failed, and how; "" if none has yet."""

    def arm(self, number: int, variant: int) -> None:
        """Have the call of this number fail, from now on, in one of its ways."""
        with self._lock:
            self.calls = []
            self._fail_at, self._variant, self.hit = number, variant, ""

    def disarm(self) -> list[str]:
        with self._lock:
            self._fail_at = -1
            return self.calls

    def call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        with self._lock:
            fails = len(self.calls) == self._fail_at
            self.calls.append(name)
            if fails:
                error = ERRORS[name][self._variant % len(ERRORS[name])]
                self.hit = f"{name} {error}"
        if not fails:
            return function(*arguments)
        if name == "close":
            function()  # an error of close(2) does not keep the descriptor open
        number = getattr(errno, error)
        raise OSError(number, os.strerror(number))


class FaultySocket:
    """A socket whose calls may fail."""

    def __init__(self, sock: socket.socket, faults: Faults) -> None:
        self._socket = sock
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._socket, name)
        if name not in ERRORS:
            return function
        return lambda *arguments: self._faults.call(name, function, *arguments)

    def accept(self) -> tuple[FaultySocket, Any]:
        sock, address = self._faults.call("accept", self._socket.accept)
        return FaultySocket(sock, self._faults), address


class FaultyPoller:
    """A poller whose calls may fail."""

    def __init__(self, poller: Any, faults: Faults) -> None:
        self._poller = poller
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._poller, name)
        if name not in ERRORS:
            return function
        return lambda *arguments: self._faults.call(name, function, *arguments)

    def close(self) -> None:
        self._poller.close()


def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The application: everything that makes the server send in another way."""
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/blocks":
        return (b"x" * 20_000 for _ in range(40))
    if path == "/slow-blocks":
        return slow_blocks()
    if path == "/file":
        file = tempfile.TemporaryFile()
        file.write(b"y" * 600_000)
        file.seek(0)
        return environ["wsgi.file_wrapper"](file)  # type: ignore[no-any-return]
    if path == "/large":
        return [b"z" * 2_000_000]
    if path == "/sleep":
        time.sleep(0.02)
    return [b"%d" % len(environ["wsgi.input"].read())]


def slow_blocks() -> Iterator[bytes]:
    for _ in range(4):
        yield b"block"
        time.sleep(0.008)  # longer than the standby waits: the loop changes hands


class Served:
    """A worker in a thread of this process, with faults."""

    def __init__(self, poller: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faults = faults = Faults()
        make_poller = loop_module.make_poller
        monkeypatch.setattr(
            loop_module, "make_poller", lambda kind: FaultyPoller(make_poller(kind), faults)
        )
        sendfile = os.sendfile
        monkeypatch.setattr(
            buffers.os, "sendfile", lambda *arguments: faults.call("sendfile", sendfile, *arguments)
        )
        self.settings = Settings(
            bind=("127.0.0.1:0",),
            access_log=False,
            threads=3,
            poller=poller,
            content_memory_bytes=1000,
            linger_timeout_s=0.2,
            head_timeout_s=5.0,
            write_timeout_s=5.0,
            content_timeout_s=600.0,  # the witness takes its time
            content_rate_bytes=0,
        )
        self.listeners = open_listeners(self.settings.bind, 64)
        self.address = self.listeners[0].socket.getsockname()
        for listener in self.listeners:
            listener.socket = FaultySocket(listener.socket, faults)  # type: ignore[assignment]
        self.broken = threading.Event()
        self.worker = Worker(self.settings, answer, self.listeners)
        self.loop = self.worker.loop
        self.loop.crew._on_broken = self.broken.set
        self.abandoned: list[int] = []
        self.worker._abandon = self.abandoned.append  # type: ignore[method-assign, assignment]
        waker = self.loop._waker
        waker._receiver = FaultySocket(waker._receiver, faults)  # type: ignore[assignment]
        self._sender = waker.sender
        waker.sender = FaultySocket(waker.sender, faults)  # type: ignore[assignment]
        self._thread = threading.Thread(target=self.loop.crew.run)
        self._thread.start()

    def stop(self) -> None:
        self.faults.disarm()
        self._sender.send(bytes([signal.SIGTERM]))
        self._thread.join(10)
        self.loop.close()
        for listener in self.listeners:
            listener.close()
        assert not self._thread.is_alive(), "it does not stop"
        assert self.abandoned == [], "it would have left without its threads"

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)


@pytest.fixture(params=["epoll", "portable"])
def served(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    if request.param == "epoll" and not hasattr(select, "epoll"):
        pytest.skip("there is no epoll here")
    made = Served(request.param, monkeypatch)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def reported() -> Iterator[list[logging.LogRecord]]:
    """What went to the error log; none of it is shown."""
    records: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Handler()
    before = log.propagate, log.level
    log.addHandler(handler)
    log.propagate = False
    log.setLevel("INFO")
    try:
        yield records
    finally:
        log.removeHandler(handler)
        log.propagate, log.level = before


def request(target: str, content: bytes = b"", *fields: str) -> bytes:
    method = "POST" if content else "GET"
    lines = [f"{method} {target} HTTP/1.1", "Host: a.example", *fields]
    if content:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def read_slowly(connection: socket.socket) -> None:
    """So that the server's socket is full now and then."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    for _ in range(30):
        if not connection.recv(5_000):
            return
    while connection.recv(1 << 20):
        pass


def keep_alive(connection: socket.socket) -> None:
    with Reader(connection) as reader:
        for _ in range(2):
            connection.sendall(request("/"))
            reader.read_response()


def pipeline(connection: socket.socket) -> None:
    connection.sendall(request("/") * 3)
    with Reader(connection) as reader:
        for _ in range(3):
            reader.read_response()


def upload(connection: socket.socket) -> None:
    """Above what is kept in memory, in two parts."""
    data = request("/", b"c" * 50_000)
    connection.sendall(data[:20_000])
    time.sleep(0.002)  # so that they arrive apart, more often than not
    connection.sendall(data[20_000:])
    with Reader(connection) as reader:
        reader.read_response()


def expect_continue(connection: socket.socket) -> None:
    data = request("/", b"c" * 2_000, "Expect: 100-continue")
    connection.sendall(data[:-2_000])
    connection.recv(100)
    connection.sendall(data[-2_000:])
    with Reader(connection) as reader:
        reader.read_response()


def visit(*fields: str, target: str) -> Callable[[socket.socket], None]:
    def run(connection: socket.socket) -> None:
        connection.sendall(request(target, b"", "Connection: close", *fields))
        read_slowly(connection)

    return run


def be_refused(connection: socket.socket) -> None:
    connection.sendall(b"This is a sample\r\n")
    read_slowly(connection)


def leave_early(connection: socket.socket) -> None:
    connection.sendall(request("/large"))
    connection.recv(1000)


VISITS: dict[str, Callable[[socket.socket], None]] = {
    "keep-alive": keep_alive,
    "pipeline": pipeline,
    "upload": upload,
    "expect": expect_continue,
    "slow": visit(target="/sleep"),
    "blocks": visit(target="/blocks"),
    "slow blocks": visit(target="/slow-blocks"),
    "file": visit(target="/file"),
    "large": visit(target="/large"),
    "refused": be_refused,
    "left": leave_early,
}


def pay_visit(served: Served, name: str) -> None:
    """Whatever happens to this client is right."""
    connection = None
    with contextlib.suppress(OSError, EOFError, AssertionError):
        connection = served.connect()
        connection.settimeout(1.5)
        VISITS[name](connection)
    if connection is not None:
        connection.close()


class Witness:
    """A client that is there all the time, in the middle of sending something.

    An idle one might have to make room when descriptors are short.
    """

    def __init__(self, served: Served) -> None:
        self.socket = served.connect()
        self._begin()

    def _begin(self) -> None:
        self.socket.sendall(request("/", b"content")[:-4])

    def check(self) -> None:
        """It is answered; and it begins again."""
        self.socket.sendall(b"tent")
        with Reader(self.socket) as reader:
            assert reader.read_response().content == b"7"
        self._begin()


def check_others(served: Served, witness: Witness) -> None:
    """A connection that was there before, and a new one."""
    witness.check()
    with served.connect() as connection, Reader(connection) as reader:
        connection.sendall(request("/", b"content"))
        assert reader.read_response().content == b"7"


def wait_until_gone(served: Served) -> None:
    """Only the witness is left."""
    wait_until(lambda: len(served.loop.connections) == 1)
    wait_until(lambda: served.loop.crew.running == 0)


@needs_proc
@pytest.mark.parametrize("name", VISITS)
def test_a_failing_call_hits_nobody_else(
    served: Served, name: str, reported: list[logging.LogRecord]
) -> None:
    witness = Witness(served)
    with witness.socket:
        check_others(served, witness)
        served.faults.arm(-1, 0)
        pay_visit(served, name)
        wait_until_gone(served)
        plan = served.faults.disarm()
        assert len(plan) > 5, "the calls are not seen"
        pay_visit(served, name)
        check_others(served, witness)
        wait_until_gone(served)
        descriptors = len(os.listdir("/proc/self/fd"))
        for number, call in enumerate(plan):
            for variant in range(len(ERRORS[call])):
                served.faults.arm(number, variant)
                pay_visit(served, name)
                served.faults.disarm()
                what = f"call {number} of {name}: {served.faults.hit or 'none failed'}"
                try:
                    check_others(served, witness)
                    wait_until_gone(served)
                except BaseException as failure:
                    failure.add_note(what)
                    raise
                assert not served.broken.is_set(), what
                assert len(served.loop.crew) <= 4, what
                assert served.loop.crew.parking.count == 0, what
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
        assert len(served.loop.handlers) <= 3, "the witness, the listener and the waker"
    critical = [record.getMessage() for record in reported if record.levelno > logging.ERROR]
    assert critical == []


def test_a_poller_that_always_fails_ends_the_process(
    served: Served, reported: list[logging.LogRecord]
) -> None:
    """Rather than a process that neither serves nor ends. The exit itself is played here."""

    def fail(timeout_s: float) -> list[tuple[int, int]]:
        raise OSError(errno.EBADF, "no poller")

    poller: Any = served.loop.poller
    poller.poll = fail
    served._sender.send(b"\0")
    assert served.broken.wait(10)
    messages = [record.getMessage() for record in reported]
    assert messages.count("the loop has failed, and goes on") == 9
    assert messages[-1] == "a thread of the server has failed: the process ends"
    served._thread.join(10)
    assert not served._thread.is_alive()
    served.loop.crew.stop()  # the standby, if there is one
