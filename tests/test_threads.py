"""The crew in a real process: how many threads, who runs what, and who has to wait."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.proc import count_switches, count_threads, needs_proc, read_cpu_s
from tests.serving import Reader, Response, Server, serve, wait_until

WAITING = "tests/applications/waiting.py"


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode()


class Client:
    """A connection that has sent a request, and reads the response when it is asked to."""

    def __init__(self, server: Server, target: str) -> None:
        self.socket = server.connect()
        self.socket.sendall(get(target))

    def read(self) -> Response:
        with Reader(self.socket) as reader:
            return reader.read_response()

    def close(self) -> None:
        self.socket.close()


class Folder:
    """The folder through which /until/NAME is held back and let go."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.env = {"WAITING_FOLDER": str(path)}

    def count_begun(self, name: str) -> int:
        return len(list(self._path.glob(f"{name}.begun.*")))

    def release(self, name: str) -> None:
        (self._path / name).touch()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@contextlib.contextmanager
def clients() -> Iterator[Callable[[Server, str], Client]]:
    """Make clients that are closed at the end."""
    made: list[Client] = []

    def make(server: Server, target: str) -> Client:
        made.append(Client(server, target))
        return made[-1]

    try:
        yield make
    finally:
        for client in made:
            client.close()


def time_requests(server: Server, count: int) -> list[float]:
    """Seconds that each of `count` requests took, one after the other on one connection."""
    durations = []
    with server.connect() as connection, Reader(connection) as reader:
        for _ in range(count):
            began = time.perf_counter()
            connection.sendall(get("/"))
            assert reader.read_response().status == 200
            durations.append(time.perf_counter() - began)
    return durations


@needs_proc
def test_threads_come_when_they_are_needed(folder: Folder) -> None:
    with serve(WAITING, "--threads", "6", env=folder.env) as server, clients() as make:
        assert count_threads(server.pid) == 1
        time_requests(server, 100)
        # The standby; and one or two more if this machine stalls for longer than its patience.
        assert count_threads(server.pid) <= 4
        held = [make(server, "/until/go") for _ in range(10)]
        wait_until(lambda: folder.count_begun("go") == 6)
        assert count_threads(server.pid) <= 7
        folder.release("go")
        for client in held:
            assert client.read().text == "saw go"
        assert count_threads(server.pid) <= 7


def test_never_more_requests_at_once_than_threads(folder: Folder) -> None:
    with serve(WAITING, "--threads", "3", env=folder.env) as server, clients() as make:
        sleepers = [make(server, "/sleep/0.02") for _ in range(40)]
        for client in sleepers:
            assert client.read().status == 200
        most, threads = server.request("GET", "/most").text.split()
        assert most == "3"
        assert int(threads) <= 4
        assert "multithread=True" in server.request("GET", "/").text


def test_one_thread_runs_one_request_at_a_time(folder: Folder) -> None:
    with serve(WAITING, "--threads", "1", env=folder.env) as server, clients() as make:
        first = server.request("GET", "/").text
        assert first.endswith("multithread=False")
        sleepers = [make(server, "/sleep/0.02") for _ in range(20)]
        for client in sleepers:
            assert client.read().status == 200
        for _ in range(20):  # between short ones the loop changes hands
            assert server.request("GET", "/").text == first, "another thread"
        assert server.request("GET", "/most").text == "1 1"


def test_one_thread_is_busy_and_the_network_is_seen_to(folder: Folder) -> None:
    """A broken request is refused while the only thread that runs applications does."""
    with serve(WAITING, "--threads", "1", env=folder.env) as server, clients() as make:
        held = make(server, "/until/go")
        wait_until(lambda: folder.count_begun("go"))
        assert server.exchange(b"This is a sample\r\n").startswith(b"HTTP/1.1 400 ")
        folder.release("go")
        assert held.read().status == 200


@pytest.mark.parametrize("threads", ["2", "16"])
def test_a_fast_request_does_not_wait_for_slow_ones(folder: Folder, threads: str) -> None:
    with serve(WAITING, "--threads", threads, env=folder.env) as server, clients() as make:
        slow = [make(server, "/until/go") for _ in range(int(threads) - 1)]
        wait_until(lambda: folder.count_begun("go") == len(slow))
        durations = time_requests(server, 50)
        # Some may be slow because this machine is; a server that waits makes all of them slow.
        assert statistics.median(durations) < 0.1
        folder.release("go")
        for client in slow:
            assert client.read().status == 200


