"""`--stream-request`: the content reaches the application while the client still sends it.

Real processes and sockets; `Inbox` and `StreamedInput` alone are in test_input.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import Reader, Server, serve, wait_until
from tests.test_end_to_end import (
    APPLICATION,
    ENVIRONMENT,
    MIB,
    POLLERS,
    Memory,
    Mix,
    ask,
    conversation,
    encode_chunks,
    get,
    is_open,
    linux_only,
    list_descriptors,
    post,
    read_status,
)


@pytest.fixture(scope="module", params=[(p, n) for p in POLLERS for n in ("1", "6")], ids="-".join)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    poller, threads = request.param
    flags = ("--stream-request", "--poller", poller, "--threads", threads)
    with serve(APPLICATION, *flags, "--content-limit", "2GiB", env=ENVIRONMENT) as running:
        yield running
        assert "AssertionError" not in running.stderr()


def read_head(reader: Reader) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = reader.file.readline()
        assert line, head
        head += line
    return head


def read_chunk(reader: Reader) -> bytes:
    chunk = reader.file.read(int(reader.file.readline(), 16))
    assert reader.file.readline() == b"\r\n"
    return chunk


@pytest.mark.parametrize("prefix", ["", "/plain"], ids=["validated", "plain"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_each_line_comes_back_before_the_next_is_sent(
    server: Server, prefix: str, framing: str
) -> None:
    lines = [b"line %d\n" % number for number in range(20)]
    field = f"Content-Length: {sum(map(len, lines))}"
    if framing == "chunks":
        field = "Transfer-Encoding: chunked"
    with conversation(server) as (connection, reader):
        connection.sendall(get(f"{prefix}/lines/echo", field, method="POST"))
        for number, line in enumerate(lines):
            connection.sendall(encode_chunks(line, 100)[:-5] if framing == "chunks" else line)
            if not number:
                assert b" 200 " in read_head(reader)
            assert read_chunk(reader) == line
        if framing == "chunks":
            connection.sendall(b"0\r\n\r\n")
        assert reader.file.readline() == b"0\r\n"
        assert reader.file.readline() == b"\r\n"
        # When the response began it was not known whether the content would be read to its end.
        assert reader.file.read() == b""


def test_content_that_came_with_the_head(server: Server) -> None:
    with conversation(server) as (connection, reader):
        for _ in range(3):
            answer = ask(connection, reader, post("/digest", b"small"))
            assert json.loads(answer.content)["length"] == 5
            data = get("/digest", "Transfer-Encoding: chunked", method="POST")
            answer = ask(connection, reader, data + encode_chunks(b"small", 2))
            assert json.loads(answer.content)["CONTENT_LENGTH"] == "5"
        assert is_open(connection, reader)


def test_content_that_came_later_and_was_read(server: Server) -> None:
    """Read to its end before the response begins: the connection goes on."""
    content = random.Random(4).randbytes(3_000_000)
    with conversation(server) as (connection, reader):
        for size in (1000, 100_000, 1_000_000):
            answer = ask(connection, reader, post("/digest", content))
            facts = json.loads(answer.content)
            assert facts["sha256"] == hashlib.sha256(content).hexdigest()
            data = get("/digest", "Transfer-Encoding: chunked", method="POST")
            answer = ask(connection, reader, data + encode_chunks(content, size))
            facts = json.loads(answer.content)
            assert facts["sha256"] == hashlib.sha256(content).hexdigest()
            assert facts["CONTENT_LENGTH"] is None
        assert is_open(connection, reader)


def test_the_next_request_behind_the_content(server: Server) -> None:
    content = bytes(500_000)
    with conversation(server) as (connection, reader):
        connection.sendall((post("/digest", content) + get("/one")) * 3)
        for _ in range(3):
            assert json.loads(reader.read_response().content)["length"] == len(content)
            assert reader.read_response().content == b"one"


class TestContinue:
    """RFC 9110 section 10.1.1: 100 is sent when the application first reads."""

    LINES = ("Content-Length: 3", "Expect: 100-continue")

    def test_at_the_first_read(self, server: Server) -> None:
        with conversation(server) as (connection, reader):
            for _ in range(3):
                connection.sendall(get("/echo", *self.LINES, method="POST"))
                assert read_head(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
                connection.sendall(b"yes")
                assert read_head(reader).startswith(b"HTTP/1.1 200 ")
                assert read_chunk(reader) == b"yes"
                assert reader.file.readline() + reader.file.readline() == b"0\r\n\r\n"

    def test_never_without_a_read(self, server: Server) -> None:
        with conversation(server) as (connection, reader):
            connection.sendall(get("/unread", *self.LINES, method="POST"))
            assert read_head(reader).startswith(b"HTTP/1.1 200 ")
            assert b"unread" in reader.file.read()  # and is closed

    def test_never_after_the_response_has_begun(self, server: Server) -> None:
        with conversation(server) as (connection, reader):
            connection.sendall(get("/begun", *self.LINES, method="POST"))
            assert read_head(reader).startswith(b"HTTP/1.1 200 ")
            assert read_chunk(reader) == b"begun\n"
            connection.sendall(b"yes")
            assert read_chunk(reader) == b"yes"

    def test_the_client_need_not_wait(self, server: Server) -> None:
        with conversation(server) as (connection, reader):
            connection.sendall(get("/digest", *self.LINES, method="POST") + b"yes")
            assert read_head(reader).startswith(b"HTTP/1.1 200 ")


class TestUnread:
    @pytest.mark.parametrize("line", ["Connection: close", "Connection: keep-alive"])
    @pytest.mark.parametrize("size", [200_000, 5_000_000])
    def test_the_response_arrives_all_the_same(self, server: Server, line: str, size: int) -> None:
        """Closing with unread bytes would reset the connection and destroy the response."""
        with conversation(server) as (connection, reader):
            connection.sendall(get("/unread", f"Content-Length: {size}", line, method="POST"))
            connection.sendall(bytes(100_000))
            answer = reader.read_response()
            assert (answer.content, answer.field("Connection")) == (b"unread", "close")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(bytes(size - 100_000))

    def test_what_was_here_already_costs_no_connection(self, server: Server) -> None:
        with conversation(server) as (connection, reader):
            for _ in range(3):
                assert ask(connection, reader, post("/unread", b"x" * 500)).content == b"unread"
            assert is_open(connection, reader)


class TestCut:
    """The content breaks off while the application reads it."""

    def test_by_the_client_that_leaves(self, server: Server) -> None:
        before = len(json.loads(server.request("GET", "/cuts").content))
        with server.connect() as connection:
            connection.sendall(get("/cut", "Content-Length: 1000000", method="POST") + bytes(10))
        wait_until(lambda: len(json.loads(server.request("GET", "/cuts").content)) > before)
        with server.connect() as connection:
            connection.sendall(get("/cut", "Content-Length: 1000000", method="POST") + bytes(10))
            linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        wait_until(lambda: len(json.loads(server.request("GET", "/cuts").content)) > before + 1)

    def test_by_half_closing_too_early(self, server: Server) -> None:
        with conversation(server) as (connection, reader):
            connection.sendall(get("/cut", "Content-Length: 1000000", method="POST"))
            connection.sendall(bytes(10))
            connection.shutdown(socket.SHUT_WR)
            assert reader.read_response().status == 400
            assert reader.file.read() == b""

    def test_by_a_broken_chunk(self, server: Server) -> None:
        with conversation(server) as (connection, reader):
            connection.sendall(get("/lines/echo", "Transfer-Encoding: chunked", method="POST"))
            connection.sendall(b"5\r\nline\n\r\n")
            assert b" 200 " in read_head(reader)
            assert read_chunk(reader) == b"line\n"
            connection.sendall(b"no size\r\n")
            assert reader.file.read() == b""  # no last chunk: the client notices
        with conversation(server) as (connection, reader):
            connection.sendall(get("/cut", "Transfer-Encoding: chunked", method="POST"))
            connection.sendall(b"5\r\nline\n\r\n")
            connection.sendall(b"no size\r\n")
            assert reader.read_response().status == 400


@linux_only
class TestMemory:
    def test_an_upload_larger_than_memory(self, server: Server) -> None:
        """1 GiB, and less of it where only the poller or the number of threads differs."""
        size = 1 << (30 if {"epoll", "6"} <= set(server.process.args) else 27)  # type: ignore[call-overload, arg-type]
        server.request("POST", "/digest", bytes(1_000_000))
        memory = Memory(server.pid)
        block = bytes(MIB)
        with conversation(server) as (connection, reader):
            connection.sendall(get("/digest", f"Content-Length: {size}", method="POST"))
            for _ in range(size // MIB):
                connection.sendall(block)
            assert json.loads(reader.read_response().content)["length"] == size
            assert is_open(connection, reader)
        assert memory.growth_bytes < 3 * MIB

    def test_a_client_ahead_of_the_application_is_slowed_down(
        self, server: Server, tmp_path: Path
    ) -> None:
        memory = Memory(server.pid)
        name = tmp_path / "held"
        sent = 0
        with server.connect() as connection, Reader(connection) as reader:
            connection.sendall(get(f"/held?file={name}", "Content-Length: 99000000", method="POST"))
            wait_until(Path(f"{name}.begun").exists)
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                while sent < 90_000_000:
                    sent += connection.send(bytes(65536))
            Path(f"{name}.go").touch()
            connection.settimeout(10.0)
            assert reader.read_response().content == b"held"
        assert memory.growth_bytes < 3 * MIB


def test_deadline_of_the_content(tmp_path: Path) -> None:
    flags = ("--stream-request", "--content-timeout", "300ms", "--threads", "2")
    with serve(APPLICATION, *flags) as server:
        with conversation(server) as (connection, reader):
            connection.sendall(get("/cut", "Content-Length: 100", method="POST") + b"x")
            assert reader.read_response().status == 408
            assert reader.file.read() == b""
        # It is the client that has to hurry, not the application.
        name = tmp_path / "held"
        with conversation(server) as (connection, reader):
            connection.sendall(get(f"/held?file={name}", "Content-Length: 3000000", method="POST"))
            wait_until(Path(f"{name}.begun").exists)
            with server.connect() as other, Reader(other) as second:
                other.sendall(get("/cut", "Content-Length: 100", method="POST") + b"x")
                assert second.read_response().status == 408  # so long has passed
            Path(f"{name}.go").touch()
            assert reader.read_response().content == b"held"


def test_request_timeout_wakes_a_thread_that_waits_for_content() -> None:
    flags = ("--stream-request", "--request-timeout", "500ms", "--threads", "2")
    with serve(APPLICATION, *flags) as server:
        for _ in range(5):  # more often than there are threads
            with conversation(server) as (connection, reader):
                connection.sendall(get("/cut", "Content-Length: 100", method="POST") + b"x")
                assert reader.read_response().status == 504
        assert server.request("GET", "/one").content == b"one"


def test_per_application_by_an_attribute(tmp_path: Path) -> None:
    for attribute, flags in ((True, ()), (False, ("--stream-request",))):
        module = tmp_path / f"application_{attribute}.py"
        module.write_text(
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    return [type(environ['wsgi.input']).__name__.encode()]\n"
            f"app.stream_request = {attribute}\n"
        )
        with serve(str(module), *flags) as server, conversation(server) as (connection, reader):
            connection.sendall(get("/", "Content-Length: 3", method="POST"))
            if not attribute:
                connection.sendall(b"abc")
            name = reader.read_response().content
            assert (name == b"StreamedInput") == attribute


@linux_only
@pytest.mark.parametrize("poller", POLLERS)
def test_1000_mixed_requests_leave_nothing_behind(tmp_path: Path, poller: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(300_000))
    flags = ("--stream-request", "--threads", "4", "--poller", poller)
    with serve(APPLICATION, *flags, env=ENVIRONMENT) as server:
        mix = Mix(server, file)
        mix.run(1, 200)
        wait_until(lambda: mix.sockets() == 0)
        descriptors = len(list_descriptors(server.pid))
        mix.run(2, 1000)
        wait_until(lambda: mix.sockets() == 0)
        wait_until(lambda: len(list_descriptors(server.pid)) <= descriptors)
        assert read_status(server.pid, "Threads") <= 6


def test_many_uploads_at_once(server: Server) -> None:
    """Twelve clients, some slow, over fewer threads: every content arrives whole."""
    seed = 9
    failures: list[str] = []

    def upload(number: int) -> None:
        source = random.Random(seed + number)
        content = source.randbytes(source.randrange(1, 2_000_000))
        try:
            with conversation(server) as (connection, reader):
                connection.settimeout(30.0)
                data = post("/digest", content)
                while data:
                    size = source.choice((1, 1000, 100_000, 1_000_000))
                    connection.sendall(data[:size])
                    data = data[size:]
                facts = json.loads(reader.read_response().content)
            if facts["sha256"] != hashlib.sha256(content).hexdigest():
                failures.append(f"{number}: other content")
        except Exception as error:
            failures.append(f"{number}: {error!r}")

    clients = [threading.Thread(target=upload, args=(number,)) for number in range(12)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60.0)
        assert not client.is_alive()
    assert failures == [], f"seed {seed}"
