"""Content on its way to the thread that reads it: order, bounds, and who waits for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from rawsgi.net.client import inbox as inbox_module
from rawsgi.net.client.buffers import HIGH_WATERMARK_BYTES, LOW_WATERMARK_BYTES
from rawsgi.net.client.inbox import Inbox
from rawsgi.protocol.message import ClientDisconnected
from tests.serving import wait_until


class Reader:
    """A thread that reads, and what it says meanwhile."""

    def __init__(self, is_patient: bool) -> None:
        self.waits = 0
        self.starved = 0
        self._is_patient = is_patient
        self.inbox = Inbox(lambda: None, lambda: None, self._wait, self._starve)
        self.received: list[bytes] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _wait(self) -> bool:
        self.waits += 1
        return self._is_patient

    def _starve(self) -> None:
        assert self.inbox.starved, "whoever is told must be able to see it"
        self.starved += 1

    def _run(self) -> None:
        while block := self.inbox.get(100):
            self.received.append(bytes(block))

    def end(self) -> None:
        self.inbox.finish()
        self.inbox.readmit()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture(params=[True, False], ids=["patient", "impatient"])
def reader(request: pytest.FixtureRequest) -> Iterator[Reader]:
    made = Reader(request.param)
    yield made
    made.end()


def test_a_starved_thread_goes_on_when_it_is_readmitted_and_not_before(reader: Reader) -> None:
    inbox = reader.inbox
    for number in range(1, 4):
        wait_until(lambda: inbox.starved)
        assert reader.starved == number
        inbox.put(b"one")
        inbox.put(b"two")
        assert inbox.starved
        assert reader.received == [b"one", b"two"] * (number - 1)
        inbox.readmit()
        wait_until(lambda number=number: reader.received == [b"one", b"two"] * number)  # type: ignore[misc]


def test_a_patient_thread_says_nothing_when_content_comes_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox_module, "_SHORT_WAIT_S", 60.0)
    reader = Reader(True)
    for number in range(1, 20):
        wait_until(lambda number=number: reader.waits == number)  # type: ignore[misc]
        reader.inbox.put(b"block")
        wait_until(lambda number=number: len(reader.received) == number)  # type: ignore[misc]
    assert reader.starved == 0
    reader.end()


def test_a_starved_thread_is_let_go_at_the_end_of_the_response(reader: Reader) -> None:
    wait_until(lambda: reader.inbox.starved)
    reader.inbox.close()
    wait_until(lambda: not reader.inbox.starved)
    reader.end()
    assert isinstance(reader.inbox.error, ClientDisconnected)


def test_what_came_before_a_failure_is_read_first() -> None:
    inbox = Inbox(lambda: None, lambda: None)
    inbox.put(b"content")
    inbox.fail(ClientDisconnected())
    assert bytes(inbox.get(4)) == b"cont"
    assert bytes(inbox.get(4)) == b"ent"
    assert inbox.get(4) == b""
    assert inbox.error is not None


def test_content_that_comes_as_the_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is over and content is there: nobody would readmit a thread for it again."""
    starved: list[bool] = []
    inbox = Inbox(lambda: None, lambda: None, lambda: True, lambda: starved.append(True))

    def wait(timeout: float | None = None) -> bool:
        assert timeout is not None, "it waits to be readmitted"
        inbox._blocks.append(memoryview(b"content"))
        return False

    monkeypatch.setattr(inbox, "_changed", _Lock(wait))
    assert bytes(inbox.get(100)) == b"content"
    assert starved == []


class _Lock:
    """A condition of which only the wait matters, and whether anybody is woken."""

    def __init__(self, wait: Callable[[float | None], bool] = lambda timeout: True) -> None:
        self.wait = wait
        self.woken = 0

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...
    def notify(self) -> None:
        self.woken += 1

    notify_all = notify


def make_inbox(**callbacks: Callable[[], None]) -> Inbox:
    return Inbox(**{"on_wanted": lambda: None, "on_room": lambda: None, **callbacks})  # type: ignore[arg-type]


