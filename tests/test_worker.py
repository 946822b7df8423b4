"""The worker as a process: signals, how it ends, lost threads, descriptors, log files."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rawsgi.config import Settings, SettingsError
from rawsgi.logs import AccessLog
from rawsgi.process import worker
from rawsgi.process.descriptors import raise_descriptor_limit
from rawsgi.process.replacement import Replacement
from tests.proc import needs_proc
from tests.serving import ROOT, Reader, Server, serve, wait_until
from tests.test_threads import WAITING, Folder, clients, folder, get

__all__ = ["folder"]  # a fixture

OTHERS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


def ended(server: Server) -> bool:
    return server.process.poll() is not None


# -- Signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_is_in_flight(folder: Folder, number: signal.Signals) -> None:
    with serve(WAITING, env=folder.env) as server, clients() as make:
        held = make(server, "/until/go")
        wait_until(lambda: folder.count_begun("go") == 1)
        os.kill(server.pid, number)
        wait_until(lambda: "1 request(s) in flight" in server.stderr())
        folder.release("go")
        assert held.read().text == "saw go"
        wait_until(lambda: ended(server))
        assert "cut" not in server.stderr()


@pytest.mark.parametrize("sent", ["before", "while it stops", "afterwards", "never"])
def test_a_stop_answers_who_was_promised_that_the_connection_is_kept(
    folder: Folder, sent: str
) -> None:
    """The client has its whole response, and the application closes the iterable meanwhile."""
    flags = ("--threads", "2", "--access-log")
    with serve(WAITING, *flags, env=folder.env) as server, server.connect() as connection:
        with Reader(connection) as reader:
            connection.sendall(get("/hold/go"))
            first = reader.read_response()
            assert first.text == "held" and first.field("Connection") is None
            if sent == "before":
                connection.sendall(get("/"))
            os.kill(server.pid, signal.SIGTERM)
            wait_until(lambda: "stopping" in server.stderr())
            if sent == "while it stops":
                connection.sendall(get("/"))
            folder.release("go")
            if sent == "afterwards":
                wait_until(lambda: "/hold/go" in server.stdout())
                connection.sendall(get("/"))
            if sent == "never":
                assert reader.file.read() == b"", "it is not waited for as long as otherwise"
            else:
                last = reader.read_response()
                assert last.status == 200 and last.field("Connection") == "close"
        connection.close()
        wait_until(lambda: ended(server))


def test_a_second_signal_stops_at_once_and_names_what_is_cut(folder: Folder) -> None:
    with serve(WAITING, env=folder.env, exit_code=130) as server, clients() as make:
        make(server, "/until/never?a=%22")
        wait_until(lambda: folder.count_begun("never") == 1)
        os.kill(server.pid, signal.SIGINT)
        wait_until(lambda: "in flight" in server.stderr())
        os.kill(server.pid, signal.SIGINT)
        wait_until(lambda: ended(server))
        text = server.stderr()
        assert "second SIGINT: stopping at once; requests that are cut: \n" in text
        assert re.search(r"\n  GET /until/never\?a=%22, running for \d+\.\d s\n", text)


def test_quit_stops_at_once_without_waiting(folder: Folder, tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    flags = ("--threads", "1", "--bind", f"unix:{path}")
    with serve(WAITING, *flags, env=folder.env) as server, clients() as make:
        make(server, "/until/never")
        wait_until(lambda: folder.count_begun("never") == 1)
        make(server, "/queued")
        # It is in the queue once the loop has answered one that came later.
        assert b" 400 " in server.exchange(b"nonsense\r\n")
        os.kill(server.pid, signal.SIGQUIT)
        wait_until(lambda: ended(server))
        text = server.stderr()
        assert "SIGQUIT: stopping at once; requests that are cut: \n" in text
        assert "GET /until/never, running for " in text
        assert "GET /queued, waiting for a thread for " in text
        assert not path.exists()


def test_quit_tells_what_relaxations_were_needed_in_all() -> None:
    with serve(WAITING, "--allow", "bare-lf") as server:
        for _ in range(3):
            assert server.exchange(b"GET / HTTP/1.0\n\n").startswith(b"HTTP/1.1 200 ")
        os.kill(server.pid, signal.SIGQUIT)
        wait_until(lambda: ended(server))
        assert "3 requests needed --allow bare-lf" in server.stderr()


def test_when_the_graceful_time_is_over_the_requests_are_named(folder: Folder) -> None:
    flags = ("--graceful-timeout", "300ms", "--access-log")
    with serve(WAITING, *flags, env=folder.env, exit_code=0) as server, clients() as make:
        make(server, "/until/never")
        wait_until(lambda: folder.count_begun("never") == 1)
        with server.connect() as unread, server.connect() as uploading:
            uploading.sendall(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123")
            unread.sendall(get("/bytes/67108864"))
            unread.recv(1)
            assert server.stop() == 0
        found = re.search(r"/bytes/67108864 HTTP/1.1. 200 ([0-9]+)", server.stdout())
        assert found and 0 < int(found[1]) < 67108864, "as much as has left"
        text = server.stderr()
        assert "\n  POST /upload, of which not all of the content has come\n" in text
        assert "the time to stop gracefully is over; requests that are cut: \n" in text
        assert re.search(r"\n  GET /until/never, running for \d+\.\d s\n", text)
        assert "\n  GET /bytes/67108864, answered, but its client has not read it all\n" in text


@pytest.mark.parametrize("number", OTHERS)
def test_other_signals_end_nothing_and_are_told(number: signal.Signals) -> None:
    expected = {
        signal.SIGHUP: "SIGHUP: there is no reload yet",
        signal.SIGUSR1: "SIGUSR1: there is no access log",
        signal.SIGUSR2: "SIGUSR2: there is no upgrade",
    }
    with serve(WAITING) as server:
        os.kill(server.pid, number)
        wait_until(lambda: expected[number] in server.stderr())
        assert server.request("GET", "/").status == 200


OWN_HANDLERS = """\
import signal
seen = []
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: seen.append(number))

