"""The small client of `rawsgi compare` against servers that do what servers should not.

Whatever a server does, the client returns in time, with bounded memory, and says what happened.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from rawsgi.compare.exchanges import Step
from rawsgi.compare.replay import heartbeat as heartbeat_module
from rawsgi.compare.replay.client import ENDLESS_KEPT_BYTES, Patience, replay_exchange
from rawsgi.compare.replay.heartbeat import Heartbeat
from rawsgi.compare.replay.responses import BLANK_LIMIT_BYTES, ResponseReader
from rawsgi.compare.replay.transcript import Transcript
from tests.compare_fakes import (
    ANSWERED_FOLLOW_UP,
    GET,
    OK,
    QUICK,
    Behaviour,
    ask,
    drain,
    expect,
    fake,
    flood,
    keep_alive,
    read_head,
    reset,
    say,
    trickle,
)
from tests.serving import wait_until

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nab"
TO_THE_END = b"HTTP/1.1 200 OK\r\n\r\nall of it"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.fixture(autouse=True)
def no_thread_or_descriptor_is_left() -> Iterator[None]:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    # What ended before may not have been gone yet when it was counted.
    wait_until(lambda: threading.active_count() <= threads)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def do(behaviour: Behaviour, patience: Patience = QUICK, wanted: int = 1) -> Transcript:
    """Do one exchange with a fake, and hold it to the time that it may take."""
    began_s = time.monotonic()
    with fake(behaviour) as server:
        exchange = ask(expected=expect(*((200,),) * wanted))
        transcript = replay_exchange(exchange, server.address, patience)
        assert transcript.port == server.address[1]
    # Loaded machines are slow, hanging ones never end.
    assert time.monotonic() - began_s < patience.exchange_s + 8
    return transcript


def statuses(transcript: Transcript) -> list[int]:
    return [response.status for response in transcript.finals()]


# -- Sensible answers --------------------------------------------------------------------------


def test_connection_that_stays_open_is_proven_by_a_follow_up() -> None:
    transcript = do(keep_alive(OK))
    assert statuses(transcript) == [200]
    assert transcript.ending == "open"
    assert transcript.responses[0].content == b"ok"


def test_answer_byte_by_byte_is_the_same_answer() -> None:
    pieces = [bytes([code]) for code in OK]
    transcript = do(say(*pieces, then=say(ANSWERED_FOLLOW_UP, then=None)))
    assert (statuses(transcript), transcript.ending) == ([200], "open")


def test_server_that_closes_after_its_answer() -> None:
    transcript = do(say(OK, then=None))
    assert (statuses(transcript), transcript.ending) == ([200], "closed")


def test_chunked_content() -> None:
    transcript = do(keep_alive(CHUNKED))
    assert transcript.responses[0].content == b"abc"
    assert transcript.responses[0].framing == "chunked"
    assert transcript.ending == "open"


def test_content_that_ends_with_the_connection() -> None:
    transcript = do(say(TO_THE_END, then=None))
    assert transcript.responses[0].content == b"all of it"
    assert transcript.responses[0].complete
    assert transcript.ending == "closed"


def test_interim_responses_are_told_from_final_ones() -> None:
    transcript = do(keep_alive(CONTINUE + CONTINUE + OK))
    assert [response.status for response in transcript.interims()] == [100, 100]
    assert (statuses(transcript), transcript.ending) == ([200], "open")


def test_step_waits_for_an_interim_response() -> None:
    seen: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        seen.append(read_head(connection))
        connection.sendall(CONTINUE)
        seen.append(connection.recv(65536))
        connection.sendall(OK)

    head = GET.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    with fake(behave) as server:
        exchange = ask(head, Step("await", awaited="100"), b"abc")
        transcript = replay_exchange(exchange, server.address, QUICK)
    assert seen == [head, b"abc"]
    assert statuses(transcript) == [200]


def test_answer_to_head_has_no_content() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    with fake(keep_alive(head)) as server:
        exchange = ask(GET.replace(b"GET", b"HEAD"), heads=frozenset({0}))
        transcript = replay_exchange(exchange, server.address, QUICK)
    assert (statuses(transcript), transcript.ending) == ([200], "open")
    assert transcript.responses[0].framing == "none"


def test_reconnecting_step_opens_a_second_connection() -> None:
    with fake(say(OK, then=None)) as server:
        exchange = ask(GET, Step("reconnect"), GET, expected=expect((200,), (200,)))
        transcript = replay_exchange(exchange, server.address, QUICK)
    assert statuses(transcript) == [200, 200]
    assert [event.kind for event in transcript.events].count("connected") == 2


# -- Bad ones ----------------------------------------------------------------------------------


def test_hanging_server_waits() -> None:
    transcript = do(say())
    assert (statuses(transcript), transcript.ending) == ([], "waits")


def test_server_that_answers_others_waits_and_one_that_answers_nobody_is_blocked() -> None:
    def behave(connection: socket.socket) -> None:
        if b"rawsgi-heartbeat" in read_head(connection):
            connection.sendall(OK)
        else:
            drain(connection)

    for behaviour, ending in ((behave, "waits"), (drain, "blocked")):
        with fake(behaviour) as server:
            heartbeat = Heartbeat(server.address)
            transcript = replay_exchange(ask(), server.address, QUICK, heartbeat)
            server.close()  # else the clock waits for its last answer
            heartbeat.close()
        assert transcript.ending == ending


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    transcript = replay_exchange(ask(), address, QUICK)
    assert transcript.ending == "unreachable"


@pytest.mark.parametrize(
    ("behaviour", "complete"),
    [
        (say(then=None), None),
        (say(then=reset), None),
        (say(CUT, then=None), False),
        (say(CUT, then=reset), False),
        (lambda connection: None, None),
        (reset, None),
    ],
    ids=["close", "reset", "cut", "cut and reset", "close at once", "reset at once"],
)
def test_connection_that_ends_early(behaviour: Behaviour, complete: bool | None) -> None:
    transcript = do(behaviour)
    # A reset may even come before connecting has succeeded.
    assert transcript.ending in ("closed", "unreachable")
    assert [response.complete for response in transcript.finals()] in (
        [] if complete is None else [complete],
        # A reset may overtake what was sent before it.
        [],
    )


@pytest.mark.parametrize(
    "piece",
    [b"x", b"\r\n", OK, CHUNKED[:-5] + b"3\r\nabc\r\n", CONTINUE, b"HTTP/1.1 200 OK\r\nA: b\r\n"],
    ids=["junk", "blank lines", "responses", "chunks", "interim", "fields"],
)
def test_flood_is_cut_short(piece: bytes) -> None:
    patience = Patience(silence_s=0.15, exchange_s=3.0, limit_bytes=1 << 17)
    transcript = do(flood(piece), patience)
    assert transcript.ending == "endless"
    kept = sum(len(event.data) for event in transcript.events if event.kind == "received")
    assert 0 < kept <= ENDLESS_KEPT_BYTES
    assert len(transcript.garbage) <= ENDLESS_KEPT_BYTES
    assert all(len(each.content) <= ENDLESS_KEPT_BYTES for each in transcript.responses)


def test_flood_of_content_is_cut_short() -> None:
    patience = Patience(silence_s=0.15, exchange_s=3.0, limit_bytes=1 << 17)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"

    def behave(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(head)
        while True:
            connection.sendall(b"x" * 65536)

    transcript = do(behave, patience)
    assert transcript.ending == "endless"
    assert all(len(each.content) <= ENDLESS_KEPT_BYTES for each in transcript.responses)


def test_trickle_ends_with_the_time_of_the_exchange() -> None:
    transcript = do(trickle(b"HTTP/1.1 200 OK\r\nX: "))
    assert transcript.ending == "endless"


@pytest.mark.parametrize(
    "garbage", [b"\x00\xff\x16\x03\x01" * 10, b"hello\n\n", b"SSH-2.0-x\r\n", b"HTTP/x y z\r\n\r\n"]
)
def test_garbage_is_kept_and_named(garbage: bytes) -> None:
    transcript = do(say(garbage, then=None))
    assert transcript.garbage == garbage
    assert statuses(transcript) == []


def test_garbage_after_a_response() -> None:
    transcript = do(say(OK + b"leftovers", then=None))
    assert statuses(transcript) == [200]
    assert transcript.garbage == b"leftovers"


def test_too_many_responses_are_all_seen() -> None:
    transcript = do(keep_alive(OK * 3))
    assert (statuses(transcript), transcript.ending) == ([200, 200, 200], "open")


def test_follow_up_that_is_swallowed() -> None:
    transcript = do(say(OK, then=drain))
    assert (statuses(transcript), transcript.ending) == ([200], "stuck")


def test_follow_up_that_is_taken_for_something_else() -> None:
    poisoned = ANSWERED_FOLLOW_UP.replace(b'"GET"', b'"GPOST"').replace(b": 1", b": 1", 1)
    length = poisoned.partition(b"\r\n\r\n")[2]
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(length)
    transcript = do(keep_alive(OK, head + length))
    assert (statuses(transcript), transcript.ending) == ([200], "poisoned")


def test_server_that_does_not_read_cannot_block_the_client() -> None:
    stop = threading.Event()

    def behave(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stop.wait(10)

    with fake(behave) as server:
        exchange = ask(GET + b"x" * (32 << 20))
        transcript = replay_exchange(exchange, server.address, QUICK)
        stop.set()
    assert transcript.ending in ("waits", "closed")
    sent = sum(len(event.data) for event in transcript.events if event.kind == "sent")
    assert 0 < sent < 32 << 20


def test_cancelled_exchange_ends_at_once() -> None:
    cancelled = threading.Event()
    cancelled.set()
    patience = Patience(silence_s=30, exchange_s=60)
    began_s = time.monotonic()
    with fake(say()) as server:
        replay_exchange(ask(), server.address, patience, cancelled=cancelled)
    assert time.monotonic() - began_s < 5


def test_heartbeat_ends_in_time_at_a_server_that_trickles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat_module, "_TIMEOUT_S", 0.3)
    with fake(trickle(b"x")) as server:
        heartbeat = Heartbeat(server.address)
        with heartbeat.needed():
            deadline_s = time.monotonic() + 20
            while not heartbeat.is_sick and time.monotonic() < deadline_s:
                time.sleep(0.02)
        heartbeat.close()
        assert heartbeat.is_sick


# -- The reader --------------------------------------------------------------------------------


def test_every_cut_of_a_stream_gives_the_same_responses() -> None:
    stream = CONTINUE + CHUNKED + OK + b"HTTP/1.1 204 No Content\r\n\r\n" + OK

    def read(*pieces: bytes) -> list[tuple[int, bytes, bool, int]]:
        reader = ResponseReader()
        for piece in pieces:
            reader.feed(piece)
        return [(each.status, each.content, each.complete, each.end) for each in reader.responses]

    whole = read(stream)
    assert [status for status, *_ in whole] == [100, 200, 200, 204, 200]
    assert read(*(bytes([code]) for code in stream)) == whole
    for cut in range(len(stream)):
        assert read(stream[:cut], stream[cut:]) == whole


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "a bare LF as line end in the head"),
        (b"HTTP/1.1 200 OK\r\nA b: c\r\nContent-Length: 0\r\n\r\n", "no field line: b'A b: c'"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
            "different Content-Length values",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding together with Content-Length",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "no chunk size: b'xyz'"),
        (
            b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
            "content where there can be none (HEAD, 204 or 304)",
        ),
        (b"\r\n" + OK, "a blank line before the status-line"),
        (b"HTTP/1.1  20 OK\r\n\r\n", "the status-line is not as it must be: b'HTTP/1.1  20 OK'"),
    ],
)
def test_reader_notes_what_is_irregular(stream: bytes, fault: str) -> None:
    reader = ResponseReader()
    reader.feed(stream)
    reader.end()
    assert reader.responses[0].faults == [fault]


def test_blank_lines_without_end_are_garbage() -> None:
    reader = ResponseReader()
    reader.feed(b"\r\n" * (BLANK_LIMIT_BYTES // 2 + 1))
    assert reader.garbage == 0
