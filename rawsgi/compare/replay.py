"""Replay exchanges against one server: several at a time, and through crashes.

The rule: what one exchange does to a server must not colour the answer to another. A server
that dies is started again, the exchanges that were under way are repeated one at a time until
the guilty one is found; a server that has become sick (its answers to everybody are late) is
started anew; and an exchange during which the server answered nobody is repeated alone. One
`Replayer` per server; it is used by one thread, which runs a pool of its own.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from rawsgi.compare.client import Patience, Transcript, replay_exchange
from rawsgi.compare.exchanges import Exchange
from rawsgi.compare.heartbeat import Heartbeat
from rawsgi.compare.servers import Server, ServerError

WORKERS: Final = 8
WAITING_WORKERS: Final = 12
CRASH_LIMIT: Final = 12
# One server never holds the others up for longer than this, in one call of replay().
DYING_S: Final = 0.6
BUDGET_S: Final = 60.0
PATIENCE: Final = Patience()
# The probe application itself waits here, up to two seconds, for a close() that never comes.
_SLOW_PATH: Final = b"/probe/closed"
_SLOW_PATIENCE: Final = Patience(silence_s=2.5, silence_limit_s=5.0)


class Replayer:
    """Replays exchanges against one server.

    crashes: how often it died, and last_words: what it wrote then. overdue: how many exchanges
    the time did not suffice for.
    """

    def __init__(
        self, server: Server, probed: bool, timeout_s: float, cancelled: threading.Event
    ) -> None:
        self.server = server
        self.crashes = 0
        self.overdue = 0
        self.last_words = ""
        self._starts = 0
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

        thorough: wait longer before silence is believed. on_done: called after each exchange,
        in any thread. What there was no time for is missing.
        """
        transcripts: dict[str, Transcript] = {}
        pending = list(exchanges)
        self._deadline_s = time.monotonic() + (BUDGET_S if self._probed else 1e9)
        while pending and not self._must_stop():
            if not self._revive():
                transcripts |= {one.id: Transcript(ending="unreachable") for one in pending}
                break
            suspects, pending = self._replay_until_trouble(
                pending, transcripts, on_done, workers, thorough
            )
            for exchange in suspects:
                if self._must_stop():
                    pending.append(exchange)
                else:
                    transcripts[exchange.id] = self._replay_suspect(exchange, thorough)
                    on_done()
        self.overdue += sum(exchange.id not in transcripts for exchange in pending)
        return transcripts

    def _must_stop(self) -> bool:
        return self._cancelled.is_set() or time.monotonic() > self._deadline_s

    def _replay_until_trouble(
        self,
        exchanges: Sequence[Exchange],
        transcripts: dict[str, Transcript],
        on_done: Callable[[], None],
        workers: int,
        thorough: bool,
    ) -> tuple[list[Exchange], list[Exchange]]:
        """Replay until the end, or until the server dies or is sick; it is then restarted.

        Returns the suspects, which were under way or got no fair answer, and the rest.
        """
        waiting: queue.SimpleQueue[Exchange] = queue.SimpleQueue()
        for exchange in exchanges:
            waiting.put(exchange)
        suspects: list[Exchange] = []
        ended_s: dict[str, float] = {}
        heartbeat = Heartbeat(self.server.address) if self._probed else None

        def is_well() -> bool:
            return self.server.is_alive() and not (heartbeat and heartbeat.is_sick)

        def work() -> None:
            while is_well() and not self._must_stop():
                try:
                    exchange = waiting.get_nowait()
                except queue.Empty:
                    return
                transcript = self._replay_one(exchange, heartbeat, thorough)
                ended_s[exchange.id] = time.monotonic()
                if is_well() and transcript.ending not in ("blocked", "unreachable"):
                    transcripts[exchange.id] = transcript
                    on_done()
                else:
                    suspects.append(exchange)

        threads = [threading.Thread(target=work) for _ in range(min(workers, len(exchanges)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if heartbeat is not None:
            heartbeat.close()
            if heartbeat.is_sick and self.server.is_alive():
                self._restart()
        if not self.server.is_alive():
            # A process takes its time to die: the guilty one may have ended a moment ago.
            recent_s = time.monotonic() - DYING_S
            for exchange in exchanges:
                found = transcripts.get(exchange.id)
                if found and found.ending != "open" and ended_s.get(exchange.id, 0) > recent_s:
                    del transcripts[exchange.id]
                    suspects.append(exchange)
        rest = []
        while not waiting.empty():
            rest.append(waiting.get_nowait())
        return suspects, rest

    def _replay_suspect(self, exchange: Exchange, thorough: bool) -> Transcript:
        """Replay one exchange alone. A clock of its own tells whether it makes the server sick."""
        if not self._revive():
            return Transcript(ending="unreachable")
        heartbeat = Heartbeat(self.server.address) if self._probed else None
        transcript = self._replay_one(exchange, heartbeat, thorough)
        if heartbeat is not None:
            heartbeat.close()
        if transcript.ending != "open":
            deadline_s = time.monotonic() + DYING_S
            while self.server.is_alive() and time.monotonic() < deadline_s:
                time.sleep(0.02)
        if not self.server.is_alive():
            transcript.ending = "crashed"
        elif heartbeat is not None and heartbeat.is_sick:
            self._restart()
        return transcript

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

    def _revive(self) -> bool:
        """Start the server again if it is dead; say whether it lives."""
        if self.server.is_alive():
            return True
        self.crashes += 1
        self.last_words = self.server.explain()
        return self._restart()

    def _restart(self) -> bool:
        self._starts += 1
        if self._starts > CRASH_LIMIT:
            return self.server.is_alive()
        try:
            self.server.restart()
        except ServerError:
            self._starts = CRASH_LIMIT + 1
            return False
        return True


def repeatable(exchange: Exchange) -> bool:
    """Say whether an exchange may be sent twice to an application that is not ours."""
    words = exchange.sent().split(b" ", 1)
    return exchange.part != "yours" or words[0] in (b"GET", b"HEAD", b"OPTIONS")
