"""Many exchanges against one server: crashes are found and survived, the hopeless are given up."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from rawsgi.compare.exchanges import Exchange
from rawsgi.compare.judgement.comparison import Row
from rawsgi.compare.replay import replayer as replayer_module
from rawsgi.compare.replay.replayer import HOPELESS_LIMIT, Replayer
from rawsgi.compare.rounds import compare_servers
from rawsgi.compare.servers.kinds import ServerError
from tests.compare_fakes import (
    ANSWERED_FOLLOW_UP,
    OK,
    Behaviour,
    Fake,
    ask,
    drain,
    flood,
    read_head,
)
from tests.serving import wait_until


@pytest.fixture(autouse=True)
def no_thread_or_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(replayer_module, "DYING_S", 0.1)
    monkeypatch.setattr(replayer_module, "EXITING_S", 0.1)
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    # What ended before may not have been gone yet when it was counted.
    wait_until(lambda: threading.active_count() <= threads)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


class FakeServer:
    """As `servers.process.Server`, but in this process. `kill` ends it as a crash would."""

    def __init__(self, name: str, behaviour: Behaviour, can_restart: bool = True) -> None:
        self.name = name
        self.starts = 0
        self._behaviour = behaviour
        self._can_restart = can_restart
        self._killing: list[threading.Thread] = []
        self._fake: Fake | None = None
        self.address = ("127.0.0.1", 0)
        self._start()

    def _start(self) -> None:
        self.starts += 1
        self._fake = Fake(self._behaviour)
        self.address = self._fake.address

    def is_alive(self) -> bool:
        return self._fake is not None

    def restart(self) -> None:
        if not self._can_restart:
            raise ServerError("it does not start again")
        self._end()
        self._start()

    def explain(self) -> str:
        return "last words"

    def kill(self) -> None:
        """From a connection's own thread: nobody can wait for it here."""
        fake, self._fake = self._fake, None
        if fake is not None:
            self._killing.append(threading.Thread(target=fake.close))
            self._killing[-1].start()

    def close(self) -> None:
        self._end()
        for thread in self._killing:
            thread.join()

    def _end(self) -> None:
        fake, self._fake = self._fake, None
        if fake is not None:
            fake.close()


def requests(*targets: str) -> list[Exchange]:
    return [
        ask(
            f"GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode("ascii"),
            id_=f"conformance/made{target}",
            level="OUR",
        )
        for target in targets
    ]


def serve_probe(connection: socket.socket) -> None:
    """Answer as the probe application would, as far as the tester looks."""
    while head := read_head(connection):
        if b"rawsgi-follow-up" in head:
            connection.sendall(ANSWERED_FOLLOW_UP)
            return
        connection.sendall(OK)
        if b"rawsgi-heartbeat" in head:
            return


def replay(
    server: FakeServer, exchanges: list[Exchange], **other: int
) -> tuple[Replayer, dict[str, str]]:
    replayer = Replayer(server, True, 1.0, threading.Event())
    try:
        transcripts = replayer.replay(exchanges, **other)  # type: ignore[arg-type]
    finally:
        server.close()
    return replayer, {id_.rpartition("/")[2]: found.ending for id_, found in transcripts.items()}


NAMES = [f"/{number}" for number in range(40)]


@pytest.mark.parametrize("workers", [1, 8])
def test_all_are_asked(workers: int) -> None:
    done: list[int] = []
    server = FakeServer("fake", serve_probe)
    replayer = Replayer(server, True, 1.0, threading.Event())
    transcripts = replayer.replay(requests(*NAMES), lambda: done.append(1), workers)
    server.close()
    assert {found.ending for found in transcripts.values()} == {"open"}
    assert len(transcripts) == len(done) == len(NAMES)
    assert (replayer.crashes, replayer.overdue, replayer.is_given_up) == (0, 0, False)


@pytest.mark.parametrize("workers", [1, 8])
def test_crash_is_found_and_the_others_are_asked_again(workers: int) -> None:
    servers: list[FakeServer] = []

    def behave(connection: socket.socket) -> None:
        if (head := read_head(connection)).startswith(b"GET /17 "):
            servers[0].kill()
            return
        connection.sendall(ANSWERED_FOLLOW_UP if b"follow-up" in head else OK)
        serve_probe(connection)

    servers.append(FakeServer("fake", behave))
    replayer, endings = replay(servers[0], requests(*NAMES), workers=workers)
    assert endings.pop("17") == "crashed"
    assert set(endings.values()) == {"open"} and len(endings) == len(NAMES) - 1
    assert replayer.crashes >= 1
    assert replayer.last_words == "last words"