WAYS: dict[str, Callable[[Inbox], object]] = {
    "put": lambda inbox: inbox.put(b"content"),
    "finish": lambda inbox: inbox.finish(),
    "fail": lambda inbox: inbox.fail(ClientDisconnected()),
    "close": lambda inbox: inbox.close(),
    "readmit": lambda inbox: inbox.readmit(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("starved", [True, False])
def test_a_thread_that_waits_is_woken(
    monkeypatch: pytest.MonkeyPatch, way: str, starved: bool
) -> None:
    """By whatever may be what it waits for: to be readmitted is another thing than content."""
    inbox = make_inbox()
    lock = _Lock()
    monkeypatch.setattr(inbox, "_changed", lock)
    inbox.starved = starved
    WAYS[way](inbox)
    assert lock.woken == (not starved or way != "put")
    assert inbox.starved == (starved and way not in ("close", "readmit"))


def test_a_starved_thread_that_is_woken_for_no_reason_waits_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = []

    def wait(timeout: float | None = None) -> bool:
        waits.append(timeout)
        if len(waits) == 3:
            inbox.starved = False
            inbox._blocks.append(memoryview(b"content"))
        return True

    said = []
    inbox = Inbox(lambda: None, lambda: None, lambda: False, lambda: said.append(True))
    monkeypatch.setattr(inbox, "_changed", _Lock(wait))
    assert bytes(inbox.get(100)) == b"content"
    assert waits == [None] * 3
    assert said == [True]


def test_a_thread_whose_patience_has_ended_asks_for_no_more_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A byte would not come sooner for asking; its place is what others may want."""
    said = []

    def wait(timeout: float | None = None) -> bool:
        said.append("waits" if timeout is None else "waits for a while")
        if timeout is None:
            inbox.starved = False
            inbox._ended = True
        return False

    inbox = Inbox(lambda: None, lambda: None, lambda: True, lambda: said.append("starves"))
    monkeypatch.setattr(inbox, "_changed", _Lock(wait))
    assert inbox.get(100) == b""
    assert said == ["waits for a while", "starves", "waits"]


@pytest.mark.parametrize("before", ["nothing", "content", "the end"])
def test_content_is_asked_for_when_none_has_come(before: str) -> None:
    asked = []

    def ask() -> None:
        asked.append(True)
        inbox.put(b"content")

    inbox = make_inbox(on_wanted=ask)
    if before == "content":
        inbox.put(b"content")
    elif before == "the end":
        inbox.finish()
    assert bytes(inbox.get(7)) == (b"" if before == "the end" else b"content")
    assert asked == [True] * (before == "nothing")


def test_content_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads of the application may want it at the same time."""
    asked = []

    def ask() -> None:
        asked.append(True)
        if len(asked) == 1:
            inbox.get(1)  # the other one

    def wait(timeout: float | None = None) -> bool:
        inbox._ended = True
        return True

    inbox = make_inbox(on_wanted=ask)
    monkeypatch.setattr(inbox, "_changed", _Lock(wait))
    assert inbox.get(1) == b""
    assert asked == [True]


def test_blocks_are_read_in_parts_of_any_size() -> None:
    inbox = make_inbox()
    for block in (b"abc", b"d", b"ef"):
        inbox.put(block)
    inbox.finish()
    parts = [bytes(inbox.get(size)) for size in (2, 1, 1, 3, 1)]
    assert parts == [b"ab", b"c", b"d", b"ef", b""]
    assert inbox.bytes_waiting == 0
    assert inbox.received_bytes == 6


def test_what_comes_after_the_end_is_nobodys() -> None:
    inbox = make_inbox()
    inbox.put(b"all")
    inbox.finish()
    assert inbox.put(bytes(HIGH_WATERMARK_BYTES + 1)), "nobody has to wait for it to be read"
    inbox.fail(ClientDisconnected())
    assert bytes(inbox.get(9)) == b"all"
    assert inbox.get(9) == b""
    assert inbox.error is None, "all had come"


@pytest.mark.parametrize("sent", ["all of it", "a part", "a part, then it failed"])
@pytest.mark.parametrize("is_read", [True, False])
def test_who_reads_after_the_response_is_told_what_is_missing(sent: str, is_read: bool) -> None:
    inbox = make_inbox()
    inbox.put(b"content")
    failure = ClientDisconnected()
    if sent == "all of it":
        inbox.finish()
    elif sent != "a part":
        inbox.fail(failure)
    if is_read:
        inbox.get(7)
    inbox.close()
    assert inbox.get(7) == b""
    assert inbox.bytes_waiting == 0
    if sent == "a part, then it failed":
        assert inbox.error is failure
    else:
        assert (inbox.error is None) == (sent == "all of it" and is_read)


def test_the_loop_is_told_once_that_there_is_room() -> None:
    told = []
    inbox = make_inbox(on_room=lambda: told.append(inbox.bytes_waiting))
    assert inbox.put(bytes(HIGH_WATERMARK_BYTES))
    inbox.get(HIGH_WATERMARK_BYTES)
    assert told == [], "it was not told that there was none"
    assert not inbox.put(bytes(HIGH_WATERMARK_BYTES + 1))
    inbox.get(HIGH_WATERMARK_BYTES - LOW_WATERMARK_BYTES)
    assert told == []
    for _ in range(3):
        inbox.get(1)
    assert told == [LOW_WATERMARK_BYTES]
