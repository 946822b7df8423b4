"""The whole vertical: a real process, real sockets, applications under wsgiref.validate.

What one layer promises alone is tested where that layer is. Here is what a client sees, and what
becomes of memory, descriptors, threads and files behind its back.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import random
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import ANSWER_TIMEOUT_S, ROOT, Reader, Response, Server, serve, wait_until

APPLICATION = str(ROOT / "tests/applications/pep3333.py")
POLLERS = ["epoll", "portable"]
MIB = 1 << 20

# glibc keeps megabytes for each thread that ever had large buffers: no leak, but it looks like one.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}

linux_only = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


@pytest.fixture(scope="module", params=POLLERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    flags = ("--poller", request.param, "--threads", "6")
    with serve(APPLICATION, *flags, env=ENVIRONMENT) as running:
        yield running
        assert "AssertionError" not in running.stderr()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 MB, more than a socket takes at once."""
    path = tmp_path_factory.mktemp("file") / "data.bin"
    path.write_bytes(random.Random(7).randbytes(3_000_000))
    return path


def get(target: str, *lines: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    return "\r\n".join([f"{method} {target} {version}", "Host: a.example", *lines, "", ""]).encode()


def post(target: str, content: bytes, *lines: str) -> bytes:
    length = f"Content-Length: {len(content)}"
    return get(target, length, *lines, method="POST") + content


def encode_chunks(content: bytes, size: int) -> bytes:
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@contextlib.contextmanager
def conversation(server: Server) -> Iterator[tuple[socket.socket, Reader]]:
    with server.connect() as connection, Reader(connection) as reader:
        yield connection, reader


def ask(connection: socket.socket, reader: Reader, data: bytes, method: str = "GET") -> Response:
    connection.sendall(data)
    return reader.read_response(method)


def is_open(connection: socket.socket, reader: Reader) -> bool:
    """The connection serves another request."""
    return ask(connection, reader, get("/one")).status == 200


# -- What /proc says ---------------------------------------------------------------------------


def read_status(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+)", text, re.M)
    assert found is not None
    return int(found[1])


def list_descriptors(pid: int) -> list[str]:
    found = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry.path))
    return found


