"""Deadlines in a real process: for what clients send and read, and for what applications take."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rawsgi.net.client.buffers import Outbox
from rawsgi.net.client.exchange import Exchange
from rawsgi.net.crew.interruption import RequestTimeout, interrupt
from rawsgi.net.crew.member import Member
from rawsgi.wsgi.gateway import Gateway
from tests.played_connection import Client
from tests.proc import count_threads, needs_proc
from tests.serving import Reader, Server, serve, wait_until
from tests.test_threads import WAITING, Folder, clients, folder, get, time_requests

__all__ = ["folder"]  # a fixture

# How late a deadline may be noticed: the machine may be busy with something else.
LATE_S = 3.0


@contextlib.contextmanager
def takes(at_least_s: float, at_most_s: float) -> Iterator[None]:
    """What is inside takes so long."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert at_least_s - 0.02 <= took <= at_most_s + LATE_S, f"it took {took:.2f} s"


def read_until_closed(connection: socket.socket, timeout_s: float = 15.0) -> bytes:
    """Everything until the server closes; a reset counts as closing."""
    connection.settimeout(timeout_s)
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(1 << 20):
            received += data
    return bytes(received)


# -- What clients send -----------------------------------------------------------------------------


def test_a_head_that_does_not_end_in_time_gets_408() -> None:
    with serve(WAITING, "--head-timeout", "500ms") as server:
        with takes(0.5, 0.5), server.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a.ex")
            answer = read_until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("responses", [0, 1])
def test_bytes_now_and_then_do_not_prolong_a_head(responses: int) -> None:
    with serve(WAITING, "--head-timeout", "800ms") as server:
        with takes(0.8, 0.8), server.connect() as connection:
            if responses:
                connection.sendall(get("/"))
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            for byte in b"GET / HTTP/1.1\r\nHost: a.example\r\nX: " + b"y" * 1000:
                connection.sendall(bytes((byte,)))
                if select.select([connection], [], [], 0.05)[0]:
                    break
            assert read_until_closed(connection).startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    with serve(WAITING, "--head-timeout", "500ms") as server:
        with takes(0.5, 0.5), server.connect() as connection:
            assert read_until_closed(connection) == b""


def test_an_idle_connection_is_closed_without_a_word() -> None:
    with serve(WAITING, "--keep-alive-timeout", "1s") as server, server.connect() as connection:
        with Reader(connection) as reader:
            connection.sendall(get("/"))
            assert reader.read_response().status == 200
            with takes(1.0, 1.0):
                connection.sendall(get("/"))
                assert reader.read_response().status == 200
                assert read_until_closed(connection) == b""


def test_the_head_after_an_idle_time_has_its_own_deadline() -> None:
    """What is left of the idle time does not count for the head."""
    flags = ("--keep-alive-timeout", "30s", "--head-timeout", "500ms")
    with serve(WAITING, *flags) as server, server.connect() as connection:
        with Reader(connection) as reader:
            connection.sendall(get("/"))
            assert reader.read_response().status == 200
            with takes(0.5, 0.5):
                connection.sendall(b"GET / HTTP/1.1\r\n")
                assert read_until_closed(connection).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("pipelined", [True, False])
def test_a_head_outlives_the_idle_time_in_which_it_began(pipelined: bool) -> None:
    flags = ("--keep-alive-timeout", "1s", "--head-timeout", "20s")
    half, rest = get("/")[:20], get("/")[20:]
    with serve(WAITING, *flags) as server, server.connect() as connection:
        with Reader(connection) as reader:
            connection.sendall(get("/") + half * pipelined)
            assert reader.read_response().status == 200
            connection.sendall(half * (not pipelined))
            assert not select.select([connection], [], [], 1.4)[0], "neither closed nor answered"
            connection.sendall(rest)
            assert reader.read_response().status == 200


def test_content_that_pauses_for_too_long_gets_408() -> None:
    with serve(WAITING, "--content-timeout", "500ms") as server, server.connect() as connection:
        with takes(0.5, 0.5):
            connection.sendall(
                b"POST /read HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000\r\n\r\nabc"
            )
            assert read_until_closed(connection).startswith(b"HTTP/1.1 408 ")


def test_content_that_comes_too_slowly_gets_408() -> None:
    """Never a pause, but 20 bytes a second where 1000 are asked for."""
    flags = ("--content-timeout", "1s", "--content-rate", "1000")
    with serve(WAITING, *flags) as server, server.connect() as connection:
        with takes(1.0, 1.5):
            connection.sendall(
                b"POST /read HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000\r\n\r\n"
            )
            for _ in range(200):
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"x")
                if select.select([connection], [], [], 0.05)[0]:
                    break
            assert read_until_closed(connection).startswith(b"HTTP/1.1 408 ")


