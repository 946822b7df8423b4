"""Clients that do little: who is waited for, who makes room, and what the access log says of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rawsgi.net.client import patience
from rawsgi.net.client.exchange import has_hung_up
from rawsgi.protocol.message import ClientDisconnected
from tests.played_connection import Client
from tests.serving import Server, serve, wait_until
from tests.test_threads import WAITING, get

MEBIBYTE = 1 << 20


@contextlib.contextmanager
def slow_connection(server: Server) -> Iterator[socket.socket]:
    """A client of which the kernel takes little on its own."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        sock.settimeout(20)
        sock.connect((server.host, server.port))
        yield sock


def read_all(sock: socket.socket) -> bytes:
    received = bytearray()
    while data := sock.recv(1 << 16):
        received += data
    return bytes(received)


# -- Who makes room --------------------------------------------------------------------------------


def test_clients_that_pause_in_the_middle_make_room() -> None:
    """Content that does not come, responses that are not read: for as long as their time-outs
    allow nobody else would get in."""
    with serve(WAITING, "--connections", "9") as server, contextlib.ExitStack() as stack:
        for number in range(12):
            sock = stack.enter_context(slow_connection(server))
            if number % 3 == 0:
                sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
            elif number % 3 == 1:
                sock.sendall(get(f"/bytes/{MEBIBYTE}"))
            else:
                sock.sendall(get(f"/file/{MEBIBYTE}"))
        began = time.monotonic()
        assert server.request("GET", "/").status == 200
        assert time.monotonic() - began < 15
        assert "the longest idle one made room" in server.stderr()


# -- Who has closed its sending side ---------------------------------------------------------------


def test_half_closed_clients_are_served_while_a_thread_is_free() -> None:
    with serve(WAITING, "--threads", "1") as server:
        for _ in range(3):
            with server.connect() as sock:
                sock.sendall(get("/sleep/0.02") * 10)
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock).count(b"HTTP/1.1 200 ") == 10


def test_an_end_behind_further_bytes_is_seen() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not has_hung_up(ours)
        theirs.sendall(b"more")
        assert not has_hung_up(ours)
        theirs.shutdown(socket.SHUT_WR)
        assert has_hung_up(ours)


# -- Who reads slowly ------------------------------------------------------------------------------