class Memory:
    """How much more memory a process needed at its peak than before, in bytes."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        self.before_kib = read_status(pid, "VmHWM")

    @property
    def growth_bytes(self) -> int:
        return (read_status(self.pid, "VmHWM") - self.before_kib) * 1024


def receive_length(connection: socket.socket, length: int) -> int:
    """Read and forget `length` bytes; return how many came before the end."""
    buffer = bytearray(1 << 18)
    left = length
    while left:
        received = connection.recv_into(buffer, min(left, len(buffer)))
        if not received:
            break
        left -= received
    return length - left


# -- The ways of answering -----------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/plain"], ids=["validated", "plain"])
class TestAnswers:
    CONTENTS = {
        "/one": b"one",
        "/several": b"several",
        "/late": b"late",
        "/written": b"written and returned",
        "/nothing": b"",
    }

    @pytest.mark.parametrize("target", CONTENTS)
    def test_content_by_every_framing(self, server: Server, prefix: str, target: str) -> None:
        expected = self.CONTENTS[target]
        with conversation(server) as (connection, reader):
            answer = ask(connection, reader, get(prefix + target))
            assert (answer.status, answer.content) == (200, expected)
            head = ask(connection, reader, get(prefix + target, method="HEAD"), "HEAD")
            assert (head.status, head.content) == (200, b"")
            old = ask(connection, reader, get(prefix + target, version="HTTP/1.0"))
            assert (old.status, old.content) == (200, expected)
            assert old.field("Transfer-Encoding") is None
            assert reader.file.read() == b""

    def test_status_without_content(self, server: Server, prefix: str) -> None:
        with conversation(server) as (connection, reader):
            for code in (204, 304):
                answer = ask(connection, reader, get(f"{prefix}/status?code={code}"))
                assert answer.status == code
            assert is_open(connection, reader)

    def test_replaced_head(self, server: Server, prefix: str) -> None:
        answer = server.request("GET", f"{prefix}/replaced")
        assert (answer.status, answer.content) == (503, b"replaced")

    def test_failure_and_exit_are_answered_and_survived(self, server: Server, prefix: str) -> None:
        with conversation(server) as (connection, reader):
            for target in ("/fail", "/exit", "/fail"):
                answer = ask(connection, reader, get(prefix + target))
                assert answer.status == 500
                assert b"on purpose" not in answer.content
            assert is_open(connection, reader)

    def test_failure_after_the_head_cuts_the_response(self, server: Server, prefix: str) -> None:
        received = server.exchange(get(f"{prefix}/fail/late"))
        assert received.startswith(b"HTTP/1.1 200 ")
        assert received.endswith(b"f\r\nthe first block\r\n")
        assert b"\r\n0\r\n" not in received


def test_one_block_has_a_length(server: Server) -> None:
    assert server.request("GET", "/plain/one").field("Content-Length") == "3"
    assert server.request("GET", "/plain/several").field("Content-Length") == "7"


def test_blocks_are_chunks(server: Server) -> None:
    assert server.request("GET", "/late").chunks == [b"la", b"te"]


# -- The connection ------------------------------------------------------------------------------


def test_one_connection_serves_many_requests(server: Server) -> None:
    with conversation(server) as (connection, reader):
        for _ in range(20):
            for target in ("/one", "/late", "/nothing", "/written"):
                assert ask(connection, reader, get(target)).status == 200
        last = ask(connection, reader, get("/one", "Connection: close"))
        assert last.field("Connection") == "close"
        assert reader.file.read() == b""


def test_http_1_0_keeps_alive_when_asked(server: Server) -> None:
    with conversation(server) as (connection, reader):
        for _ in range(3):
            data = get("/plain/one", "Connection: keep-alive", version="HTTP/1.0")
            answer = ask(connection, reader, data)
            assert answer.field("Connection") == "keep-alive"


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    parts = [
        (get("/one"), b"one"),
        (post("/echo", b"x" * 5000), b"x" * 5000),
        (get("/late"), b"late"),
        (get("/echo", "Transfer-Encoding: chunked", method="POST") + encode_chunks(b"abc", 1),
         b"abc"),
        (get("/nothing"), b""),
        (post("/unread", b"y" * 100), b"unread"),
        (get("/fail"), None),
        (get("/written"), b"written and returned"),
    ] * 5  # fmt: skip
    with conversation(server) as (connection, reader):
        connection.sendall(b"".join(request for request, _ in parts))
        for _, expected in parts:
            answer = reader.read_response()
            assert answer.content == expected if expected is not None else answer.status == 500
        assert is_open(connection, reader)


def test_pipelined_responses_larger_than_the_socket_buffer(server: Server, file: Path) -> None:
    """The next request waits until the client has taken the last response."""
    targets = ["/plain/block?bytes=2000000", "/download?bytes=2000000", f"/plain/file?path={file}"]
    with conversation(server) as (connection, reader):
        connection.sendall(b"".join(get(target) for target in targets * 2))
        for _ in range(2):
            assert reader.read_response().content == b"x" * 2_000_000
            assert reader.read_response().content == b"x" * 2_000_000
            assert reader.read_response().content == file.read_bytes()
        assert is_open(connection, reader)


def test_a_request_typed_byte_by_byte(server: Server) -> None:
    with conversation(server) as (connection, reader):
        for byte in post("/echo", b"typed"):
            connection.sendall(bytes([byte]))
        assert reader.read_response().content == b"typed"
        data = get("/echo", "Transfer-Encoding: chunked", method="POST")
        for byte in data + encode_chunks(b"in chunks", 4):
            connection.sendall(bytes([byte]))
        assert reader.read_response().content == b"in chunks"


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_line_that_is_no_request_is_answered_at_once(server: Server, end: bytes) -> None:
    with server.connect() as connection, Reader(connection) as reader:
        connection.sendall(b"This is a sample" + end)
        assert reader.read_response().status == 400
        assert reader.file.read() == b""


def test_content_that_the_application_left_unread(server: Server) -> None:
    content = random.Random(2).randbytes(200_000)
    with conversation(server) as (connection, reader):
        for _ in range(3):
            assert ask(connection, reader, post("/unread", content)).content == b"unread"
        assert is_open(connection, reader)


def test_expect_100_continue(server: Server) -> None:
    with conversation(server) as (connection, reader):
        lines = ("Content-Length: 3", "Expect: 100-continue")
        connection.sendall(get("/echo", *lines, method="POST"))
        assert reader.file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert reader.file.readline() == b"\r\n"
        connection.sendall(b"yes")
        assert reader.read_response().content == b"yes"


def test_input_has_all_the_methods(server: Server) -> None:
    content = b"first\n\nthird"
    answer = server.request("POST", "/lines", content)
    assert json.loads(answer.content) == ["first\n", "\n", "third"]
    assert server.request("GET", "/lines").content == b"[]"


# -- The limits ----------------------------------------------------------------------------------


def get_with_line(size: int) -> bytes:
    return get("/one?" + "x" * (size - len("GET /one? HTTP/1.1")))


def get_with_fields(count: int) -> bytes:
    return get("/one", *["X: 1"] * (count - 1))  # and Host


def get_with_head(size: int) -> bytes:
    return get("/one", "X: " + "x" * (size - len(get("/one", "X: "))))


def post_in_chunks(content: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    head = get("/digest", "Transfer-Encoding: chunked", method="POST")
    line, _, rest = encode_chunks(content, 700).partition(b"\r\n")
    return head + line + extension + b"\r\n" + rest[:-2] + trailers + b"\r\n"


# For each flag: what is just let through, what is just not, and how that is answered.
LIMITED: dict[tuple[str, str], list[tuple[bytes, bytes, int]]] = {
    ("--request-line-limit", "100"): [(get_with_line(100), get_with_line(101), 414)],
    ("--field-limit", "5"): [
        (get_with_fields(5), get_with_fields(6), 431),
        (
            post_in_chunks(b"abc", trailers=b"X: 1\r\n" * 5),
            post_in_chunks(b"abc", trailers=b"X: 1\r\n" * 6),
            431,
        ),
    ],
    ("--head-limit", "1KiB"): [
        (get_with_head(1024), get_with_head(1025), 431),
        (
            post_in_chunks(b"abc", trailers=b"X: %b\r\n" % (b"x" * 1017)),
            post_in_chunks(b"abc", trailers=b"X: %b\r\n" % (b"x" * 1018)),
            431,
        ),
        (
            post_in_chunks(b"abc", b";" + b"x" * (1024 + 3 - 1)),
            post_in_chunks(b"abc", b";" + b"x" * (1024 + 3)),
            400,
        ),
    ],
    ("--content-limit", "2KB"): [
        (post("/digest", bytes(2000)), post("/digest", bytes(2001)), 413),
        (post_in_chunks(bytes(2000)), post_in_chunks(bytes(2001)), 413),
    ],
    ("--content-limit", "0"): [
        (post("/digest", b""), post("/digest", b"x"), 413),
        (post_in_chunks(b""), post_in_chunks(b"x"), 413),
    ],
}


@pytest.mark.parametrize("flag", LIMITED, ids=" ".join)
def test_each_limit_is_the_one_that_was_asked_for(flag: tuple[str, str]) -> None:
    with serve(APPLICATION, *flag) as server:
        for under, above, status in LIMITED[flag]:
            with conversation(server) as (connection, reader):
                answers = [ask(connection, reader, data) for data in (under, above)]
                assert [each.status for each in answers] == [200, status], under[-60:]
                assert answers[1].field("Connection") == "close"


@linux_only
def test_content_is_in_memory_up_to_what_was_asked_for(tmp_path: Path) -> None:
    with serve(APPLICATION, "--content-memory", "20KB", env={"TMPDIR": str(tmp_path)}) as server:
        for size, files in ((20_000, 0), (20_001, 1)):
            name = tmp_path / str(size)
            with conversation(server) as (connection, reader):
                connection.sendall(post(f"/held?file={name}", bytes(size)))
                wait_until(Path(f"{name}.begun").exists)
                found = [each for each in list_descriptors(server.pid) if str(tmp_path) in each]
                assert len(found) == files
                Path(f"{name}.go").touch()
                assert reader.read_response().content == b"held"


@linux_only
def test_the_system_is_asked_for_as_many_descriptors_as_may_be_needed() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with serve(APPLICATION, "--connections", "70000", "--threads", "20") as server:
            limits = Path(f"/proc/{server.pid}/limits").read_text()
            found = re.search(r"Max open files +(\d+)", limits)
            assert found is not None
            needed = 70_000 + 4 * 20 + 64
            if hard == resource.RLIM_INFINITY or hard >= needed:
                assert int(found[1]) == needed
            else:
                assert f"raise the limit to {needed} or more" in server.stderr()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- Much in, much out, little memory ------------------------------------------------------------


@linux_only
class TestMemory:
    CONTENT = random.Random(1).randbytes(MIB) * 20
    SHA_256 = hashlib.sha256(CONTENT).hexdigest()

    @pytest.mark.parametrize("framing", ["length", "chunks", "small-chunks"])
    def test_upload_of_20_mib(self, server: Server, framing: str) -> None:
        if framing == "length":
            data = post("/digest", self.CONTENT)
        else:
            size = 65_536 if framing == "chunks" else 1000
            head = get("/digest", "Transfer-Encoding: chunked", method="POST")
            data = head + encode_chunks(self.CONTENT, size)
        server.request("POST", "/digest", self.CONTENT[: 2 * MIB])
        memory = Memory(server.pid)
        with conversation(server) as (connection, reader):
            facts = json.loads(ask(connection, reader, data).content)
            assert facts == {
                "length": len(self.CONTENT),
                "sha256": self.SHA_256,
                "CONTENT_LENGTH": str(len(self.CONTENT)),
                "after": "",
            }
            assert is_open(connection, reader)
        assert memory.growth_bytes < 6 * MIB

    @pytest.mark.parametrize("announced", ["", "&length=1"], ids=["chunks", "length"])
    def test_download_of_1_gib(self, server: Server, announced: str) -> None:
        size = 1 << 30
        memory = Memory(server.pid)
        with server.connect() as connection, Reader(connection) as reader:
            connection.sendall(get(f"/plain/download?bytes={size}{announced}", "Connection: close"))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += reader.file.readline()
            rest = len(reader.file.peek())  # type: ignore[attr-defined]
            reader.file.read(rest)
            if announced:
                assert receive_length(connection, size - rest) == size - rest
                assert connection.recv(1) == b""
            else:
                blocks = size // 65536
                framed = size + blocks * len(b"10000\r\n\r\n") + len(b"0\r\n\r\n")
                assert receive_length(connection, framed - rest) == framed - rest
                assert connection.recv(1) == b""
        assert memory.growth_bytes < 6 * MIB

    @pytest.mark.parametrize("blocks", [1, 4])
    def test_large_blocks_are_not_copied(self, server: Server, blocks: int) -> None:
        """One block of 64 MiB is there once; a list of several is joined, so twice."""
        size = 64 * MIB
        memory = Memory(server.pid)
        with server.connect() as connection, Reader(connection) as reader:
            target = f"/plain/block?bytes={size}&blocks={blocks}"
            connection.sendall(get(target, "Connection: close"))
            wait_until(lambda: memory.growth_bytes >= 0.9 * size)
            assert len(reader.read_response().content) == size
        assert memory.growth_bytes < (size if blocks == 1 else 2 * size) + 8 * MIB
        # The client may have it all before the server has let go of it.
        wait_until(lambda: read_status(server.pid, "VmRSS") * 1024 < 64 * MIB)

    def test_a_slow_reader_of_a_stream_costs_a_bounded_buffer(self, server: Server) -> None:
        memory = Memory(server.pid)
        with server.connect() as connection:
            connection.sendall(get(f"/plain/download?bytes={200 * MIB}"))
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
            for _ in range(5):
                assert server.request("GET", "/one").content == b"one"
        assert memory.growth_bytes < 6 * MIB


@linux_only
def test_temporary_file_of_large_content_is_removed(server: Server, tmp_path: Path) -> None:
    """It has no name from the beginning, and is closed when the request ends or never will."""

    def count() -> int:
        names = list_descriptors(server.pid)
        return sum("deleted" in name and "/tmp" in name for name in names)

    before = count()
    name = tmp_path / "held"
    with conversation(server) as (connection, reader):
        connection.sendall(post(f"/held?file={name}", bytes(2 * MIB)))
        wait_until(Path(f"{name}.begun").exists)
        assert count() == before + 1
        Path(f"{name}.go").touch()
        assert reader.read_response().content == b"held"
        wait_until(lambda: count() == before)
    with server.connect() as connection:  # the client leaves in the middle
        connection.sendall(get("/digest", "Content-Length: 9000000", method="POST"))
        connection.sendall(bytes(2 * MIB))
        wait_until(lambda: count() == before + 1)
    wait_until(lambda: count() == before)


# -- Files ---------------------------------------------------------------------------------------


class TestFiles:
    @pytest.mark.parametrize("prefix", ["", "/plain"], ids=["validated", "plain"])
    @pytest.mark.parametrize("kind", ["plain", "memory", "gzip"])
    def test_whole_and_from_any_position(
        self, server: Server, file: Path, tmp_path: Path, kind: str, prefix: str
    ) -> None:
        content = file.read_bytes()
        path = file
        if kind == "gzip":
            path = tmp_path / "file.gz"
            path.write_bytes(gzip.compress(content, 1))
        with conversation(server) as (connection, reader):
            for query, expected in (
                ("", content),
                ("&from=1000", content[1000:]),
                ("&read=10", content[10:]),
                ("&from=2999990&read=5", content[-5:]),
                ("&from=3000000", b""),
                ("&from=9000000", b""),
                ("&length=100", content[:100]),
            ):
                target = f"{prefix}/file?path={path}&kind={kind}{query}"
                answer = ask(connection, reader, get(target))
                assert answer.content == expected, query
                head = ask(connection, reader, get(target, method="HEAD"), "HEAD")
                assert (head.status, head.content) == (200, b"")

    @linux_only
    def test_by_sendfile_nothing_is_read_into_memory(self, server: Server, tmp_path: Path) -> None:
        path = tmp_path / "large"
        with path.open("wb") as large:
            for _ in range(64):
                large.write(bytes(MIB))
        size = path.stat().st_size
        memory = Memory(server.pid)
        with server.connect() as connection, Reader(connection) as reader:
            connection.sendall(get(f"/plain/file?path={path}", "Connection: close"))
            answer = reader.read_response()
        assert len(answer.content) == size
        assert answer.field("Content-Length") == str(size)
        assert memory.growth_bytes < 2 * MIB
        wait_until(lambda: str(path) not in list_descriptors(server.pid))

    @linux_only
    def test_is_closed_when_the_client_leaves(self, server: Server, file: Path) -> None:
        large = file.with_name("twice.bin")
        large.write_bytes(file.read_bytes() * 8)
        with server.connect() as connection:
            connection.sendall(get(f"/plain/file?path={large}"))
            assert connection.recv(1000)
            wait_until(lambda: str(large) in list_descriptors(server.pid))
        wait_until(lambda: str(large) not in list_descriptors(server.pid))

    def test_in_memory_is_closed_once(self, server: Server, file: Path) -> None:
        for prefix in ("", "/plain"):
            server.request("GET", f"{prefix}/file?path={file}&kind=memory")
            assert server.request("GET", "/closed?name=memory").content == b"1"

    def test_text_is_refused(self, server: Server, file: Path) -> None:
        assert server.request("GET", f"/plain/file?path={file}&kind=text").status == 500

    def test_kernel_file(self, server: Server) -> None:
        if not Path("/proc/version").exists():
            pytest.skip("no /proc here")
        answer = server.request("GET", "/plain/file?path=/proc/version")
        assert answer.content == Path("/proc/version").read_bytes()


# -- One block at a time -------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/plain"], ids=["validated", "plain"])
@pytest.mark.parametrize("way", ["", "&write=1", "&pairs=1"], ids=["yield", "write", "pairs"])
def test_no_block_waits_for_the_next(server: Server, prefix: str, way: str) -> None:
    """The application makes block n + 1 only after the client has acknowledged block n."""
    name = f"{server.pid}{prefix}{way}".replace("/", "").replace("&", "").replace("=", "")
    count = 10
    with server.connect() as first, Reader(first) as reader, conversation(server) as second:
        target = f"{prefix}/steps?name={name}&count={count}{way}"
        first.sendall(get(target, version="HTTP/1.0"))
        while reader.file.readline() != b"\r\n":
            pass
        for number in range(1, count + 1):
            for _ in range(2 if "pairs" in way else 1):
                assert reader.file.readline() == b"block %d\n" % number
            done = ask(*second, get(f"/acknowledge?name={name}&number={number}"))
            assert done.status == 204
        assert reader.file.read() == b""


@pytest.mark.parametrize(
    ("size", "pause"),
    [(65536, 0), (10, 0.02), (10, 0)],
    ids=["full buffers", "a tick now and then", "small and fast"],
)
@pytest.mark.parametrize("prefix", ["", "/plain"], ids=["validated", "plain"])
@pytest.mark.parametrize("way", ["close", "reset"])
def test_blocks_are_closed_when_the_client_leaves(
    server: Server, prefix: str, size: int, pause: float, way: str
) -> None:
    name = f"{size}-{pause}-{way}-{len(prefix)}"
    with server.connect() as connection:
        connection.sendall(get(f"{prefix}/endless?name={name}&bytes={size}&pause={pause}"))
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        if way == "reset":
            linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    begun = time.monotonic()
    wait_until(lambda: server.request("GET", f"/closed?name={name}").content != b"0")
    assert time.monotonic() - begun < 4.0
    assert server.request("GET", f"/closed?name={name}").content == b"1"


# -- The end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("poller", POLLERS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_in_flight_end(
    tmp_path: Path, number: signal.Signals, poller: str
) -> None:
    with serve(APPLICATION, "--threads", "4", "--poller", poller) as server:
        name = tmp_path / "held"
        with conversation(server) as busy, conversation(server) as idle:
            assert is_open(*idle)
            with server.connect() as downloading, Reader(downloading) as download:
                busy[0].sendall(get(f"/held?file={name}"))
                downloading.sendall(get("/plain/block?bytes=5000000"))
                wait_until(Path(f"{name}.begun").exists)
                assert downloading.recv(1, socket.MSG_PEEK)
                server.process.send_signal(number)
                assert idle[1].file.read() == b""  # closed at once: it waits for nothing
                assert server.process.poll() is None
                Path(f"{name}.go").touch()
                answer = busy[1].read_response()
                assert (answer.content, answer.field("Connection")) == (b"held", "close")
                assert busy[1].file.read() == b""
                assert len(download.read_response().content) == 5_000_000
        assert server.process.wait(ANSWER_TIMEOUT_S) == 0


@pytest.mark.parametrize("poller", POLLERS)
def test_who_has_connected_before_the_signal_is_answered(poller: str) -> None:
    """However many wait in the backlog: no client is reset by a restart."""
    with serve(APPLICATION, "--poller", poller) as server:
        with contextlib.ExitStack() as stack:
            server.process.send_signal(signal.SIGSTOP)
            clients = [stack.enter_context(conversation(server)) for _ in range(100)]
            for connection, _ in clients:
                connection.sendall(get("/one"))
            server.process.send_signal(signal.SIGTERM)
            server.process.send_signal(signal.SIGCONT)
            for _, reader in clients:
                answer = reader.read_response()
                assert (answer.status, answer.content) == (200, b"one")
                assert reader.file.read() == b""
        assert server.process.wait(ANSWER_TIMEOUT_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with serve(APPLICATION, "--threads", "4", exit_code=128 + number) as server:
        name = tmp_path / "held"
        with conversation(server) as busy, conversation(server) as idle:
            assert is_open(*idle)
            busy[0].sendall(get(f"/held?file={name}"))
            wait_until(Path(f"{name}.begun").exists)
            server.process.send_signal(number)
            assert idle[1].file.read() == b""
            assert server.process.poll() is None
            server.process.send_signal(number)
            begun = time.monotonic()
            assert server.process.wait(ANSWER_TIMEOUT_S) == 128 + number
            assert time.monotonic() - begun < 5.0
            with contextlib.suppress(ConnectionResetError):
                assert busy[1].file.read() == b""


# -- Where it listens ----------------------------------------------------------------------------


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("poller", POLLERS)
def test_several_addresses_of_every_family(tmp_path: Path, poller: str) -> None:
    path = tmp_path / "rawsgi.sock"
    binds = ["--bind", "127.0.0.1:0", "--bind", f"unix:{path}"]
    if has_ipv6():
        binds += ["--bind", "[::1]:0"]
    with serve(APPLICATION, *binds, "--poller", poller) as server:
        found: list[str] = []

        def read_start_lines() -> bool:
            found[:] = re.findall(r"(?:http://|unix:)[^\s]+", server.stderr())
            return len(found) >= len(binds) // 2

        wait_until(read_start_lines)
        assert len(found) == len(binds) // 2
        for url in found:
            if url.startswith("unix:"):
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(ANSWER_TIMEOUT_S)
                connection.connect(str(path))
            else:
                host, _, port = url.removeprefix("http://").rstrip("/").rpartition(":")
                connection = socket.create_connection(
                    (host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_S
                )
            with connection, Reader(connection) as reader:
                environ = json.loads(ask(connection, reader, get("/environ")).content)
                assert is_open(connection, reader)
                assert len(ask(connection, reader, get("/download?bytes=3000000")).content) == 3e6
            if url.startswith("unix:"):
                assert environ["REMOTE_ADDR"] == ""
                assert environ["SERVER_NAME"] and environ["SERVER_PORT"]
            else:
                assert environ["SERVER_NAME"] == host  # RFC 3875 section 4.1.14: with brackets
                assert environ["REMOTE_ADDR"] == host.strip("[]")
                assert environ["SERVER_PORT"] == port
                assert 0 < int(environ["REMOTE_PORT"]) < 65536
    assert not path.exists()


# -- The logs ------------------------------------------------------------------------------------

ACCESS_LINE = re.compile(
    r'(\S+) - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "([^"]*)" (\d{3}) (\d+)'
    r' "([^"]*)" "([^"]*)" \d+\.\d+'
)
ERROR_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} (\w+): (.*)")


def test_nobody_can_forge_a_line_of_a_log() -> None:
    evil_target = b'/fail?"\xe2\x80\xa8\x85\x9b%0A%0d\\x'
    evil_agent = b'" 200 1\x85\x9b\t\xff\\'
    text = "%0A2000-01-01+00:00:00+%2B0000+error:+forged%0D%1B[31m"
    with serve(APPLICATION, "--access-log", "--log-level", "info") as server:
        with conversation(server) as (connection, reader):
            lines = b"Host: a.example\r\nUser-Agent: " + evil_agent + b'\r\nReferer: \x9b"\r\n'
            connection.sendall(b"GET " + evil_target + b" HTTP/1.1\r\n" + lines + b"\r\n")
            assert reader.read_response().status == 500
            assert ask(connection, reader, get(f"/fail?text={text}")).status == 500
            assert ask(connection, reader, get("/one")).status == 200
            connection.sendall(b"GET /\x1b[31m HTTP/1.1\r\n\r\n")
            assert reader.read_response().status == 400
        wait_until(lambda: server.stdout().count("\n") >= 4)
        access, errors = server.stdout(), server.stderr()
    for forbidden in "\x1b\x85\x9b\r\u2028":
        assert forbidden not in access and forbidden not in errors, repr(forbidden)
    matches = [ACCESS_LINE.fullmatch(line) for line in access.splitlines()]
    assert all(matches) and len(matches) == 4, access
    found = [match.groups() for match in matches if match is not None]
    assert [status for _, _, status, _, _, _ in found] == ["500", "500", "200", "400"]
    assert found[0][1] == (r"GET /fail?\x22\xE2\x80\xA8\x85\x9B%0A%0d\x5Cx HTTP/1.1")
    assert found[0][4:] == (r"\x9B\x22", r"\x22 200 1\x85\x9B\x09\xFF\x5C")
    assert found[2][1:4] == ("GET /one HTTP/1.1", "200", "3")
    begun = [ERROR_LINE.fullmatch(line) for line in errors.splitlines() if line[:1] not in (" ",)]
    levels = [match[1] for match in begun if match is not None]
    assert levels.count("error") == 2, errors
    assert "  2000-01-01 00:00:00 +0000 error: forged" in errors  # indented: not a line of ours
    assert errors.count("Traceback (most recent call last)") == 2
    assert r"GET /fail?\x22\xE2\x80\xA8\x85\x9B%0A%0d\x5Cx: the application failed" in errors


# -- Nothing is lost -----------------------------------------------------------------------------


@linux_only
@pytest.mark.parametrize("poller", POLLERS)
def test_2000_mixed_requests_leave_nothing_behind(tmp_path: Path, file: Path, poller: str) -> None:
    seed = 20_240_608
    flags = ("--threads", "4", "--poller", poller, "--head-timeout", "5s")
    with serve(APPLICATION, *flags, env=ENVIRONMENT | {"TMPDIR": str(tmp_path)}) as server:
        mix = Mix(server, file)
        mix.run(seed, 200)  # by now every thread is there, and every buffer of the interpreter
        wait_until(lambda: mix.sockets() == 0)
        descriptors = sorted(list_descriptors(server.pid))
        threads = read_status(server.pid, "Threads")
        memory_kib = read_status(server.pid, "VmRSS")
        mix.run(seed + 1, 2000)
        wait_until(lambda: mix.sockets() == 0)
        wait_until(lambda: len(list_descriptors(server.pid)) <= len(descriptors))
        assert read_status(server.pid, "Threads") <= max(threads, 5)
        assert read_status(server.pid, "VmRSS") - memory_kib < 4 * 1024
        wait_until(lambda: list(tmp_path.iterdir()) == [])
        assert mix.failures == []


class Mix:
    """Requests of many kinds by four clients that break off now and then."""

    def __init__(self, server: Server, file: Path) -> None:
        self.server = server
        self.failures: list[str] = []
        self.requests = [
            (get("/one"), 200),
            (get("/late"), 200),
            (get("/plain/several"), 200),
            (get("/nowhere"), 404),
            (get("/fail"), 500),
            (post("/echo", b"x" * 3000), 200),
            (post("/unread", b"x" * 100_000), 200),
            (post("/digest", bytes(1_200_000)), 200),
            (get("/plain/block?bytes=300000"), 200),
            (get("/download?bytes=300000"), 200),
            (get(f"/plain/file?path={file}"), 200),
            (get(f"/file?path={file}&kind=memory&from=2900000"), 200),
            (get("/echo", "Transfer-Encoding: chunked", method="POST")
             + encode_chunks(b"abc" * 1000, 700), 200),
            (get("/one", "Connection: close"), 200),
        ]  # fmt: skip

    def sockets(self) -> int:
        """How many clients the server still knows: the listener and two wake-up pairs are not."""
        names = list_descriptors(self.server.pid)
        return max(0, sum(name.startswith("socket:") for name in names) - 5)

    def run(self, seed: int, count: int) -> None:
        clients = [
            threading.Thread(target=self._talk, args=(random.Random(seed + n), count // 4))
            for n in range(4)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60.0)
            assert not client.is_alive(), f"seed {seed}: a client waits for ever"
        assert self.failures == [], f"seed {seed}"

    def _talk(self, choice: random.Random, count: int) -> None:
        left = count
        try:
            while left > 0:
                with conversation(self.server) as (connection, reader):
                    for _ in range(choice.randrange(1, 20)):
                        left -= 1
                        request, status = choice.choice(self.requests)
                        fate = choice.random()
                        if fate < 0.03:  # leave in the middle of the request
                            connection.sendall(request[: choice.randrange(len(request))])
                            break
                        connection.sendall(request)
                        if fate < 0.06:  # leave before the response
                            break
                        answer = reader.read_response()
                        if answer.status != status:
                            self.failures.append(f"{request[:40]!r}: {answer.status}")
                        if answer.field("Connection") == "close":
                            break
        except (OSError, EOFError, AssertionError) as error:
            self.failures.append(repr(error))
