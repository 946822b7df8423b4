"""How a response leaves: at once, gathered, left to the loop, or when the client has caught up.

The thread that runs the request and the leader are played by one thread, one after the other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rawsgi.net.client import buffers, exchange
from rawsgi.net.client.buffers import (
    GATHER_BYTES,
    HIGH_WATERMARK_BYTES,
    LOW_WATERMARK_BYTES,
    Outbox,
)
from rawsgi.net.client.exchange import Exchange
from rawsgi.protocol.message import ClientDisconnected, ResponseError
from tests.played_connection import Client
from tests.serving import wait_until

OK = "200 OK"
LARGE = bytes(range(256)) * 160
"""More than is joined to a head, and less than is gathered."""
BLOCK = b"b" * (GATHER_BYTES // 4)
EVERYTHING = 1 << 30


def begin(client: Client, *, gathers: bool, block: bytes = b"", length: int | None = None) -> None:
    """Begin a response in chunks, or of a known length."""
    client.exchange.gathers = gathers
    assert client.exchange.begin_response(client.exchange.encode_head(OK, []), length, block)


def frame(*blocks: bytes) -> bytes:
    """Return the blocks as chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(block), block) for block in blocks)


# -- Who answers -----------------------------------------------------------------------------------


def answer_whole(exchange: Exchange) -> None:
    exchange.send_response(exchange.encode_head(OK, []), b"content")


def answer_in_blocks(exchange: Exchange) -> None:
    exchange.begin_response(exchange.encode_head(OK, []), None, b"content")
    exchange.send_data(b"more")


def answer_by_file(exchange: Exchange) -> None:
    with Path(__file__).open("rb") as file:
        exchange.send_file(exchange.encode_head(OK, []), file, (0, 0))


def answer_large(exchange: Exchange) -> None:
    exchange.send_response(exchange.encode_head(OK, []), LARGE)


def answer_in_large_blocks(exchange: Exchange) -> None:
    exchange.begin_response(exchange.encode_head(OK, []), None, LARGE)


ANSWERS = [answer_whole, answer_in_blocks, answer_by_file, answer_large, answer_in_large_blocks]


@pytest.mark.parametrize("answer", ANSWERS)
def test_who_comes_after_the_loop_has_answered_sends_nothing(
    answer: Callable[[Exchange], None],
) -> None:
    client = Client()
    client.socket.room = EVERYTHING
    client.exchange.claim = []  # the loop has popped the entry
    with pytest.raises(ClientDisconnected):
        answer(client.exchange)
    assert client.socket.sent == b""
    assert not client.connection.unsent
    assert client.connection.outbox is None
    assert not client.exchange.head_sent


@pytest.mark.parametrize("answer", ANSWERS)
def test_who_answers_in_time_takes_the_claim(answer: Callable[[Exchange], None]) -> None:
    client = Client()
    client.socket.room = EVERYTHING
    claim: list[None] = [None]
    client.exchange.claim = claim
    answer(client.exchange)
    assert claim == [], "the loop must not answer any more"
    assert client.exchange.head_sent


def test_who_has_the_claim_may_answer_with_an_error() -> None:
    """The gateway's 500, when the application's fields could not be sent."""
    client = Client()
    client.exchange.claim = [None]
    client.exchange.gathers = True
    with pytest.raises(ResponseError):
        client.exchange.begin_response(
            client.exchange.encode_head(OK, [("X-Y", "line\nbreak")]), None, b"content"
        )
    client.exchange.send_response(
        client.exchange.encode_head("500 Internal Server Error", []), b"failed"
    )
    assert client.connection.unsent


# -- What leaves at once ---------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["GET / HTTP/1.1", "HEAD / HTTP/1.1"])
def test_a_small_response_is_left_to_whoever_is_first(head: str) -> None:
    client = Client(head)
    client.socket.room = EVERYTHING
    client.exchange.gathers = True
    client.exchange.send_response(client.exchange.encode_head(OK, []), b"content")
    assert client.socket.sent == b""
    client.connection.send_unsent()
    client.connection.send_unsent()
    assert client.wire == (b"content" if head.startswith("GET") else b"")
    assert client.socket.attempts == 1