def app(environ, start_response):
    start_response("200 OK", [])
    return [" ".join(map(str, seen)).encode()]
"""


def test_handlers_of_the_application_stay(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_HANDLERS)
    with serve("own", cwd=tmp_path) as server:
        for number in OTHERS:
            os.kill(server.pid, number)
        wait_until(lambda: server.request("GET", "/").text.count(" ") == 2)
        assert "SIG" not in server.stderr()


def test_nohup_is_respected() -> None:
    command = [sys.executable, "-m", "rawsgi", WAITING, "--port", "0"]
    with subprocess.Popen(
        ["nohup", *command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            while b"Serving" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGUSR2)
            assert b"SIGUSR2" in process.stderr.readline()
        finally:
            process.terminate()
            assert process.wait(20) == 0


def test_closing_the_terminal_stops_gracefully(tmp_path: Path) -> None:
    """As when an ssh session breaks off: the kernel sends SIGHUP to whoever runs there."""
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "def app(environ, start_response):\n"
        "    open('begun', 'w').close()\n"
        "    time.sleep(0.5)\n"
        "    start_response('200 OK', [])\n"
        "    return [b'answered all the same']\n"
    )
    pid, primary = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.environ["PYTHONPATH"] = str(ROOT)
        errors = os.open("errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(errors, 2)
        os.execv(sys.executable, [sys.executable, "-m", "rawsgi", "slow", "--port", "0"])
    status = None
    try:
        text = ""

        def read_errors() -> str:
            nonlocal text
            with contextlib.suppress(FileNotFoundError):
                text = (tmp_path / "errors").read_text()
            return text

        wait_until(lambda: "to stop)\n" in read_errors(), 20)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", text)
        assert found
        with socket.create_connection(("127.0.0.1", int(found[1])), 10) as client:
            client.sendall(get("/"))
            wait_until((tmp_path / "begun").exists)
            os.close(primary)
            primary = -1
            with Reader(client) as reader:
                assert reader.read_response().text == "answered all the same"
        wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0])
        status = 0
        assert "SIGHUP: the terminal was closed: stopping" in read_errors()
        assert "no reload" not in read_errors()
    finally:
        if primary >= 0:
            os.close(primary)
        if status is None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


# -- Threads that are lost ----------------------------------------------------------------------


def test_slow_requests_that_end_by_themselves_end_no_process() -> None:
    """All of the bound at once, answered with 504, and back a moment later."""
    flags = ("--request-timeout", "500ms", "--lost-threads", "4", "--lost-after", "2s")
    with serve(WAITING, *flags) as server, clients() as make:
        for _ in range(2):
            slow = [make(server, "/block/1.2") for _ in range(5)]
            for client in slow:
                assert client.read().status == 504
        began = time.monotonic()
        while time.monotonic() - began < 2.5:  # past the time at which they would count
            assert server.request("GET", "/").status == 200
            time.sleep(0.1)
        assert "stuck" not in server.stderr()


def test_threads_that_stay_lost_end_the_process() -> None:
    flags = ("--request-timeout", "500ms", "--lost-threads", "2", "--lost-after", "2s")
    with serve(WAITING, *flags, exit_code=75) as server, clients() as make:
        stuck = [make(server, "/block/30") for _ in range(2)]
        for client in stuck:
            assert client.read().status == 504
        assert server.request("GET", "/").status == 200, "it serves until the time is over"
        assert "stuck" not in server.stderr()
        wait_until(lambda: ended(server))
        assert "2 threads are stuck: this process asks to be replaced" in server.stderr()
        assert "ends with status 75, for a supervisor to start it anew" in server.stderr()


class FakeLoop:
    """The loop, its clock and its crew, as far as `Replacement` knows them."""

    def __init__(self, threads: int = 4) -> None:
        self.now = 100.0
        self.settings = Settings(threads=threads)
        self.crew = self.clock = self
        self.lost_at: dict[object, float] = {}
        self.scheduled: list[float] = []

    def schedule(self, item: Replacement) -> None:
        self.scheduled.append(item.deadline)


def test_only_threads_that_are_lost_for_long_count() -> None:
    loop = FakeLoop()
    replaced: list[int] = []
    watcher = Replacement(loop, 2, 30.0, replaced.append)  # type: ignore[arg-type]
    loop.lost_at["a"] = 100.0
    watcher.look()
    assert loop.scheduled == [] and replaced == []
    loop.now = loop.lost_at["b"] = 110.0
    watcher.look()
    assert loop.scheduled == [140.0]
    del loop.lost_at["a"]  # it came back
    loop.now = loop.lost_at["c"] = 120.0
    watcher.look()
    assert loop.scheduled == [140.0, 150.0]
    loop.now = 140.0
    watcher.expire(140.0)
    assert loop.scheduled[2:] == [150.0] and replaced == []
    loop.now = 150.0
    watcher.expire(150.0)
    assert replaced == [2]


@pytest.mark.parametrize(("threads", "hopeless"), [(4, 32), (100, 400)])
def test_beyond_hope_nobody_waits(threads: int, hopeless: int) -> None:
    loop = FakeLoop(threads)
    replaced: list[int] = []
    watcher = Replacement(loop, 2, 30.0, replaced.append)  # type: ignore[arg-type]
    for number in range(hopeless):
        assert replaced == []
        loop.lost_at[number] = loop.now
        watcher.look()
    assert replaced == [hopeless]


# -- The descriptor limit -----------------------------------------------------------------------


class FakeLimit:
    """`resource` with limits of its own."""

    RLIMIT_NOFILE = resource.RLIMIT_NOFILE
    RLIM_INFINITY = resource.RLIM_INFINITY

    def __init__(self, soft: int, hard: int) -> None:
        self.limits = soft, hard

    def getrlimit(self, what: int) -> tuple[int, int]:
        return self.limits

    def setrlimit(self, what: int, limits: tuple[int, int]) -> None:
        if limits[0] > limits[1] != self.RLIM_INFINITY:
            raise ValueError("not allowed to raise maximum limit")
        self.limits = limits


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "after", "warned"),
    [
        (1024, 4096, 1000, 4096, False),
        (1024, 1024, 1000, 1024, True),
        (256, 1024, 1000, 1024, True),
        (1024, 1 << 30, 1000, 65536, False),
        (1024, -1, 1000, 65536, False),
        (1024, -1, 100_000, 100_128, False),
        (100_000, 200_000, 1000, 100_000, False),
        (-1, -1, 1000, -1, False),
    ],
)
def test_the_limit_is_raised_as_far_as_it_may_be(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, connections: int, after: int,
    warned: bool,
) -> None:  # fmt: skip
    fake = FakeLimit(soft, hard)
    monkeypatch.setattr("rawsgi.process.descriptors.resource", fake)
    warning = raise_descriptor_limit(connections, 16)
    assert fake.limits == (after, hard)
    assert bool(warning) is warned
    if warned:
        assert "raise the limit to 1128 or more" in warning
        assert "or write --connections 896" in warning


@needs_proc
@pytest.mark.parametrize(("limit", "warned"), [("-Sn", False), ("-n", True)])
def test_the_limit_is_looked_at_before_the_start(limit: str, warned: bool) -> None:
    """Only the soft limit is low, then the hard one too."""
    text = f"ulimit {limit} 300; exec {sys.executable} -m rawsgi {WAITING} --port 0"
    with subprocess.Popen(
        ["bash", "-c", text], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline().decode()
            expected = "warning: 300 descriptors may be open, too few for --connections 1000"
            assert (expected in line) is warned
            if warned:
                line = process.stderr.readline().decode()
            assert line.startswith("Serving ")
            found = re.search(
                r"Max open files +(\d+)", Path(f"/proc/{process.pid}/limits").read_text()
            )
            assert found and (int(found[1]) == 300) is warned
        finally:
            process.terminate()
            assert process.wait(20) == 0


# -- The access log -----------------------------------------------------------------------------


def test_a_log_file_is_opened_anew_after_it_was_moved_away(tmp_path: Path) -> None:
    path, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    with serve(WAITING, "--access-log-file", str(path)) as server:
        assert server.request("GET", "/?before").status == 200
        wait_until(lambda: "/?before" in path.read_text())
        path.rename(moved)
        os.kill(server.pid, signal.SIGUSR1)
        wait_until(lambda: "SIGUSR1: the access log was opened anew" in server.stderr())
        assert server.request("GET", "/?after").status == 200
        wait_until(lambda: "/?after" in path.read_text())
        assert "/?after" not in moved.read_text()
        assert server.stdout() == ""
        path.rename(moved)
        os.kill(server.pid, signal.SIGHUP)
        wait_until(path.exists)


def test_a_log_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rawsgi", WAITING, "--port", "0"]
    path = tmp_path / "none" / "access.log"
    done = subprocess.run(
        [*command, "--access-log-file", str(path)], cwd=ROOT, capture_output=True, text=True,
        timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"rawsgi: --access-log-file {path}: No such file or directory\n"


def test_what_cannot_be_opened_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a garbage collection: a program that tries again would run out of descriptors."""
    opened: list[AccessLog] = []

    def open_log(settings: Settings) -> AccessLog:
        opened.append(AccessLog(path=str(tmp_path / "access.log")))
        return opened[-1]

    def make(*arguments: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(worker, "open_access_log", open_log)
    monkeypatch.setattr(worker, "Loop", make)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="--record"):
        worker.Worker(Settings(record=str(tmp_path / "file")), lambda *_: [], [])
    assert opened == []
    with pytest.raises(OSError, match="Too many"):
        worker.Worker(Settings(), lambda *_: [], [])
    (access_log,) = opened
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(access_log._descriptor)


