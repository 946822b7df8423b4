"""Content on its way to the thread that reads it: order, bounds, and who waits for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from rawsgi.net.client import inbox as inbox_module
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
    """A condition of which only the wait matters."""

    def __init__(self, wait: Callable[[float | None], bool]) -> None:
        self.wait = wait

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...
