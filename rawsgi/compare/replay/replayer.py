"""Replay exchanges against one server: several at a time, and through crashes.

The rule: what one exchange does to a server must not colour the answer to another, and no server
can make the comparison run for ever. What is meant to break servers is sent last and one at a
time. A server that dies is started again, and what was under way is repeated one at a time until
the guilty one is found; a server that has become sick (its answers to everybody are late) is
started anew. One that goes on answering nobody, or that uses up its time, is given up, and that is
said. One `Replayer` per server; it is used by one thread, which runs a pool of its own.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from rawsgi.compare.exchanges import Exchange
from rawsgi.compare.replay.client import Patience, replay_exchange
from rawsgi.compare.replay.heartbeat import Heartbeat
from rawsgi.compare.replay.transcript import Transcript
from rawsgi.compare.servers.kinds import ServerError

WORKERS: Final = 8
WAITING_WORKERS: Final = 12
RESTART_LIMIT: Final = 24
# A process may take so long to die after the connection that killed it was closed.
DYING_S: Final = 0.6
# SystemExit makes some servers end in good order, which takes longer.
EXITING_S: Final = 1.2
# And so long to end once it listens no more.
ENDING_S: Final = 4.0
# One server never holds the others up for longer: in one call of replay(), and in all.
CALL_LIMIT_S: Final = 60.0
TOTAL_LIMIT_S: Final = 120.0
# So many exchanges in a row without any sensible end, and the server is given up.
HOPELESS_LIMIT: Final = 16
_HOPELESS: Final = ("blocked", "endless", "unreachable")
PATIENCE: Final = Patience()
# The probe application itself waits here, up to two seconds, for a close() that never comes.
_SLOW_PATH: Final = b"/probe/closed"
_SLOW_PATIENCE: Final = Patience(silence_s=2.5, silence_limit_s=5.0)
# Applications that fail bring some servers down; SystemExit brings down most that fall.
_FAILING_GROUP: Final = "wsgi/errors"
_EXITING_PATH: Final = b"/probe/error/system-exit"


class Replayed(Protocol):
    """What a Replayer asks of a server: `servers.process.Server`, or a fake."""

    name: str
    address: tuple[str, int]

    def is_alive(self) -> bool:
        """Say whether its process runs."""

    def restart(self) -> None:
        """Start it again. Raises ServerError."""

    def explain(self) -> str:
        """Return the last telling line that it wrote."""


class Replayer:
    """Replays exchanges against one server.

    crashes: how often it died, and last_words: what it wrote then. overdue: how many exchanges
    the time did not suffice for. is_given_up: it answered nobody, again and again.
    """

    def __init__(
        self, server: Replayed, probed: bool, timeout_s: float, cancelled: threading.Event
    ) -> None:
        self.server = server
        self.crashes = 0
        self.overdue = 0
        self.last_words = ""
        self.is_given_up = False
        self._hopeless = 0
        self._restarts = 0
        self._tainted = False
        self._deadly: set[str] = set()
        self._spent_s = 0.0
        self._probed = probed
        self._timeout_s = timeout_s
        self._cancelled = cancelled
        self._deadline_s = 0.0

    def replay(
        self,
        exchanges: Sequence[Exchange],
        on_done: Callable[[], None] = lambda: None,
        workers: int = WORKERS,
        thorough: bool = False,
    ) -> dict[str, Transcript]:
        """Replay all and return the transcripts by id. Raises nothing for the server's sake.

        workers: how many at a time; with 1 they are sent in order. thorough: wait longer before
        silence is believed. on_done: called after each exchange, in any thread. What there was no
        time for is missing.
        """
        began_s = time.monotonic()
        limit_s = min(CALL_LIMIT_S, TOTAL_LIMIT_S - self._spent_s) if self._probed else 1e9
        self._deadline_s = began_s + limit_s
        transcripts: dict[str, Transcript] = {}
        found_in_trouble: dict[str, Transcript] = {}
        if self._tainted and exchanges:
            self._tainted = False
            self._restart()
        together, alone = self._part_fragile(exchanges)
        if workers == 1:
            together, alone = [], together + alone
        suspects: list[Exchange] = []
        while together and not self._must_stop() and self._revive():
            troubled, together = self._replay_until_trouble(
                together, transcripts, found_in_trouble, on_done, workers, thorough
            )
            suspects += troubled
        self._replay_alone([*suspects, *together, *alone], transcripts, on_done, thorough)
        for id_, transcript in found_in_trouble.items():
            transcripts.setdefault(id_, transcript)
        self.overdue += sum(exchange.id not in transcripts for exchange in exchanges)
        self._spent_s += time.monotonic() - began_s
        return transcripts

    def _part_fragile(self, exchanges: Sequence[Exchange]) -> tuple[list[Exchange], list[Exchange]]:
        """Part what can be sent together from what kills the server or may, the deadliest last."""
        if not self._probed:
            return list(exchanges), []
        alone = [one for one in exchanges if _is_fragile(one) or one.id in self._deadly]
        together = [one for one in exchanges if one not in alone]
        return together, sorted(alone, key=lambda one: _EXITING_PATH in one.sent())

    def _must_stop(self) -> bool:
        return self._cancelled.is_set() or self.is_given_up or time.monotonic() > self._deadline_s

    def _count_hope(self, transcript: Transcript) -> None:
        self._hopeless = self._hopeless + 1 if transcript.ending in _HOPELESS else 0
        self.is_given_up = self.is_given_up or self._hopeless >= HOPELESS_LIMIT

    # --- many at a time ---

    def _replay_until_trouble(
        self,
        exchanges: Sequence[Exchange],
        transcripts: dict[str, Transcript],
        found_in_trouble: dict[str, Transcript],
        on_done: Callable[[], None],
        workers: int,
        thorough: bool,
    ) -> tuple[list[Exchange], list[Exchange]]:
        """Replay until the end, or until the server dies or is sick; a sick one is restarted.

        Returns the suspects, which were under way or got no fair answer, and the rest.
        """
        waiting: queue.SimpleQueue[Exchange] = queue.SimpleQueue()
        for exchange in exchanges:
            waiting.put(exchange)
        suspects: list[Exchange] = []
        ended_s: dict[str, float] = {}
        heartbeat = Heartbeat(self.server.address) if self._probed else None
        # It listens no more, though the process may take a while to end.
        is_down = threading.Event()

        def is_well() -> bool:
            sick = heartbeat is not None and heartbeat.is_sick
            return self.server.is_alive() and not sick and not is_down.is_set()

        def work() -> None:
            while is_well() and not self._must_stop():
                try:
                    exchange = waiting.get_nowait()
                except queue.Empty:
                    return
                transcript = self._replay_one(exchange, heartbeat, thorough)
                ended_s[exchange.id] = time.monotonic()
                if is_well() and transcript.ending not in ("blocked", "unreachable"):
                    self._count_hope(transcript)
                    transcripts[exchange.id] = transcript
                    on_done()
                else:
                    if transcript.ending == "unreachable":
                        is_down.set()
                    elif transcript.ending == "blocked":
                        self._count_hope(transcript)
                    found_in_trouble[exchange.id] = transcript
                    suspects.append(exchange)

        _run_in_threads(work, min(workers, len(exchanges)))
        recent_s = time.monotonic() - DYING_S
        if heartbeat is not None:
            heartbeat.close()
            if heartbeat.is_sick and self.server.is_alive():
                self._restart()
        if self._dies(0):
            recent = [one for one in exchanges if ended_s.get(one.id, 0) > recent_s]
            suspects += _take_suspects(recent, transcripts)
        return suspects, [waiting.get_nowait() for _ in range(waiting.qsize())]

    # --- one at a time ---

    def _replay_alone(
        self,
        exchanges: Sequence[Exchange],
        transcripts: dict[str, Transcript],
        on_done: Callable[[], None],
        thorough: bool,
    ) -> None:
        """Replay in order, and look after each whether it has killed the server.

        Where the one before may have killed it too, both are asked again, each of a fresh server.
        """
        before: Exchange | None = None
        before_ended_s = 0.0
        for exchange in exchanges:
            if self._must_stop():
                return
            linger_s = EXITING_S if _EXITING_PATH in exchange.sent() else 0
            transcript = self._replay_watched(exchange, thorough, linger_s)
            doubtful = before is not None and time.monotonic() - before_ended_s < DYING_S
            if transcript.ending == "crashed" and doubtful and not self._must_stop():
                assert before is not None
                transcript = self._replay_watched(exchange, thorough, DYING_S)
                transcripts[before.id] = self._replay_watched(before, thorough, DYING_S)
            self._count_hope(transcript)
            transcripts[exchange.id] = transcript
            on_done()
            if transcript.ending == "crashed":
                self._deadly.add(exchange.id)
            self._tainted = self._tainted or _is_fragile(exchange)
            settled = transcript.ending in ("open", "crashed")
            before, before_ended_s = (None if settled else exchange), time.monotonic()

    def _replay_watched(self, exchange: Exchange, thorough: bool, linger_s: float) -> Transcript:
        """Replay one. A clock of its own tells whether it makes the server sick; then restart.

        linger_s: how long to wait for the server to die of it.
        """
        if not self._revive():
            return Transcript(ending="unreachable")
        heartbeat = Heartbeat(self.server.address) if self._probed else None
        transcript = self._replay_one(exchange, heartbeat, thorough)
        if heartbeat is not None:
            heartbeat.close()
        if transcript.ending != "open" and self._dies(linger_s):
            transcript.ending = "crashed"
        elif heartbeat is not None and heartbeat.is_sick:
            self._restart()
        return transcript

    def _dies(self, linger_s: float) -> bool:
        """Say whether the server is dead, or dying: its listening socket goes before it does."""
        deadline_s = time.monotonic() + linger_s
        while self.server.is_alive() and time.monotonic() < deadline_s:
            time.sleep(0.02)
        if not self.server.is_alive():
            return True
        if self._listens():
            return False
        deadline_s = time.monotonic() + ENDING_S
        while self.server.is_alive() and not self._must_stop():
            if time.monotonic() > deadline_s:
                # It runs and serves nobody: that is as good as dead.
                return self._restart()
            time.sleep(0.01)
        return True

    def _listens(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(self.server.address, timeout=1).close()
            return True
        return False

    def _replay_one(
        self, exchange: Exchange, heartbeat: Heartbeat | None, thorough: bool
    ) -> Transcript:
        if not self._probed:
            patience = Patience(silence_s=self._timeout_s, exchange_s=4 * self._timeout_s)
        elif _SLOW_PATH in exchange.sent():
            patience = _SLOW_PATIENCE
        elif thorough:
            patience = replace(PATIENCE, silence_s=1.0, heartbeats=2 * PATIENCE.heartbeats)
        else:
            patience = PATIENCE
        return replay_exchange(
            exchange, self.server.address, patience, heartbeat, self._probed, self._cancelled
        )

    # --- the server ---

    def _revive(self) -> bool:
        """Start the server again if it is dead; say whether it lives."""
        if self.server.is_alive():
            return True
        self.crashes += 1
        self.last_words = self.server.explain()
        return self._restart()

    def _restart(self) -> bool:
        self._restarts += 1
        if self._restarts > RESTART_LIMIT or self._must_stop():
            return self.server.is_alive()
        try:
            self.server.restart()
        except ServerError:
            self._restarts = RESTART_LIMIT
            return False
        return True


def _run_in_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _take_suspects(
    recent: Sequence[Exchange], transcripts: dict[str, Transcript]
) -> list[Exchange]:
    """Take those out of the transcripts that may have killed the server.

    After "open" and "waits" it answered others: these did no harm.
    """
    suspects = [
        one
        for one in recent
        if one.id in transcripts and transcripts[one.id].ending not in ("open", "waits")
    ]
    for exchange in suspects:
        del transcripts[exchange.id]
    return suspects


def _is_fragile(exchange: Exchange) -> bool:
    return exchange.group == _FAILING_GROUP or _EXITING_PATH in exchange.sent()


def repeatable(exchange: Exchange) -> bool:
    """Say whether an exchange may be sent twice to an application that is not ours."""
    words = exchange.sent().split(b" ", 1)
    return exchange.part != "yours" or words[0] in (b"GET", b"HEAD", b"OPTIONS")