def test_blocks_of_a_thread_that_does_not_lead_leave_at_once() -> None:
    client = Client()
    client.socket.room = EVERYTHING
    begin(client, gathers=False, block=b"one")
    assert client.wire == frame(b"one")
    client.exchange.send_data(b"two")
    assert client.wire == frame(b"one", b"two")
    client.exchange.send_end()
    assert client.wire == frame(b"one", b"two", b"")
    assert client.connection.outbox is None
    assert not client.loop.posts


@pytest.mark.parametrize("gathers", [True, False])
def test_what_the_socket_does_not_take_of_a_large_response_is_sent_meanwhile(gathers: bool) -> None:
    """The application may go on for long: it is not its end that the client waits for."""
    client = Client()
    client.socket.room = 1000
    client.exchange.gathers = gathers
    client.exchange.send_response(client.exchange.encode_head(OK, []), LARGE)
    assert len(client.socket.sent) == 1000
    outbox = client.connection.outbox
    assert outbox is not None
    assert outbox.watched != gathers
    if gathers:
        assert not client.loop.posts, "this thread leads: there is nobody whom to ask yet"
        client.exchange.stop_gathering()
    assert client.loop.run_posts() == 1
    client.take()
    assert client.wire == LARGE


def test_a_large_block_that_is_all_leaves_at_once() -> None:
    """Its generator may go on for long."""
    client = Client()
    client.socket.room = EVERYTHING
    client.exchange.gathers = True
    assert not client.exchange.begin_response(
        client.exchange.encode_head(OK, []), len(LARGE), LARGE
    )
    assert client.wire == LARGE


def test_a_block_does_not_overtake_what_waits() -> None:
    client = Client()
    client.socket.room = 10
    begin(client, gathers=False, block=b"one")
    client.socket.room = EVERYTHING
    client.exchange.send_data(b"two")
    client.exchange.send_end()
    assert len(client.socket.sent) == 10, "the loop was asked to send it"
    assert client.loop.run_posts() == 1, "once"
    assert client.wire == frame(b"one", b"two", b"")


def test_the_loop_is_asked_again_when_it_was_done() -> None:
    client = Client()
    begin(client, gathers=False, block=b"one")
    for number in range(3):
        assert client.loop.run_posts() == 1
        client.take()
        assert client.connection.outbox is not None and not client.connection.outbox
        client.socket.room = number
        client.exchange.send_data(b"two")
    client.loop.run_posts()
    client.take()
    assert client.wire == frame(b"one", b"two", b"two", b"two")


# -- What is gathered ------------------------------------------------------------------------------


def test_blocks_are_gathered_up_to_a_size() -> None:
    client = Client()
    client.socket.room = EVERYTHING
    begin(client, gathers=True, block=b"one", length=3 + 2 * GATHER_BYTES)
    outbox = client.connection.outbox
    assert outbox is not None
    client.exchange.send_data(bytes(GATHER_BYTES - outbox.bytes_waiting - 1))
    assert client.socket.attempts == 0
    client.exchange.send_data(b"x")  # now as much waits as may be gathered
    assert client.socket.attempts == 1
    assert not outbox and not client.loop.posts
    client.exchange.send_data(bytes(1000))
    assert client.socket.attempts == 1, "it gathers again"


def test_a_client_that_takes_nothing_is_not_asked_for_every_block() -> None:
    client = Client()
    begin(client, gathers=True, length=100 * len(BLOCK), block=BLOCK)
    attempts = []
    while not client.loop.parking.announced:
        client.exchange.send_data(BLOCK)
        attempts.append(client.socket.attempts)
    outbox = client.connection.outbox
    assert outbox is not None
    assert outbox.bytes_waiting <= HIGH_WATERMARK_BYTES + len(BLOCK), "memory is bounded"
    assert len(attempts) >= 6
    assert attempts[-1] <= 3


def test_gathered_blocks_leave_with_the_end() -> None:
    client = Client()
    client.socket.room = EVERYTHING
    begin(client, gathers=True, block=b"one")
    client.exchange.send_data(b"two")
    assert client.socket.sent == b""
    client.exchange.send_end()
    assert client.wire == frame(b"one", b"two", b"")
    assert client.socket.attempts == 1