def test_content_that_keeps_its_rate_may_take_its_time() -> None:
    flags = ("--content-timeout", "1s", "--content-rate", "100")
    with serve(WAITING, *flags) as server, server.connect() as connection:
        connection.sendall(
            b"POST /read HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1600\r\n\r\n"
        )
        with takes(1.5, 3.0):
            for _ in range(16):
                connection.sendall(b"x" * 100)
                assert not select.select([connection], [], [], 0.12)[0] or _ == 15
            with Reader(connection) as reader:
                assert reader.read_response().text == "1600"


# -- What clients read -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "blocks", "file"])
def test_a_client_that_does_not_read_is_cut_off(kind: str) -> None:
    flags = ("--write-timeout", "500ms", "--log-level", "info")
    with serve(WAITING, *flags) as server, server.connect() as connection:
        connection.sendall(get(f"/{kind}/67108864"))
        wait_until(lambda: "reads its response too slowly" in server.stderr())
        assert len(read_until_closed(connection)) < 67108864
        wait_until(lambda: server.request("GET", "/closed").text == str(int(kind == "blocks")))


def test_a_client_that_reads_too_slowly_is_cut_off() -> None:
    """Never a pause of 500 ms, but less than a tenth of the rate that is asked for."""
    flags = ("--write-timeout", "500ms", "--write-rate", "10MB", "--log-level", "info")
    with serve(WAITING, *flags) as server, server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.sendall(get("/bytes/67108864"))
        deadline = time.monotonic() + 20
        while "reads its response too slowly" not in server.stderr():
            assert time.monotonic() < deadline
            with contextlib.suppress(ConnectionResetError):
                connection.recv(1 << 15)
            time.sleep(0.05)


def test_a_client_that_pauses_now_and_then_gets_everything() -> None:
    flags = ("--write-timeout", "2s", "--write-rate", "1000")
    with serve(WAITING, *flags) as server, server.connect() as connection:
        connection.sendall(get("/blocks/16777216"))
        with Reader(connection) as reader:
            for _ in range(4):
                time.sleep(0.3)
                reader.file.peek(1)  # type: ignore[attr-defined]
            assert len(reader.read_response().content) == 16777216


def test_after_an_error_response_the_server_does_not_wait_for_long() -> None:
    with serve(WAITING, "--linger-timeout", "500ms") as server, server.connect() as connection:
        connection.sendall(b"This is a sample\r\n")
        assert read_until_closed(connection).startswith(b"HTTP/1.1 400 ")  # the half-close
        with takes(0.0, 0.5), contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:  # until it closes the other half too
                connection.sendall(b"x")
                time.sleep(0.02)


# -- What applications take ------------------------------------------------------------------------


def test_the_stack_of_a_slow_request_is_logged_once(folder: Folder) -> None:
    flags = ("--slow-request", "300ms", "--threads", "2")
    with serve(WAITING, *flags, env=folder.env) as server, clients() as make:
        slow = make(server, "/until/go?quoted=%22x")
        wait_until(lambda: "has been running" in server.stderr())
        wait_until(lambda: "time.sleep(0.005)" in server.stderr() or
                   "path.exists()" in server.stderr())  # fmt: skip
        for _ in range(10):  # it stays with the one
            time_requests(server, 1)
            time.sleep(0.1)
        folder.release("go")
        assert slow.read().status == 200
        text = server.stderr()
        # Of the others one may be slow because this machine is.
        found = re.findall(r"GET /until/go\?quoted=%22x has been running for ([0-9.]+) s", text)
        assert len(found) == 1
        assert 0.3 <= float(found[0]) <= 0.3 + LATE_S
        assert "in wait_for_file" in text


def test_slow_requests_are_not_logged_unless_asked_for() -> None:
    with serve(WAITING, "--slow-request", "0", "--threads", "2") as server:
        assert server.request("GET", "/sleep/0.3").text == "slept"
        assert "running" not in server.stderr()


@needs_proc
@pytest.mark.parametrize("threads", ["1", "4"])
@pytest.mark.parametrize("kind", ["sleep", "spin", "block"])
def test_a_request_past_its_time_gets_504_and_others_go_on(kind: str, threads: str) -> None:
    flags = ("--request-timeout", "1s", "--threads", threads)
    with serve(WAITING, *flags) as server, clients() as make:
        with takes(1.0, 1.0):
            stuck = make(server, f"/{kind}/4")
            assert stuck.read().status == 504
        assert re.search(rf"GET /{kind}/4 timed out after [1-3]\.\d s", server.stderr())
        assert f"in {kind}" in server.stderr(), "where it stood"
        for _ in range(5):
            assert server.request("GET", "/").status == 200
        wait_until(lambda: count_threads(server.pid) <= 4)


