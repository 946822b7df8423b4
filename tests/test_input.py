"""wsgi.input while the content is still arriving: `StreamedInput` over `Inbox`.

One thread puts as the loop does, another reads as the application does. Nothing here sleeps:
whoever has to wait for the other side waits for an event, or for a state that it polls.
"""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rawsgi.net.client.buffers import HIGH_WATERMARK_BYTES, LOW_WATERMARK_BYTES
from rawsgi.net.client.inbox import Inbox
from rawsgi.protocol.message import ClientDisconnected, ProtocolError
from rawsgi.wsgi.input import ContentCut, StreamedInput
from tests.serving import wait_until

TIMEOUT_S = 10.0
MISTAKE = ProtocolError(400, "broken chunk", "RFC 9112 section 7.1")


class Calls:
    """What the inbox asked for."""

    def __init__(self) -> None:
        self.wanted = 0
        self.room = threading.Semaphore(0)
        self.rooms = 0

    def on_wanted(self) -> None:
        self.wanted += 1

    def on_room(self) -> None:
        self.rooms += 1
        self.room.release()


def make_inbox() -> tuple[Inbox, Calls]:
    calls = Calls()
    return Inbox(calls.on_wanted, calls.on_room), calls


def filled(*blocks: bytes, error: Any = None) -> StreamedInput:
    """An input whose content is here already."""
    inbox, _ = make_inbox()
    for block in blocks:
        inbox.put(block)
    if error is None:
        inbox.finish()
    else:
        inbox.fail(error)
    return StreamedInput(inbox)