def test_the_end_leaves_when_nothing_waits_any_more() -> None:
    """What came before it has been sent: nobody else would send it while the application closes."""
    client = Client()
    client.socket.room = EVERYTHING
    begin(client, gathers=True, block=b"one")
    client.exchange.stop_gathering()
    assert client.wire == frame(b"one")
    client.exchange.send_end()
    assert client.wire == frame(b"one", b"")
    assert not client.loop.posts


@pytest.mark.parametrize("gathers", [True, False])
def test_what_the_socket_does_not_take_of_the_end_is_sent_meanwhile(gathers: bool) -> None:
    client = Client()
    begin(client, gathers=True, block=b"one")
    client.exchange.gathers = gathers
    client.exchange.send_end()
    if gathers:
        assert not client.loop.posts
        client.exchange.stop_gathering()
    assert client.loop.run_posts() == 1
    client.take()
    assert client.wire == frame(b"one", b"")


def test_gathered_blocks_leave_when_the_loop_is_taken_over() -> None:
    client = Client()
    client.socket.room = 10
    begin(client, gathers=True, block=b"one")
    client.exchange.stop_gathering()
    attempts = client.socket.attempts
    client.exchange.stop_gathering()
    assert client.socket.attempts == attempts, "nothing is gathered any more"
    assert len(client.socket.sent) == 10
    assert client.loop.run_posts() == 1, "the rest, when the client takes it"
    client.take()
    blocks = [b"one"]
    for block in (b"two", b"three"):
        client.exchange.send_data(block)
        blocks.append(block)
        assert client.wire == frame(*blocks), "no more gathering"


@pytest.mark.parametrize("next_step", ["a second look", "a block", "the end"])
def test_a_thread_that_did_not_know_yet_gathers_no_more(next_step: str) -> None:
    """It asked whether it gathers, the loop was taken over, and then it put."""
    client = Client()
    begin(client, gathers=True, block=b"one")
    client.exchange.gathers = False
    outbox = client.connection.outbox
    assert outbox is not None and outbox.gathering
    if next_step == "a second look":
        client.exchange.stop_gathering()
    elif next_step == "a block":
        client.exchange.send_data(b"two")
    else:
        client.exchange.send_end()
    assert not outbox.gathering
    assert client.socket.attempts == 1
    assert client.loop.run_posts() == 1
    client.take()
    further = {"a second look": (), "a block": (b"two",), "the end": (b"",)}
    assert client.wire == frame(b"one", *further[next_step])


@pytest.mark.parametrize("size", [1, GATHER_BYTES])
def test_the_loop_is_asked_once_for_what_is_left(size: int) -> None:
    client = Client()
    begin(client, gathers=True, block=bytes(size))
    assert len(client.loop.posts) == (size == GATHER_BYTES)
    client.exchange.stop_gathering()
    client.exchange.send_data(b"two")
    client.exchange.send_end()
    client.exchange.stop_gathering()
    assert client.loop.run_posts() == 1
    client.take()
    assert client.wire == frame(bytes(size), b"two", b"")


def test_a_whole_response_leaves_when_the_loop_is_taken_over() -> None:
    """The application has given it, and goes on for long."""
    client = Client()
    client.socket.room = 10
    client.exchange.gathers = True
    client.exchange.send_response(client.exchange.encode_head(OK, []), b"content")
    client.exchange.stop_gathering()
    assert len(client.socket.sent) == 10
    client.take()
    assert client.wire == b"content"


@pytest.mark.parametrize("large", [False, True])
def test_the_head_of_a_response_without_content_is_the_whole(large: bool) -> None:
    client = Client("HEAD / HTTP/1.1")
    client.socket.room = EVERYTHING
    client.exchange.gathers = True
    block = LARGE if large else b"block"
    assert not client.exchange.begin_response(client.exchange.encode_head(OK, []), None, block), (
        "nothing more is to come"
    )
    client.connection.finish(client.exchange)
    assert client.socket.sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.wire == b""


# -- Clients that are behind, or gone --------------------------------------------------------------