def test_slow_requests_reach_the_concurrency_of_a_pool(folder: Folder) -> None:
    """32 requests of 50 ms by 16 threads: two rounds, if the take-overs are quick."""
    with serve(WAITING, "--threads", "16", env=folder.env) as server, clients() as make:
        time_requests(server, 1)
        best = 10.0
        for _ in range(5):
            began = time.perf_counter()
            sleepers = [make(server, "/sleep/0.05") for _ in range(32)]
            for client in sleepers:
                assert client.read().status == 200
            best = min(best, time.perf_counter() - began)
        assert best < 0.3


def test_past_the_queue_requests_are_refused(folder: Folder) -> None:
    flags = ("--threads", "1", "--queue", "2")
    with serve(WAITING, *flags, env=folder.env) as server, clients() as make:
        held = make(server, "/until/go")
        wait_until(lambda: folder.count_begun("go"))
        more = [make(server, "/until/go") for _ in range(5)]
        sockets = [client.socket for client in more]
        wait_until(lambda: len(select.select(sockets, [], [], 1)[0]) >= 3)
        refused = []
        for client in more:
            if select.select([client.socket], [], [], 0.2)[0]:
                response = client.read()
                assert response.status == 503
                assert int(response.field("Retry-After") or "") >= 1
                assert response.field("Connection") == "close"
                refused.append(client)
        assert len(refused) == 3, "two are queued"
        folder.release("go")
        for client in [held, *(client for client in more if client not in refused)]:
            assert client.read().status == 200
        assert folder.count_begun("go") == 3


def test_a_queued_request_of_a_client_that_left_is_not_run(folder: Folder) -> None:
    flags = ("--threads", "1", "--access-log")
    with serve(WAITING, *flags, env=folder.env) as server, clients() as make:
        held = make(server, "/until/go")
        wait_until(lambda: folder.count_begun("go"))
        leaver = make(server, "/until/never")
        stayer = make(server, "/")
        leaver.close()
        wait_until(lambda: "GET /until/never HTTP/1.1" in server.stdout())
        line = next(line for line in server.stdout().splitlines() if "never" in line)
        assert '" 499 0 ' in line
        folder.release("go")
        assert held.read().status == 200
        assert stayer.read().status == 200
        assert folder.count_begun("never") == 0


def test_queued_requests_are_run_in_the_order_in_which_they_came(folder: Folder) -> None:
    flags = ("--threads", "1", "--access-log")
    with serve(WAITING, *flags, env=folder.env) as server, clients() as make:
        held = make(server, "/until/go")
        wait_until(lambda: folder.count_begun("go"))
        queued = []
        for number in range(5):
            queued.append(make(server, f"/sleep/0.0{number}"))
            # An answer to somebody else means that this one has been read before.
            server.exchange(b"This is a sample\r\n")
        folder.release("go")
        for client in [held, *queued]:
            assert client.read().status == 200
        wait_until(lambda: server.stdout().count("/sleep/") == 5)
        lines = [line for line in server.stdout().splitlines() if "/sleep/" in line]
        assert [line.split("/sleep/")[1][:4] for line in lines] == [f"0.0{n}" for n in range(5)]


def test_pipelined_requests_are_answered_in_order_beside_slow_ones(folder: Folder) -> None:
    with serve(WAITING, "--threads", "2", env=folder.env) as server, clients() as make:
        slow = make(server, "/until/go")
        wait_until(lambda: folder.count_begun("go"))
        with server.connect() as connection, Reader(connection) as reader:
            connection.sendall(b"".join(get(f"/bytes/{size}") for size in range(1, 200)))
            for size in range(1, 200):
                assert len(reader.read_response().content) == size
        folder.release("go")
        assert slow.read().status == 200


