"""Clients that are slow, silent, too many, or gone: nobody else waits, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conversation import choose_seed
from tests.proc import (
    count_descriptors,
    count_threads,
    list_descriptors,
    needs_proc,
    read_cpu_s,
    read_memory_bytes,
)
from tests.serving import Reader, Server, serve, wait_until
from tests.test_threads import WAITING, Folder, folder, get, time_requests

__all__ = ["folder"]  # a fixture

# No deadline of the server ends what these tests go on with on purpose.
PATIENT = (
    "--head-timeout", "10m", "--content-timeout", "10m", "--content-rate", "0",
    "--write-timeout", "10m", "--write-rate", "0",
)  # fmt: skip

HEAD = b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Long: " + b"y" * 4000 + b"\r\n\r\n"
CONTENT = b"POST /read HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4000\r\n\r\n" + b"z" * 4000


class SlowClients:
    """Many clients in one thread, each of which does a step every now and then."""

    def __init__(self, server: Server, count: int, step: Callable[[socket.socket, int], None]):
        self._step = step
        self._stop = threading.Event()
        self.under_way: set[socket.socket] = set()
        """Those that have done more than the first step."""
        self.refused = 0
        self.sockets = [server.connect(30) for _ in range(count)]
        for connection in self.sockets:
            connection.setblocking(False)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> SlowClients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        for connection in self.sockets:
            connection.close()

    def _run(self) -> None:
        turn = 0
        while not self._stop.is_set():
            for connection in self.sockets:
                try:
                    self._step(connection, turn)
                    if turn:
                        self.under_way.add(connection)
                except BlockingIOError:
                    continue
                except OSError:
                    self.refused += 1
            turn += 1
            self._stop.wait(0.02)


def send_head(connection: socket.socket, turn: int) -> None:
    """One byte of a head at a time."""
    connection.send(HEAD[turn % 4000 : turn % 4000 + 1])


def send_content(connection: socket.socket, turn: int) -> None:
    """A head at once, then one byte of the content at a time."""
    at = CONTENT.index(b"zzz")
    connection.send(CONTENT[:at] if turn == 0 else b"z" if turn < 3900 else b"")


def read_response(kind: str) -> Callable[[socket.socket, int], None]:
    """Ask for 64 MiB, then read a byte at a time."""

    def step(connection: socket.socket, turn: int) -> None:
        if turn == 0:
            connection.send(get(f"/{kind}/67108864"))
        else:
            connection.recv(1)

    return step


KINDS: dict[str, Callable[[socket.socket, int], None]] = {
    "head": send_head,
    "content": send_content,
    "streamed": send_content,
    "bytes": read_response("bytes"),
    "blocks": read_response("blocks"),
    "file": read_response("file"),
}


def check_normal_client(kind: str, count: int, threads: str, requests: int) -> list[float]:
    flags = ["--threads", threads, *PATIENT]
    if kind == "streamed":  # the application reads while they send
        flags.append("--stream-request")
    with serve(WAITING, *flags) as server:
        time_requests(server, 10)
        with SlowClients(server, count, KINDS[kind]) as slow:
            first: list[float] = []
            deadline = time.monotonic() + 60
            while len(slow.under_way) < count:
                assert time.monotonic() < deadline
                first += time_requests(server, 1)
            durations = []
            for _ in range(requests // 20):
                durations += time_requests(server, 20)
                time.sleep(0.02)  # so that it lasts for as long as the slow ones' steps do
            assert slow.refused == 0
        worst, middle = max(durations) * 1000, statistics.median(durations) * 1000
        print(f"{kind}, {threads} threads: worst {max(first) * 1000:.1f} ms while they come, "
              f"then {worst:.1f} ms, median {middle:.2f} ms")  # fmt: skip
        return durations


# With one thread one application runs at a time, for as long as its client takes.
TAKING_TURNS = {("blocks", "1"), ("streamed", "1")}


@pytest.mark.parametrize(
    ("kind", "threads"),
    [(kind, threads) for kind in KINDS for threads in ("1", "2", "16")
     if (kind, threads) not in TAKING_TURNS],
)  # fmt: skip
def test_a_normal_client_does_not_notice_slow_ones(kind: str, threads: str) -> None:
    count = 10 if kind == "bytes" else 30
    durations = check_normal_client(kind, count, threads, 60)
    # Most of them: some may be slow because this machine is.
    assert statistics.quantiles(durations, n=10)[-2] < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["2", "16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_normal_client_does_not_notice_300_slow_ones(kind: str, threads: str) -> None:
    count = 40 if kind == "bytes" else 300  # 64 MiB each are the application's own
    durations = check_normal_client(kind, count, threads, 3000)
    assert statistics.quantiles(durations, n=100)[-1] < 0.1


# -- Too many --------------------------------------------------------------------------------------


@needs_proc
def test_the_longest_idle_connection_makes_room() -> None:
    with serve(WAITING, "--connections", "20", *PATIENT) as server, contextlib.ExitStack() as stack:
        idle = []
        for _ in range(20):
            connection = stack.enter_context(server.connect())
            connection.sendall(get("/"))
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            idle.append(connection)
        # Two of the first are used again: they have not been idle for longest.
        for connection in idle[:2]:
            connection.sendall(get("/"))
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        time.sleep(0.03)  # who has just been answered is not closed
        for _ in range(3):
            assert server.request("GET", "/").status == 200
        closed = []
        for number, connection in enumerate(idle):
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                assert connection.recv(1) == b""
                closed.append(number)
        # One: each of the three left before the next came. Within a turn of the loop all are
        # idle for equally long, so which of the others it is depends.
        assert len(closed) == 1
        assert closed[0] >= 2
        assert "the longest idle one made room" in server.stderr()


def test_connections_that_do_nothing_starve_nobody() -> None:
    """Several times the limit of them, and every normal client is served."""
    with serve(WAITING, "--connections", "50", *PATIENT) as server, contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(server.connect())
        for _ in range(20):
            assert server.request("GET", "/").status == 200


@pytest.mark.slow
def test_1000_connections_that_do_nothing_starve_nobody() -> None:
    with many_descriptors(4000), serve(WAITING) as server, contextlib.ExitStack() as stack:
        for _ in range(2500):
            stack.enter_context(server.connect())
        durations = []
        for _ in range(200):
            began = time.perf_counter()
            assert server.request("GET", "/").status == 200
            durations.append(time.perf_counter() - began)
        assert statistics.quantiles(durations, n=100)[-1] < 0.1


@contextlib.contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"no more than {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_busy_connections_are_not_closed_for_new_ones() -> None:
    """The house is full of clients that are being served: others wait, and are served then."""
    flags = ("--connections", "4", "--threads", "8", *PATIENT)
    with serve(WAITING, *flags) as server, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(server.connect()) for _ in range(4)]
        for connection in busy:
            connection.sendall(get("/sleep/0.7"))
        waiting = [stack.enter_context(server.connect()) for _ in range(4)]
        for connection in waiting:
            connection.sendall(get("/"))
        for connection in [*busy, *waiting]:
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def count_sockets(pid: int) -> int:
    return sum("socket" in name for name in list_descriptors(pid))


@contextlib.contextmanager
def watch_sockets(pid: int) -> Iterator[list[int]]:
    """How many sockets the process has, again and again."""
    counts = [count_sockets(pid)]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            counts.append(count_sockets(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


@needs_proc
def test_the_limit_holds_however_many_come_at_once(folder: Folder) -> None:
    """One above it: who finds no room is known only when he is there. All are served in the end."""
    flags = ("--connections", "10", "--threads", "16", *PATIENT)
    request = get("/until/go").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with serve(WAITING, *flags, env=folder.env) as server, contextlib.ExitStack() as stack:
        with watch_sockets(server.pid) as counts:
            connections = []
            for _ in range(300):
                connections.append(stack.enter_context(server.connect()))
                connections[-1].sendall(request)
            wait_until(lambda: folder.count_begun("go") >= 10)
            looks = len(counts)
            wait_until(lambda: len(counts) > looks + 40)
            folder.release("go")
            for connection in connections:
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert max(counts) - counts[0] <= 11


def test_a_place_that_becomes_free_is_taken_at_once(folder: Folder) -> None:
    """Each client is one too many, so that accepting rests; it goes on when he has gone."""
    flags = ("--connections", "1", "--threads", "4", *PATIENT)
    with serve(WAITING, *flags, env=folder.env) as server, server.connect() as connection:
        connection.sendall(get("/until/go"))
        wait_until(lambda: folder.count_begun("go") == 1)
        attempts = []  # this machine may be busy with something else
        while not attempts or attempts[-1] >= 1.0 and len(attempts) < 5:
            began = time.monotonic()
            for _ in range(20):
                assert server.request("GET", "/").status == 200
            attempts.append(time.monotonic() - began)
        assert attempts[-1] < 1.0, f"as if each had waited for 0.1 s: {attempts}"
        folder.release("go")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_pipelines_is_not_closed_to_make_room() -> None:
    """Between two of its requests it waits for nothing: the next one has been read already."""
    flags = ("--connections", "1", "--threads", "4", *PATIENT)
    with serve(WAITING, *flags) as server, server.connect() as connection:
        connection.sendall(get("/spin/0.001") * 100)
        for _ in range(10):
            assert server.request("GET", "/").status == 200
        with Reader(connection) as reader:
            for _ in range(100):
                assert reader.read_response().text == "computed"


@needs_proc
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of others: Linux only")
def test_out_of_descriptors_it_rests_and_recovers() -> None:
    with serve(WAITING, *PATIENT) as server, contextlib.ExitStack() as stack:
        assert server.request("GET", "/").status == 200
        limit = count_descriptors(server.pid) + 10
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, limit))
        half = b"GET / HTTP/1.1\r\n"  # not idle: they hold on to their descriptors
        connections = []
        for _ in range(30):
            connection = stack.enter_context(server.connect())
            connection.sendall(half)
            connections.append(connection)
        wait_until(lambda: "no more connections can be accepted" in server.stderr())
        before = read_cpu_s(server.pid)
        time.sleep(1.5)  # what is measured: the time that it uses meanwhile
        assert read_cpu_s(server.pid) - before < 0.3, "it spins"
        for connection in connections:
            connection.close()
        for _ in range(5):
            assert server.request("GET", "/").status == 200
        assert server.stderr().count("no more connections can be accepted") == 1


@needs_proc
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of others: Linux only")
def test_out_of_descriptors_idle_connections_make_room() -> None:
    """Those who hold the descriptors do nothing with them."""
    with serve(WAITING, *PATIENT) as server, contextlib.ExitStack() as stack:
        assert server.request("GET", "/").status == 200
        limit = count_descriptors(server.pid) + 10
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, limit))
        for _ in range(30):
            stack.enter_context(server.connect())
        for _ in range(3):
            assert server.request("GET", "/").status == 200


# -- Gone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["blocks", "ticks"])
def test_a_generator_of_a_client_that_left_is_closed_soon(kind: str) -> None:
    target = "/blocks/67108864" if kind == "blocks" else "/ticks/0.1"
    with serve(WAITING, *PATIENT) as server:
        with server.connect() as connection:
            connection.sendall(get(target))
            connection.recv(1000)
        left = time.monotonic()
        wait_until(lambda: server.request("GET", "/closed").text == "1")
        assert time.monotonic() - left < 3.0


def break_off(server: Server, generator: random.Random, count: int) -> None:
    """Clients that leave in the middle of an upload or a download, some with a reset."""
    connections = []
    for _ in range(count):
        connection = server.connect()
        match generator.randrange(8):
            case 0:
                data = HEAD[: generator.randrange(1, len(HEAD))]
            case 1:
                data = CONTENT[: generator.randrange(100, len(CONTENT))]
            case 2:  # above --content-memory: in a temporary file
                data = (b"POST /read HTTP/1.1\r\nHost: a.example\r\nContent-Length: 300000\r\n\r\n"
                        + b"x" * generator.randrange(150_000, 250_000))  # fmt: skip
            case 3:
                data = get("/blocks/67108864")
            case 4:
                data = get("/file/67108864")
            case 5:  # pipelined, and cut anywhere
                data = (get("/") + get("/sleep/0.01") + CONTENT + get("/blocks/100000")) * 3
                data = data[: generator.randrange(1, len(data))]
            case 6:  # chunks, cut anywhere
                head = b"POST /read HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked"
                data = head + b"\r\n\r\n" + b"1000\r\n%b\r\n" % (b"x" * 4096) * 50
                data = data[: generator.randrange(len(head), len(data))]
            case _:
                data = get("/bytes/4000000")
        with contextlib.suppress(OSError):
            connection.sendall(data)
            connection.setblocking(False)
            connection.recv(generator.randrange(1, 100_000))
        if generator.random() < 0.3:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # on, 0 s: closing resets
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connections.append(connection)
        if len(connections) > 20:
            connections.pop(generator.randrange(len(connections))).close()
    for connection in connections:
        connection.close()


def check_nothing_is_lost(count: int, tmp_path: Path, *more: str) -> None:
    generator = random.Random(choose_seed())
    flags = ("--threads", "4", "--content-memory", "100KB", *PATIENT, *more)
    # One arena for each thread that ever was would be the allocator's waste, not the server's.
    env = {"TMPDIR": str(tmp_path), "MALLOC_ARENA_MAX": "2"}
    with serve(WAITING, *flags, env=env) as server:
        break_off(server, generator, max(60, count // 2))  # what is made once is there now
        settle(server, 5)
        descriptors = count_descriptors(server.pid)
        memory_bytes = read_memory_bytes(server.pid)
        break_off(server, generator, count)
        settle(server, 5)
        wait_until(lambda: count_descriptors(server.pid) <= descriptors)

        def list_temporary() -> list[str]:
            deleted = [name for name in list_descriptors(server.pid) if "deleted" in name]
            return [name for name in deleted if str(tmp_path) in name]

        wait_until(lambda: not list_temporary())
        wait_until(lambda: os.listdir(tmp_path) == [])
        assert count_threads(server.pid) <= 5
        grown_bytes = read_memory_bytes(server.pid) - memory_bytes
        assert grown_bytes < 16e6 + 10_000 * count, f"{grown_bytes / 1e6:.1f} MB more"
        print(f"{count} clients left: {grown_bytes / 1e6:+.1f} MB, "
              f"{count_threads(server.pid)} threads")  # fmt: skip


def settle(server: Server, threads: int) -> None:
    """Until the server has noticed that everybody left."""
    wait_until(
        lambda: (
            count_sockets(server.pid) <= 6  # its own are 5
            and count_threads(server.pid) <= threads
        ),
        30,
    )


@needs_proc
@pytest.mark.parametrize("flags", [(), ("--stream-request",)], ids=["read", "streamed"])
def test_clients_that_break_off_leave_nothing_behind(tmp_path: Path, flags: tuple[str]) -> None:
    check_nothing_is_lost(150, tmp_path, *flags)


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("flags", [(), ("--stream-request",)], ids=["read", "streamed"])
def test_500_clients_that_break_off_leave_nothing_behind(tmp_path: Path, flags: tuple[str]) -> None:
    for _ in range(3):
        check_nothing_is_lost(500, tmp_path, *flags)


@pytest.mark.slow
@needs_proc
def test_1000_clients_that_break_off_leave_nothing_behind(tmp_path: Path) -> None:
    check_nothing_is_lost(1000, tmp_path)


# -- Streaming -------------------------------------------------------------------------------------


def test_blocks_arrive_while_the_application_computes_the_next() -> None:
    with serve(WAITING) as server:
        # A block that waited for the next one would be late by 0.2 s each time; on a machine that
        # is busy with something else one may be so now and then.
        attempts = [measure_lateness(server) for _ in range(3)]
        assert min(attempts) < 0.15, attempts


def measure_lateness(server: Server) -> float:
    """By how many seconds the latest of four blocks came too late."""
    late_s = 0.0
    with server.connect() as connection, Reader(connection) as reader:
        connection.sendall(get("/ticks/0.2"))
        began = time.monotonic()
        while reader.file.readline() != b"\r\n":
            pass
        for number in range(4):
            assert reader.file.readline() == b"5\r\n"
            assert reader.file.readline() == b"tick\n"
            assert reader.file.readline() == b"\r\n"
            late_s = max(late_s, time.monotonic() - began - 0.2 * number)
    return late_s


@needs_proc
def test_memory_is_bounded_whatever_clients_do() -> None:
    """20 clients of 64 MiB in blocks that none of them reads."""
    with serve(WAITING, "--threads", "16", *PATIENT) as server, contextlib.ExitStack() as stack:
        time_requests(server, 10)
        before = read_memory_bytes(server.pid)
        for _ in range(20):
            stack.enter_context(server.connect()).sendall(get("/blocks/67108864"))
        wait_until(lambda: count_threads(server.pid) >= 20)
        time_requests(server, 20)
        assert read_memory_bytes(server.pid) - before < 20 * 1_000_000


def test_everybody_gets_everything_at_their_own_pace() -> None:
    """Readers of different speed: each gets every byte, and the fast are not held up."""
    sizes = {"/blocks/8388608": 8388608, "/bytes/8388608": 8388608, "/file/8388608": 8388608}
    with serve(WAITING, "--threads", "2", *PATIENT) as server, contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        received: dict[socket.socket, int] = {}
        for target in [*sizes] * 4:
            connection = stack.enter_context(server.connect())
            connection.sendall(get(target))
            connection.setblocking(False)
            received[connection] = 0
            selector.register(connection, selectors.EVENT_READ)
        paces = dict(zip(received, [1 << 12, 1 << 16, 1 << 20] * 4, strict=True))
        deadline = time.monotonic() + 60
        while any(count < 8388608 for count in received.values()):
            assert time.monotonic() < deadline, received.values()
            for key, _ in selector.select(1):
                connection = key.fileobj  # type: ignore[assignment]
                received[connection] += len(connection.recv(paces[connection]))
        # The heads come on top.
        assert all(8388608 < count < 8388608 + 500 for count in received.values())


def test_a_slow_request_behind_a_response_that_took_long_to_send() -> None:
    """The socket is watched for the first response, and must not be for the second one."""
    with serve(WAITING, "--threads", "4", *PATIENT) as server, server.connect() as connection:
        connection.sendall(get("/bytes/8000000") + get("/sleep/0.3"))
        with Reader(connection) as reader:
            assert len(reader.read_response().content) == 8_000_000
            assert reader.read_response().status == 200
        assert "Traceback" not in server.stderr()


def test_a_large_block_leaves_while_its_generator_goes_on() -> None:
    """PEP 3333, "Buffering and Streaming": no block is delayed."""
    with serve(WAITING, *PATIENT) as server, server.connect() as connection:
        connection.sendall(get("/linger/4"))
        began = time.monotonic()
        with Reader(connection) as reader:
            assert len(reader.read_response().content) == 8_000_000
        assert time.monotonic() - began < 3.0


@pytest.mark.parametrize("threads", ["1", "4"])
def test_large_chunks_end_before_their_generator_is_closed(threads: str) -> None:
    """The last chunk does not wait for `close`, whoever sends what the socket did not take."""
    with serve(WAITING, "--threads", threads, *PATIENT) as server, server.connect() as connection:
        connection.sendall(get("/close/4"))
        began = time.monotonic()
        with Reader(connection) as reader:
            response = reader.read_response()
        assert time.monotonic() - began < 3.0
        assert [set(chunk) for chunk in response.chunks] == [{number} for number in range(8)]
        assert len(response.content) == 8_000_000


def test_blocks_before_a_failure_do_not_wait_for_close(folder: Folder) -> None:
    """What a full socket did not take. With one of these sizes it is the last block for which
    the socket is full, and it has been gathered."""
    with serve(WAITING, "--threads", "16", *PATIENT, env=folder.env) as server:
        sizes = range(192 << 10, 384 << 10, 32 << 10)
        for size in sizes:
            with socket.socket() as connection:
                connection.settimeout(10)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.connect((server.host, server.port))
                connection.sendall(get(f"/fail/{size}/closed"))
                with contextlib.suppress(AssertionError):  # it may wait for the client instead
                    wait_until(has_failed(server, size), 0.3)
                received = 0
                while received < size:
                    received += connection.recv(1 << 20).count(0)
        folder.release("closed")
        wait_until(lambda: server.request("GET", "/closed").text == str(len(sizes)))


def has_failed(server: Server, size: int) -> Callable[[], bool]:
    return lambda: f"GET /fail/{size}/closed: the application failed" in server.stderr()


def test_room_is_made_by_who_has_all_of_its_response() -> None:
    """A close destroys what the kernel still holds for a slow reader, if it sends on."""
    with serve(WAITING, "--connections", "2", *PATIENT) as server, contextlib.ExitStack() as stack:
        slow = stack.enter_context(socket.socket())
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(20)
        slow.connect((server.host, server.port))
        slow.sendall(get("/bytes/60000"))
        prompt = stack.enter_context(server.connect())
        prompt.sendall(get("/"))
        assert prompt.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        time.sleep(0.03)  # who has just been answered is not closed
        assert server.request("GET", "/").status == 200
        assert prompt.recv(1) == b""
        slow.sendall(get("/"))
        with Reader(slow) as reader:
            assert len(reader.read_response().content) == 60000
            assert reader.read_response().status == 200


def test_who_does_not_read_has_no_place_for_good() -> None:
    """Where all that do nothing have unread responses, the longest idle one leaves."""
    with serve(WAITING, "--connections", "3", *PATIENT) as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            slow = stack.enter_context(socket.socket())
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((server.host, server.port))
            slow.sendall(get("/bytes/60000"))
        for _ in range(5):
            assert server.request("GET", "/").status == 200