@pytest.mark.parametrize("gathers", [True, False])
def test_a_thread_waits_above_the_high_watermark_and_not_at_it(gathers: bool) -> None:
    client = Client()
    begin(client, gathers=gathers, block=BLOCK, length=EVERYTHING)
    outbox = client.connection.outbox
    assert outbox is not None
    client.exchange.send_data(bytes(HIGH_WATERMARK_BYTES - outbox.bytes_waiting))
    assert not client.loop.parking.announced
    client.exchange.send_data(b"x")
    assert client.loop.parking.announced == [client.exchange]


def test_a_thread_that_is_too_far_ahead_waits_until_it_is_readmitted() -> None:
    client = Client()
    client.loop.parking.readmits = False
    begin(client, gathers=False, block=BLOCK, length=EVERYTHING)
    thread = threading.Thread(
        target=client.exchange.send_data, args=(bytes(HIGH_WATERMARK_BYTES),), daemon=True
    )
    thread.start()
    wait_until(lambda: client.loop.parking.announced)
    thread.join(0.02)
    assert thread.is_alive()
    client.loop.parking.readmit(client.exchange)
    thread.join(10)
    assert not thread.is_alive()


def test_a_client_has_caught_up_at_the_low_watermark() -> None:
    client = Client()
    begin(client, gathers=False, block=BLOCK, length=EVERYTHING)
    outbox = client.connection.outbox
    assert outbox is not None
    client.exchange.send_data(bytes(HIGH_WATERMARK_BYTES))
    client.loop.run_posts()
    outbox.throttled = True  # it waits
    client.take(outbox.bytes_waiting - LOW_WATERMARK_BYTES - 1)
    assert client.loop.parking.readmitted == []
    client.take(1)
    assert client.loop.parking.readmitted == [client.exchange]


def test_a_thread_that_waited_learns_that_its_client_has_gone() -> None:
    client = Client()
    begin(client, gathers=False, block=BLOCK, length=EVERYTHING)

    def leave(exchange: Exchange) -> None:
        exchange.connection.broken = True

    client.loop.parking.on_announce = leave
    with pytest.raises(ClientDisconnected):
        client.exchange.send_data(bytes(HIGH_WATERMARK_BYTES))


def test_what_cannot_be_sent_is_let_go_and_the_next_block_says_so() -> None:
    client = Client()
    client.socket.failure = OSError(errno.EPIPE, "gone")
    begin(client, gathers=True, block=b"one")
    client.exchange.stop_gathering()
    assert client.connection.broken
    assert client.connection.outbox is not None and not client.connection.outbox
    with pytest.raises(ClientDisconnected):
        client.exchange.send_data(b"two")
    assert not client.connection.outbox


def test_every_block_for_a_client_that_has_gone_says_so() -> None:
    client = Client()
    client.socket.failure = OSError(errno.EPIPE, "gone")
    begin(client, gathers=True, block=b"one")
    for block in (bytes(GATHER_BYTES), b"two", b"three"):
        with pytest.raises(ClientDisconnected):
            client.exchange.send_data(block)
        assert not client.connection.outbox, "nothing is kept for it"


@pytest.mark.parametrize("gone", [True, False])
def test_a_thread_that_waits_for_content_learns_that_its_client_has_gone(gone: bool) -> None:
    """When the loop is taken over: then it is tried to send what was gathered."""
    client = Client("POST / HTTP/1.1\r\nContent-Length: 9")
    client.socket.room = EVERYTHING
    client.socket.failure = OSError(errno.EPIPE, "gone") if gone else None
    begin(client, gathers=True, block=b"one")
    upload = client.connection.upload
    assert upload is not None
    client.exchange.stop_gathering()
    assert (upload.inbox.error is not None) == gone
    if gone:
        assert upload.inbox.get(10) == b""


@pytest.mark.parametrize(
    ("incoming", "gone"),
    [([], False), ([b"next"], False), ([b""], True), ([OSError(errno.ECONNRESET, "reset")], True)],
    ids=["silent", "sends", "closed", "reset"],
)
def test_an_application_may_ask_whether_its_client_is_there(
    incoming: list[bytes | OSError], gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "has_hung_up", lambda sock: False)  # which needs a descriptor
    client = Client()
    client.socket.incoming.extend(incoming)
    assert client.exchange.client_disconnected() is gone
    assert list(client.socket.incoming) == incoming, "it only looks"
    client.connection.broken = True
    assert client.exchange.client_disconnected()