def test_the_first_response_of_a_turn_does_not_wait_for_the_last() -> None:
    """All come while the server stands still, and each of them computes for 3 ms."""
    late = []
    with serve(WAITING, "--threads", "16") as server, clients() as make:
        for _ in range(5):
            made = [make(server, "/") for _ in range(22)]
            for client in made:
                assert client.read().status == 200
            time.sleep(0.1)  # with a moment without requests the standby's patience comes back
            os.kill(server.pid, signal.SIGSTOP)
            try:
                # Which of them is the first of the turn is the poller's: the first or the last.
                short, long = [made[0], made[-1]], made[1:-1]
                for client in made:
                    client.socket.sendall(get("/" if client in short else "/two/0.003"))
            finally:
                os.kill(server.pid, signal.SIGCONT)
            select.select([client.socket for client in short], [], [], 10)
            answered = select.select([client.socket for client in long], [], [], 0)[0]
            late.append(len(answered))
            for client in made:
                assert client.read().status == 200
    # After one or two of the others; after more now and then, when this machine stalls.
    assert statistics.median(late) <= 10, late


def test_an_error_page_does_not_wait_for_close(folder: Folder) -> None:
    """That of a request which was queued, too."""
    with serve(WAITING, "--threads", "1", env=folder.env) as server, clients() as make:
        held = make(server, "/until/go")
        wait_until(lambda: folder.count_begun("go"))
        queued = make(server, "/fail/0/closed")
        assert server.exchange(b"This is a sample\r\n").startswith(b"HTTP/1.1 400 ")
        folder.release("go")
        assert held.read().status == 200
        assert queued.read().status == 500
        folder.release("closed")
        assert server.request("GET", "/closed").text == "1"


@needs_proc
@pytest.mark.parametrize("threads", ["1", "4"])
def test_an_idle_process_sleeps(threads: str) -> None:
    """With open connections, after requests, and with a standby: nothing wakes it up."""
    check_idle(threads, 1.0)


@pytest.mark.slow
@needs_proc
def test_an_idle_process_sleeps_for_long() -> None:
    check_idle("16", 5.0)


def check_idle(threads: str, quiet_s: float) -> None:
    with serve(WAITING, "--threads", threads) as server, server.connect() as connection:
        with Reader(connection) as reader:
            connection.sendall(get("/sleep/0.05") + get("/"))
            assert reader.read_response().status == 200
            assert reader.read_response().status == 200
        # Until the standby goes to sleep too.
        attempts: list[int] = []

        def is_quiet() -> bool:
            before = count_switches(server.pid)
            time.sleep(quiet_s)  # what is measured: how often it wakes up meanwhile
            attempts.append(count_switches(server.pid) - before)
            return attempts[-1] == 0

        wait_until(is_quiet, 10 + 3 * quiet_s)
        assert len(attempts) <= 3, f"context switches in {quiet_s} s: {attempts}"


@needs_proc
def test_waiting_for_slow_requests_costs_nothing(folder: Folder) -> None:
    """The leader polls while the threads sleep; it does not spin."""
    with serve(WAITING, "--threads", "4", env=folder.env) as server, clients() as make:
        slow = [make(server, "/block/2") for _ in range(4)]
        queued = make(server, "/")
        time_started = time.monotonic()
        before = read_cpu_s(server.pid)
        for client in slow:
            assert client.read().status == 200
        assert queued.read().status == 200
        assert time.monotonic() - time_started > 1.0
        assert read_cpu_s(server.pid) - before < 0.3


def test_many_clients_of_every_kind_at_once(folder: Folder) -> None:
    """Fast, slow and computing requests by 24 clients for a while: each answer is its own."""
    targets = {"/": "multithread=True", "/sleep/0.003": "slept", "/spin/0.002": "computed",
               "/sleep/0.02": "slept", "/bytes/5": "\0" * 5}  # fmt: skip
    failures: list[str] = []

    def run(server: Server, number: int) -> None:
        try:
            with server.connect(30) as connection, Reader(connection) as reader:
                for turn in range(40):
                    target = list(targets)[(number + turn) % len(targets)]
                    connection.sendall(get(target))
                    text = reader.read_response().text
                    if targets[target] not in text:
                        failures.append(f"{target}: {text}")
        except Exception as error:
            failures.append(repr(error))

    with serve(WAITING, "--threads", "6", env=folder.env) as server:
        threads = [threading.Thread(target=run, args=(server, number)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert int(server.request("GET", "/most").text.split()[0]) <= 6