def test_server_that_dies_and_does_not_start_again() -> None:
    servers: list[FakeServer] = []

    def behave(connection: socket.socket) -> None:
        read_head(connection)
        servers[0].kill()

    servers.append(FakeServer("fake", behave, can_restart=False))
    replayer, endings = replay(servers[0], requests(*NAMES))
    assert set(endings.values()) <= {"unreachable", "crashed", "closed"}
    assert replayer.is_given_up
    assert replayer.overdue == len(NAMES) - len(endings) > 0


@pytest.mark.parametrize("behaviour", [drain, flood(b"x")], ids=["hangs", "floods"])
def test_hopeless_server_is_given_up(behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = replayer_module.Patience(
        silence_s=0.05, silence_limit_s=0.2, exchange_s=0.5, limit_bytes=1 << 17
    )
    monkeypatch.setattr(replayer_module, "PATIENCE", quick)
    monkeypatch.setattr("rawsgi.compare.replay.heartbeat._TIMEOUT_S", 0.1)
    began_s = time.monotonic()
    server = FakeServer("fake", behaviour)
    replayer, endings = replay(server, requests(*(f"/{number}" for number in range(400))))
    assert replayer.is_given_up
    assert HOPELESS_LIMIT <= len(endings) < 400
    assert set(endings.values()) <= {"blocked", "endless"}
    assert replayer.overdue == 400 - len(endings)
    assert time.monotonic() - began_s < 30


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replayer_module, "CALL_LIMIT_S", 0.0)
    replayer, endings = replay(FakeServer("fake", serve_probe), requests(*NAMES))
    assert endings == {}
    assert replayer.overdue == len(NAMES)


def test_what_may_kill_is_sent_last_and_system_exit_at_the_very_end() -> None:
    order: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        head = read_head(connection)
        if head.startswith(b"GET /"):
            order.append(head.split()[1])
        connection.sendall(OK)

    exchanges = requests("/probe/error/system-exit", "/b", "/c")
    exchanges.insert(0, ask(b"GET /a HTTP/1.1\r\n\r\n", id_="wsgi/errors/a", level="OUR"))
    server = FakeServer("fake", behave)
    replay(server, exchanges, workers=1)
    targets = [target for target in order if b"?" not in target]
    assert targets == [b"/b", b"/c", b"/a", b"/probe/error/system-exit"]


# -- Two servers -------------------------------------------------------------------------------


def compare(first: Behaviour, second: Behaviour, *targets: str) -> list[Row]:
    servers = [FakeServer("rawsgi", first), FakeServer("other", second)]
    cancelled = threading.Event()
    replayers = [Replayer(server, True, 1.0, cancelled) for server in servers]
    try:
        return compare_servers(replayers, requests(*targets), [], lambda: None, cancelled, 8)
    finally:
        for server in servers:
            server.close()


def answer_by_target(table: dict[bytes, list[bytes]]) -> Behaviour:
    """Answer each target with the next of its answers, the last one for ever."""

    def behave(connection: socket.socket) -> None:
        while head := read_head(connection):
            answers = table.get(head.split()[1], [OK])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if b"follow-up" in head:
                connection.sendall(ANSWERED_FOLLOW_UP)
                return
            connection.sendall(answer)

    return behave


NOT_FOUND = OK.replace(b"200 OK", b"404 Not Found")
TEAPOT = OK.replace(b"200 OK", b"418 I am a teapot")


def test_differences_are_found() -> None:
    other = answer_by_target({b"/b": [NOT_FOUND]})
    rows = compare(serve_probe, other, "/a", "/b")
    assert [row.differs() for row in rows] == [False, True]
    assert [str(one) for one in rows[1].differences["other"]] == ["responses: 200 / 404"]
    assert not rows[1].unstable


def test_difference_that_was_seen_only_once_is_none() -> None:
    other = answer_by_target({b"/b": [NOT_FOUND, OK]})
    (row,) = compare(serve_probe, other, "/b")
    assert not row.differs() and not row.unstable


def test_answer_that_changes_is_called_unstable() -> None:
    other = answer_by_target({b"/b": [NOT_FOUND, OK, TEAPOT, NOT_FOUND, OK]})
    (row,) = compare(serve_probe, other, "/b")
    assert row.unstable == {"other"}


def test_server_that_died_differs() -> None:
    servers: list[FakeServer] = []

    def behave(connection: socket.socket) -> None:
        if read_head(connection).startswith(b"GET /b "):
            servers[-1].kill()
        else:
            connection.sendall(OK)

    reference = FakeServer("rawsgi", serve_probe)
    servers.append(FakeServer("other", behave))
    cancelled = threading.Event()
    replayers = [Replayer(one, True, 1.0, cancelled) for one in (reference, servers[0])]
    (row,) = compare_servers(replayers, requests("/b"), [], lambda: None, cancelled, 8)
    reference.close()
    servers[0].close()
    assert row.answers["other"].connection == "crashed"
    assert row.differs()