REFUSED = [
    (b"This is a sample\r\n", '"This is a sample" 400'),
    (b"GET /a\x01\"b HTTP/1.1\r\nHost: a\r\n\r\n", r'"GET /a\x01\x22b HTTP/1.1" 400'),
    (b"\r\nGET / HTTP/1.1\r\nno colon\r\n\r\n", '"GET / HTTP/1.1" 400'),
    (b"\x16\x03\x01\x02\x00", '"-" 400'),
    (b"user=me&password=secret\r\n", '"-" 400'),
    (b"POST /x HTTP/1.1\r\nHost: a\r\nUser-Agent: me\r\nContent-Length: 9999999999\r\n\r\n",
     '"POST /x HTTP/1.1" 413'),
    (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", '"GET /xxxx'),
]  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), REFUSED)
def test_a_refused_request_shows_its_line_and_the_size_of_the_answer(
    data: bytes, expected: str
) -> None:
    with serve(WAITING, "--access-log") as server:
        answer = server.exchange(data)
        content = answer.partition(b"\r\n\r\n")[2]
        wait_until(lambda: server.stdout().endswith("\n"))
        line = server.stdout()
    assert expected in line and line.count("\n") == 1
    assert re.search(rf'" \d\d\d {len(content)} "', line), line


def test_a_timeout_is_answered_and_not_refused() -> None:
    flags = ("--access-log", "--request-timeout", "500ms")
    with serve(WAITING, *flags) as server, server.connect() as connection:
        with Reader(connection) as reader:
            connection.sendall(get("/"))
            assert reader.read_response().status == 200
            time.sleep(1.5)  # the duration is that of the request, not of the connection
            connection.sendall(get("/sleep/1.4"))
            answer = reader.read_response()
        assert answer.status == 504
        wait_until(lambda: "/sleep/1.4" in server.stdout())
        text = server.stderr()
        assert "127.0.0.1: GET /sleep/1.4 answered 504: the application took" in text
        assert "refused" not in text
        found = re.search(r'"GET /sleep/1.4 HTTP/1.1" 504 (\d+) "-" "-" ([0-9.]+)', server.stdout())
        assert found and int(found[1]) == len(answer.content)
        assert 0.5 <= float(found[2]) < 1.5


def test_the_stack_of_a_slow_request_is_that_of_the_application() -> None:
    with serve(WAITING, "--slow-request", "200ms") as server, clients() as make:
        slow = make(server, "/sleep/1")
        assert slow.read().status == 200
        text = server.stderr()
        assert "has been running" in text
        stack = text.partition("just now here:\n")[2]
        assert "in app\n" in stack and "in sleep\n" in stack
        assert "gateway.py" not in stack and "crew.py" not in stack


def test_clients_that_leave_in_the_middle_are_no_news() -> None:
    with serve(WAITING, "--access-log") as server:
        with server.connect() as connection:
            connection.sendall(b"GET /half HTTP/1.1\r\nHos")
            connection.shutdown(socket.SHUT_WR)
            select.select([connection], [], [], 10)
        wait_until(lambda: "/half" in server.stdout())
        assert "info:" not in server.stderr()