def test_the_late_response_meets_nobody() -> None:
    """After its 504 a thread comes back with a response; the next clients get their own."""
    flags = ("--request-timeout", "600ms", "--threads", "2")
    with serve(WAITING, *flags) as server, clients() as make:
        for _ in range(3):
            stuck = make(server, "/block/1.2")
            assert stuck.read().status == 504
            end = time.monotonic() + 0.9
            while time.monotonic() < end:
                assert "multithread" in server.request("GET", "/").text
        assert "blocked" not in server.stderr()


def test_a_response_that_has_begun_is_cut_at_the_timeout() -> None:
    with serve(WAITING, "--request-timeout", "1s") as server, server.connect() as connection:
        connection.sendall(get("/ticks/0.05"))
        answer = read_until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert not answer.endswith(b"0\r\n\r\n"), "as if it were complete"
        wait_until(lambda: server.request("GET", "/closed").text == "1")


def stop_gathering(exchange: Exchange) -> None:
    exchange.stop_gathering()


def fail(exchange: Exchange) -> None:
    exchange.abort("it was interrupted")


@pytest.mark.parametrize("step", [stop_gathering, fail])
def test_after_an_interrupted_send_nothing_is_sent_any_more(
    step: Callable[[Exchange], None],
) -> None:
    """Nobody knows how much has left: what is thought to wait might be sent twice."""
    client = Client()
    outbox = client.connection.outbox = Outbox()
    outbox.put(b"sent, and not yet taken out")
    outbox.gathering = True
    client.socket.room = 1000
    client.connection.broken = True  # as at the request timeout
    step(client.exchange)
    assert client.socket.attempts == 0
    assert not outbox and not client.loop.posts


@pytest.mark.parametrize("begun", [True, False])
def test_what_closes_a_response_that_was_cut_is_not_interrupted(begun: bool) -> None:
    """The thread may see that the connection is broken before the interruption arrives."""
    client = Client()
    client.exchange.gathers = True
    client.exchange.claim = [None]
    member = client.exchange.member = Member(runs_applications=True)
    connection = client.connection
    reached, go_on, interrupted = threading.Event(), threading.Event(), threading.Event()
    closed: list[str] = []

    class Result:
        def __iter__(self) -> Iterator[bytes]:
            if begun:
                yield b"first"
            reached.set()
            go_on.wait(10)
            yield b"too late"
            pytest.fail("the client is gone")

        def close(self) -> None:
            closed.append("begun")
            interrupted.wait(10)
            for _ in range(1000):
                closed[-1] = "ended"

    class WatchedExchange(Exchange):
        __slots__ = ()

        def absorb_timeout(self) -> None:
            absorbing.set()
            super().absorb_timeout()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Result:
        start_response("200 OK", [])
        return Result()

    def run() -> None:
        with contextlib.suppress(RequestTimeout):
            Gateway(application).run(client.exchange)

    absorbing = threading.Event()
    client.exchange.__class__ = WatchedExchange
    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert reached.wait(10)
        with member.lock:  # what the leader does at the timeout, with the steps far apart
            member.lost = True
            if begun:
                connection.broken = True
            else:
                client.exchange.claim.pop()
            go_on.set()
            assert absorbing.wait(10)
            assert thread.ident is not None
            interrupt(thread.ident)
    finally:
        interrupted.set()
        go_on.set()
        thread.join(10)
    assert not thread.is_alive()
    assert closed == ["ended"]