@pytest.mark.parametrize("begun", [True, False])
def test_what_was_gathered_before_a_failure_still_leaves(begun: bool) -> None:
    client = Client()
    client.socket.room = EVERYTHING
    if begun:
        begin(client, gathers=True, block=b"one")
    client.exchange.abort("it failed")
    assert client.wire == (frame(b"one") if begun else b"")
    assert client.connection.protocol.code == (200 if begun else 499)
    assert not client.connection.protocol.reusable


@pytest.mark.parametrize("gathers", [True, False])
def test_a_send_that_fails_is_remembered(gathers: bool) -> None:
    client = Client()
    client.socket.failure = OSError(errno.EPIPE, "gone")
    client.exchange.gathers = gathers
    with pytest.raises(ClientDisconnected):
        client.exchange.begin_response(
            client.exchange.encode_head(OK, []), None, LARGE if gathers else b"block"
        )
        client.exchange.send_data(LARGE)
    assert client.connection.broken


def end_blocks(exchange: Exchange) -> None:
    exchange.begin_response(exchange.encode_head(OK, []), None, LARGE)
    exchange.send_end()


def answer_by_large_file(exchange: Exchange) -> None:
    with Path(__file__).open("rb") as file:
        exchange.send_file(exchange.encode_head(OK, []), file, (0, 100))


@pytest.mark.parametrize("answer", [answer_large, end_blocks, answer_by_large_file])
def test_a_response_is_complete_only_when_its_thread_sends_no_more(
    answer: Callable[[Exchange], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is interrupted between sending and the account of it does not know what has left: a
    response that is thought complete would go on, and repeat it."""
    complete: list[bool] = []
    flush = Outbox.flush

    def watch(outbox: Outbox, sock: Any) -> Any:
        complete.append(outbox.complete)
        return flush(outbox, sock)

    monkeypatch.setattr(Outbox, "flush", watch)
    client = Client()
    client.socket.room = 1000
    answer(client.exchange)
    assert client.connection.outbox is not None
    assert complete and not any(complete)
    assert client.connection.outbox.complete


# -- Lengths that were announced -------------------------------------------------------------------


@pytest.mark.parametrize("announced", [len(LARGE) - 1, len(LARGE), len(LARGE) + 1])
@pytest.mark.parametrize("way", ["at once", "by file"])
def test_content_of_another_length_than_was_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, announced: int
) -> None:
    """Too much is cut off; after too little only the end of the connection tells the client."""
    client = Client()
    client.socket.room = EVERYTHING
    fields = [("Content-Length", str(announced))]
    if way == "at once":
        client.exchange.send_response(client.exchange.encode_head(OK, fields), LARGE)
    else:
        path = tmp_path / "file"
        path.write_bytes(LARGE)
        monkeypatch.setattr(
            buffers, "_send_file", lambda sock, file, *span: sock.send(os.pread(file, *span[::-1]))
        )
        with path.open("rb") as file:
            span = 0, len(LARGE)
            assert client.exchange.send_file(client.exchange.encode_head(OK, fields), file, span)
        assert not is_open(path)
    assert client.wire == LARGE[:announced]
    assert client.connection.protocol.reusable == (announced <= len(LARGE))


def is_open(path: Path) -> bool:
    """A descriptor of this process leads to the file."""
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(int(name)), path.stat()):
                return True
    return False


def test_a_file_without_descriptors_left_is_to_be_read(tmp_path: Path) -> None:
    """Also one that was closed: nothing is sent, and no head is spent."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    client = Client()
    client.socket.room = EVERYTHING
    with path.open("rb") as file:
        pass
    head = client.exchange.encode_head(OK, [])
    assert not client.exchange.send_file(head, file, (0, 7))
    assert not client.exchange.head_sent and client.wire == b""
    client.exchange.send_response(head, b"content")


def test_a_file_without_bytes_is_closed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    client = Client("HEAD / HTTP/1.1")
    client.socket.room = EVERYTHING
    with path.open("rb") as file:
        assert client.exchange.send_file(client.exchange.encode_head(OK, []), file, (0, 7))
    assert not is_open(path)
    assert client.connection.outbox is not None and not client.connection.outbox
    assert client.wire == b""