@pytest.fixture
def unsent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much the kernel holds; a test moves it."""
    held = [0]
    monkeypatch.setattr(patience, "count_unsent", lambda sock: held[0])
    return held


def begin_response(**settings: float) -> Client:
    client = Client(**settings)
    client.socket.room = 100_000
    exchange = client.exchange
    exchange.send_response(exchange.encode_head("200 OK", []), b"x" * MEBIBYTE)
    client.connection.finish(exchange)
    return client


def test_what_the_kernel_still_holds_tells_who_reads_on(unsent: list[int]) -> None:
    """The socket asks for more only when much of what the kernel holds has gone."""
    unsent[0] = 90_000
    client = begin_response(write_timeout_s=30.0, write_rate_bytes=500)
    client.loop.pass_time(1.0)  # the first look
    for _ in range(3):
        unsent[0] -= 20_000
        client.loop.pass_time(29.0)
        assert not client.connection.broken
    client.loop.pass_time(60.0)
    assert client.connection.broken, "it took nothing for as long as it may pause"


def test_what_the_clients_kernel_takes_at_once_is_no_reading(unsent: list[int]) -> None:
    unsent[0] = 90_000
    client = begin_response(write_timeout_s=30.0, write_rate_bytes=500)
    unsent[0] = 10_000
    client.loop.pass_time(1.0)
    client.loop.pass_time(28.9)
    assert not client.connection.broken
    client.loop.pass_time(0.2)
    assert client.connection.broken


def test_who_reads_on_must_keep_the_rate(unsent: list[int]) -> None:
    unsent[0] = 90_000
    client = begin_response(write_timeout_s=30.0, write_rate_bytes=500)
    client.loop.pass_time(1.0)
    for second in range(1, 200):
        unsent[0] = max(90_000 - second * 100, 0)
        client.loop.pass_time(1.0)
    assert client.connection.broken


def test_a_slow_and_steady_reader_is_not_cut() -> None:
    with serve(WAITING, "--write-timeout", "600ms", "--write-rate", "500") as server:
        with slow_connection(server) as sock:
            sock.sendall(get(f"/bytes/{4 * MEBIBYTE}"))
            ends_at = time.monotonic() + 2.5
            while time.monotonic() < ends_at:
                assert sock.recv(4000)
                time.sleep(0.02)
            assert "too slowly" not in server.stderr()


# -- What arrives, and what is said of it ----------------------------------------------------------


def test_stray_bytes_do_not_destroy_a_last_response() -> None:
    """Closed with something unread, the connection would be reset (RFC 9112 section 9.6)."""
    with serve(WAITING) as server, slow_connection(server) as sock:
        head = f"GET /bytes/{4 * MEBIBYTE} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        sock.sendall(head.encode())
        time.sleep(0.1)  # it has been answered, as far as the kernel takes it
        sock.sendall(b"\r\n")
        assert len(read_all(sock).partition(b"\r\n\r\n")[2]) == 4 * MEBIBYTE


@pytest.mark.parametrize("what", ["bytes", "file", "blocks"])
def test_a_response_that_is_not_taken_whole_is_logged_as_what_it_is(what: str) -> None:
    with serve(WAITING, "--access-log") as server:
        with slow_connection(server) as sock:
            sock.sendall(get(f"/{what}/{8 * MEBIBYTE}"))
            time.sleep(0.5)
            assert sock.recv(1000)
            assert f"/{what}/" not in server.stdout(), "it is not over"
        wait_until(lambda: f"/{what}/" in server.stdout())
        found = re.search(
            rf'"GET /{what}/\d+ HTTP/1.1" 200 (\d+) "-" "-" ([0-9.]+)', server.stdout()
        )
        assert found
        assert 1000 < int(found[1]) < 8 * MEBIBYTE
        assert float(found[2]) >= 0.4


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    """The process does nothing for the time of the block: what comes meanwhile comes at once."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_who_has_just_asked_is_not_closed_to_make_room() -> None:
    """All who could make room have a request in their sockets: the newcomer waits a moment."""
    with serve(WAITING, "--connections", "2") as server, contextlib.ExitStack() as stack:
        known = [stack.enter_context(server.connect()) for _ in range(2)]
        for sock in known:
            sock.sendall(get("/"))
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
        with stopped(server):
            time.sleep(0.05)
            for sock in known:
                sock.sendall(get("/"))
            newcomer = stack.enter_context(server.connect())
            newcomer.sendall(get("/"))
        for sock in known:
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert newcomer.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_an_active_reader_is_not_closed_to_make_room(tmp_path: Path) -> None:
    """A Unix socket asks for more only when most of what it holds has been read."""
    bind = f"unix:{tmp_path}/socket"
    with serve(WAITING, "--connections", "1", "--bind", bind) as server:
        with server.connect() as reader, server.connect() as newcomer:
            reader.sendall(get(f"/bytes/{4 * MEBIBYTE}"))
            assert reader.recv(1000)
            newcomer.sendall(get("/"))
            ends_at = time.monotonic() + 4.5
            while time.monotonic() < ends_at:
                assert reader.recv(1000), "it was closed"
                time.sleep(0.05)
            reader.close()
            assert newcomer.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_an_upload_that_made_room_is_in_the_access_log() -> None:
    with serve(WAITING, "--connections", "1", "--access-log") as server:
        with server.connect() as first, server.connect() as second:
            for sock, name in ((first, "first"), (second, "second")):
                head = f"POST /{name} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
                sock.sendall(head.encode() + b"0123456789")
                time.sleep(0.1)
            assert first.recv(100) == b""
        wait_until(lambda: '"POST /first HTTP/1.1" 499 0 ' in server.stdout())


@pytest.mark.parametrize("gathers", [True, False])
def test_what_could_not_be_sent_is_not_counted(gathers: bool) -> None:
    client = Client()
    client.socket.failure = ConnectionResetError()
    client.exchange.gathers = gathers
    exchange = client.exchange
    with contextlib.suppress(ClientDisconnected):
        exchange.send_response(exchange.encode_head("200 OK", []), b"x" * 1000)
    written: list[Any] = []
    log: Any = types.SimpleNamespace(write=lambda *line: written.append(line))
    client.loop.access_log = log
    client.connection.finish(exchange)
    assert [line[4:6] for line in written] == [(200, 0)]