def test_requests_that_end_in_time_are_never_hit(folder: Folder) -> None:
    """Around the timeout, by many threads: 200, or 504, and never somebody else's exception."""
    flags = ("--request-timeout", "60ms", "--threads", "4", "--lost-threads", "100000")
    statuses: list[int] = []

    def run(server: Server, number: int) -> None:
        for turn in range(25):
            duration = 0.05 + 0.001 * ((number * 7 + turn) % 20)
            statuses.append(server.request("GET", f"/sleep/{duration:.3f}").status)
            statuses.append(server.request("GET", "/").status)

    with serve(WAITING, *flags) as server:
        threads = [threading.Thread(target=run, args=(server, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(statuses) == 200
        # 503: a loaded machine let it wait for a thread until its time was over.
        assert set(statuses) <= {200, 503, 504}
        assert statuses.count(200) >= 20
        log = server.stderr()
        assert "the server failed" not in log
        assert "the loop has failed" not in log
        wait_until(lambda: server.request("GET", "/").status == 200)


def test_too_many_lost_threads_end_the_process_with_its_own_status() -> None:
    flags = ("--request-timeout", "300ms", "--lost-threads", "3", "--lost-after", "0s")
    with serve(WAITING, *flags, exit_code=75) as server, clients() as make:
        stuck = [make(server, "/block/30") for _ in range(3)]
        for client in stuck:
            assert client.read().status == 504
        assert server.process.wait(15) == 75
        assert "3 threads are stuck: this process asks to be replaced" in server.stderr()


def test_threads_that_come_back_are_not_counted_as_lost() -> None:
    flags = ("--request-timeout", "400ms", "--lost-threads", "2", "--lost-after", "0s")
    with serve(WAITING, *flags) as server:
        for _ in range(4):
            assert server.request("GET", "/sleep/0.8").status == 504
            time.sleep(0.8)
        assert server.request("GET", "/").status == 200
        assert "asks to be replaced" not in server.stderr()


def test_stopping_does_not_wait_for_a_lost_main_thread() -> None:
    """The first request runs in the main thread, and is stuck in C for longer than the test."""
    flags = ("--request-timeout", "300ms", "--threads", "2")
    with serve(WAITING, *flags) as server, clients() as make:
        assert make(server, "/block/60").read().status == 504
        with takes(0.0, 3.0):
            assert server.stop() == 0


def test_stopping_waits_for_a_lost_main_thread_that_came_back() -> None:
    flags = ("--request-timeout", "400ms", "--threads", "2")
    with serve(WAITING, *flags) as server, clients() as make:
        assert make(server, "/block/1").read().status == 504
        time.sleep(1.1)
        assert server.request("GET", "/").status == 200
        with takes(0.0, 3.0):
            assert server.stop() == 0


def test_a_request_that_waits_too_long_for_a_thread_is_refused(folder: Folder) -> None:
    """It was never begun: it may be sent again, and 503 says so."""
    flags = ("--threads", "1", "--request-timeout", "1s", "--lost-threads", "100")
    with serve(WAITING, *flags, env=folder.env) as server, clients() as make:
        asking = [make(server, "/block/0.6") for _ in range(4)]
        statuses = [client.read().status for client in asking]  # which is run first is open
        assert statuses.count(200) >= 1
        assert statuses.count(503) >= 1
        assert set(statuses) <= {200, 503, 504}


def test_others_are_answered_at_once_while_requests_time_out() -> None:
    flags = ("--request-timeout", "1s", "--threads", "6", "--lost-threads", "100")
    with serve(WAITING, *flags) as server, clients() as make:
        stuck = [make(server, target) for target in ("/sleep/3", "/block/3", "/sleep/3")]
        durations = time_requests(server, 100)
        # Some may be slow because this machine is; a server that waits makes all of them slow.
        assert statistics.median(durations) < 0.1
        for client in stuck:
            assert client.read().status == 504


@pytest.mark.slow
def test_the_demands_of_the_issue() -> None:
    """A sleep of 60 s, a loop for ever, a block in C: each gets its 504 at 2 s."""
    with serve(WAITING, "--request-timeout", "2s") as server, clients() as make:
        began = time.monotonic()
        stuck = [make(server, target) for target in ("/sleep/60", "/spin/1000000", "/block/60")]
        while time.monotonic() - began < 1.8:
            time_requests(server, 10)
        for client in stuck:
            assert client.read().status == 504
        assert 1.98 <= time.monotonic() - began <= 2.5
        for what in ("sleep", "spin", "block"):
            assert f"in {what}" in server.stderr()


@pytest.mark.parametrize("path", ["/keep/3", "/close/3"])
def test_a_response_that_is_whole_is_not_cut_by_a_late_close(path: str) -> None:
    """The thread is interrupted; what the server has already still reaches a slow client."""
    with serve(WAITING, "--request-timeout", "1s") as server, server.connect() as connection:
        connection.sendall(get(path))
        with Reader(connection) as reader:
            if path.startswith("/close"):  # the generator has to end before
                content = reader.read_response().content
            wait_until(lambda: f"{path} timed out" in server.stderr())
            if path.startswith("/keep"):
                content = reader.read_response().content
        assert len(content) == (4_000_000 if path.startswith("/keep") else 8_000_000)
        began = time.monotonic()
        assert server.request("GET", "/").status == 200
        assert time.monotonic() - began < 1
        assert "close() of the response failed" not in server.stderr()