@contextmanager
def thread(function: Callable[[], object]) -> Iterator[list[Any]]:
    """Run `function` beside the block; its result or its exception is in the list afterwards."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    running = threading.Thread(target=run, daemon=True)
    running.start()
    try:
        yield results
    finally:
        running.join(TIMEOUT_S)
        assert not running.is_alive(), "it waits for ever"


def is_waiting(inbox: Inbox) -> bool:
    """A thread waits for content."""
    return bool(inbox._changed._waiters)  # type: ignore[attr-defined]


class TestReading:
    LINES = [b"first\n", b"\n", b"third line\n", b"last without an end"]

    @pytest.fixture(params=["whole", "lines", "bytes", "odd"])
    def streamed(self, request: pytest.FixtureRequest) -> StreamedInput:
        content = b"".join(self.LINES)
        cuts = {
            "whole": [content],
            "lines": self.LINES,
            "bytes": [content[i : i + 1] for i in range(len(content))],
            "odd": [content[i : i + 7] for i in range(0, len(content), 7)],
        }
        return filled(*cuts[request.param])

    def test_read_all(self, streamed: StreamedInput) -> None:
        assert streamed.read() == b"".join(self.LINES)
        for _ in range(2):
            assert streamed.read() == b""
            assert streamed.read(5) == b""
            assert streamed.readline() == b""
            assert streamed.readlines() == []
            assert list(streamed) == []

    @pytest.mark.parametrize("size", [-1, None])
    def test_read_all_by_its_other_names(self, streamed: StreamedInput, size: Any) -> None:
        assert streamed.read(size) == b"".join(self.LINES)

    @pytest.mark.parametrize("size", [1, 2, 5, 16, 1000])
    def test_read_in_pieces(self, streamed: StreamedInput, size: int) -> None:
        pieces = list(iter(lambda: streamed.read(size), b""))
        assert b"".join(pieces) == b"".join(self.LINES)
        assert all(len(piece) == size for piece in pieces[:-1])

    def test_read_nothing(self, streamed: StreamedInput) -> None:
        assert streamed.read(0) == b""
        assert streamed.read() == b"".join(self.LINES)

    def test_readline(self, streamed: StreamedInput) -> None:
        assert list(iter(streamed.readline, b"")) == self.LINES

    def test_readline_with_a_size(self, streamed: StreamedInput) -> None:
        assert [streamed.readline(4) for _ in range(4)] == [b"firs", b"t\n", b"\n", b"thir"]

    def test_readlines(self, streamed: StreamedInput) -> None:
        assert streamed.readlines() == self.LINES

    def test_readlines_with_a_hint(self, streamed: StreamedInput) -> None:
        assert streamed.readlines(6) == self.LINES[:2]
        assert streamed.readlines(0) == self.LINES[2:]

    def test_iteration(self, streamed: StreamedInput) -> None:
        assert list(streamed) == self.LINES

    def test_mixed(self, streamed: StreamedInput) -> None:
        assert streamed.read(2) == b"fi"
        assert next(streamed) == b"rst\n"
        assert streamed.readline() == b"\n"
        assert streamed.read(5) == b"third"
        assert streamed.read() == b" line\nlast without an end"

    def test_any_calls_give_the_same_as_a_file(self) -> None:
        seed = 11
        source = random.Random(seed)
        for _ in range(200):
            content = bytes(source.choices(b"ab\n", k=source.randrange(200)))
            blocks, rest = [], content
            while rest:
                length = source.randrange(1, 50)
                blocks.append(rest[:length])
                rest = rest[length:]
            streamed = filled(*blocks)
            file = io.BufferedReader(io.BytesIO(content))
            for _ in range(20):
                method = source.choice(["read", "readline", "readlines", "readinto"])
                size = source.randrange(0, 60)
                if method == "readinto":
                    mine, other = bytearray(size), bytearray(size)
                    assert streamed.readinto(mine) == file.readinto(other), f"seed {seed}"
                    assert mine == other, f"seed {seed}"
                else:
                    calls = getattr(streamed, method), getattr(file, method)
                    assert calls[0](size) == calls[1](size), f"seed {seed}"

    def test_without_content(self) -> None:
        assert filled().read() == b""
        assert list(filled()) == []

    def test_is_no_file_that_can_be_moved_in(self) -> None:
        streamed = filled(b"x")
        assert not streamed.seekable()
        with pytest.raises(OSError):
            streamed.seek(0)

    def test_closing_it_harms_only_its_reader(self) -> None:
        inbox, _ = make_inbox()
        streamed = StreamedInput(inbox)
        streamed.close()
        assert inbox.put(b"x")
        with pytest.raises(ValueError):
            streamed.read()


class TestWaiting:
    def test_a_read_waits_for_what_it_asked_for(self) -> None:
        inbox, _ = make_inbox()
        streamed = StreamedInput(inbox)
        with thread(lambda: streamed.read(6)) as results:
            wait_until(lambda: is_waiting(inbox))
            inbox.put(b"one")
            wait_until(lambda: not inbox.bytes_waiting and is_waiting(inbox))
            assert results == []
            inbox.put(b"two, and more")
        assert results == [b"onetwo"]
        inbox.finish()
        assert streamed.read() == b", and more"

    def test_read1_returns_what_is_there(self) -> None:
        inbox, _ = make_inbox()
        inbox.put(b"one")
        inbox.put(b"two")
        streamed = StreamedInput(inbox)
        assert streamed.read1(100) == b"one"
        assert streamed.read1(100) == b"two"

    def test_a_line_is_returned_as_soon_as_it_is_complete(self) -> None:
        inbox, _ = make_inbox()
        streamed = StreamedInput(inbox)
        with thread(streamed.readline) as results:
            for block in (b"one ", b"line", b"\nnext"):
                wait_until(lambda: is_waiting(inbox))
                inbox.put(block)
        assert results == [b"one line\n"]

    def test_the_end_wakes_a_reader(self) -> None:
        inbox, _ = make_inbox()
        with thread(StreamedInput(inbox).read) as results:
            wait_until(lambda: is_waiting(inbox))
            inbox.put(b"all")
            inbox.finish()
        assert results == [b"all"]

    def test_giving_up_wakes_a_reader(self) -> None:
        """And does not let it take what it got for the whole."""
        inbox, _ = make_inbox()
        with thread(StreamedInput(inbox).read) as results:
            wait_until(lambda: is_waiting(inbox))
            inbox.put(b"part")
            inbox.close()
        assert isinstance(results[0], ContentCut)

    @pytest.mark.parametrize("reason", [MISTAKE, ClientDisconnected()], ids=repr)
    def test_a_cut_wakes_a_reader(self, reason: Any) -> None:
        inbox, _ = make_inbox()
        with thread(StreamedInput(inbox).read) as results:
            wait_until(lambda: is_waiting(inbox))
            inbox.put(b"part")
            inbox.fail(reason)
        assert isinstance(results[0], ContentCut)
        assert results[0].reason is reason


class TestCut:
    def test_what_had_come_can_be_read_first(self) -> None:
        streamed = filled(b"one", b"two", error=MISTAKE)
        assert streamed.read(3) == b"one"
        assert streamed.read(3) == b"two"
        for _ in range(3):
            with pytest.raises(ContentCut):
                streamed.read(1)

    @pytest.mark.parametrize("method", ["read", "readline", "readlines", "__next__", "read1"])
    def test_every_method_tells(self, method: str) -> None:
        with pytest.raises(OSError, match="broken chunk"):
            getattr(filled(error=MISTAKE), method)()

    def test_says_who_was_to_blame(self) -> None:
        with pytest.raises(ContentCut, match="400: broken chunk"):
            filled(error=MISTAKE).read()
        with pytest.raises(ContentCut, match="the client left"):
            filled(error=ClientDisconnected()).read()

    def test_nothing_can_cut_what_is_complete(self) -> None:
        inbox, _ = make_inbox()
        inbox.put(b"all")
        inbox.finish()
        inbox.fail(MISTAKE)
        assert inbox.error is None
        assert StreamedInput(inbox).read() == b"all"

    def test_the_first_reason_counts(self) -> None:
        inbox, _ = make_inbox()
        inbox.fail(MISTAKE)
        inbox.fail(ClientDisconnected())
        assert inbox.error is MISTAKE


class TestWanted:
    """on_wanted is where 100 (Continue) is sent (RFC 9110 section 10.1.1)."""

    def test_at_the_first_read_and_once(self) -> None:
        inbox, calls = make_inbox()
        streamed = StreamedInput(inbox)
        assert calls.wanted == 0
        with thread(lambda: streamed.read(3)) as results:
            wait_until(lambda: is_waiting(inbox))
            assert calls.wanted == 1
            inbox.put(b"one")
        assert results == [b"one"]
        with thread(lambda: streamed.read(3)):
            wait_until(lambda: is_waiting(inbox))
            inbox.put(b"two")
        assert calls.wanted == 1

    def test_not_by_a_read_of_nothing(self) -> None:
        inbox, calls = make_inbox()
        assert StreamedInput(inbox).read(0) == b""
        assert calls.wanted == 0

    def test_not_when_content_has_come_already(self) -> None:
        inbox, calls = make_inbox()
        inbox.put(b"x")
        StreamedInput(inbox).read(1)
        with thread(lambda: StreamedInput(inbox).read(1)):
            wait_until(lambda: is_waiting(inbox))
            inbox.put(b"y")
        assert calls.wanted == 0

    def test_not_when_no_content_will_come(self) -> None:
        for end in (Inbox.finish, lambda inbox: inbox.fail(MISTAKE)):
            inbox, calls = make_inbox()
            end(inbox)
            inbox.get(1)
            assert calls.wanted == 0

    def test_may_put_at_once(self) -> None:
        """No lock is held while it is called."""
        inbox: Inbox
        inbox = Inbox(lambda: inbox.finish(), lambda: None)
        assert StreamedInput(inbox).read() == b""


class TestWatermarks:
    BLOCK = b"x" * 65536

    def test_put_says_when_to_stop_and_on_room_when_to_go_on(self) -> None:
        inbox, calls = make_inbox()
        answers: list[bool] = []
        while not answers or answers[-1]:
            answers.append(inbox.put(self.BLOCK))
        assert len(answers) == HIGH_WATERMARK_BYTES // len(self.BLOCK) + 1
        taken = 0
        while not calls.rooms:
            taken += len(inbox.get(10_000))
        assert inbox.bytes_waiting <= LOW_WATERMARK_BYTES
        assert inbox.bytes_waiting + 10_000 > LOW_WATERMARK_BYTES
        assert taken + inbox.bytes_waiting == len(answers) * len(self.BLOCK)
        while inbox.bytes_waiting:
            inbox.get(10_000)
        assert calls.rooms == 1  # once for each time that it was full

    def test_on_room_is_not_called_when_nobody_was_told_to_stop(self) -> None:
        inbox, calls = make_inbox()
        for _ in range(100):
            assert inbox.put(self.BLOCK)
            assert len(inbox.get(1 << 20)) == len(self.BLOCK)
        assert calls.rooms == 0

    def test_memory_is_bounded_whatever_reader_and_writer_do(self) -> None:
        """20 MB through the inbox; the writer obeys, the reader is slow or fast at random."""
        seed = 5
        source = random.Random(seed)
        total = 20_000_000
        inbox, calls = make_inbox()
        streamed = StreamedInput(inbox)
        most = 0

        def write() -> None:
            nonlocal most
            sent = 0
            while sent < total:
                block = self.BLOCK[: min(len(self.BLOCK), total - sent)]
                sent += len(block)
                goes_on = inbox.put(block)
                most = max(most, inbox.bytes_waiting)
                if not goes_on:
                    assert calls.room.acquire(timeout=TIMEOUT_S), "nobody said to go on"
            inbox.finish()

        with thread(write) as results:
            received = 0
            while piece := streamed.read(source.randrange(1, 300_000)):
                received += len(piece)
        assert results == [None]
        assert received == total, f"seed {seed}"
        assert inbox.received_bytes == total
        assert most <= HIGH_WATERMARK_BYTES + len(self.BLOCK)
        assert calls.rooms >= 1

    def test_discarded_content_is_let_go_and_the_rest_not_kept(self) -> None:
        inbox, calls = make_inbox()
        while inbox.put(self.BLOCK):
            pass
        inbox.close()
        assert inbox.bytes_waiting == 0
        assert inbox.put(self.BLOCK)
        assert inbox.bytes_waiting == 0
        assert inbox.get(1) == b""
        assert isinstance(inbox.error, ClientDisconnected)
        assert calls.rooms == 0

    def test_closing_after_all_was_read_is_no_cut(self) -> None:
        inbox, _ = make_inbox()
        inbox.put(b"all")
        inbox.finish()
        streamed = StreamedInput(inbox)
        assert streamed.read() == b"all"
        inbox.close()
        assert streamed.read() == b""


def test_many_short_contents_by_two_threads() -> None:
    """Every order of put, get and finish that the scheduler comes up with gives the content."""
    seed = 3
    source = random.Random(seed)
    for _ in range(300):
        blocks = [source.randbytes(source.randrange(1, 100)) for _ in range(source.randrange(5))]
        inbox, _ = make_inbox()

        def write(inbox: Inbox = inbox, blocks: list[bytes] = blocks) -> None:
            for block in blocks:
                inbox.put(block)
            inbox.finish()

        with thread(write):
            assert StreamedInput(inbox).read() == b"".join(blocks), f"seed {seed}"
