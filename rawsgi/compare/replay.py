"""Replay exchanges against one server: several at a time, and through crashes.

The rule: what one exchange does to a server must not colour the answer to another. A server
that dies is started again, the exchanges that were under way are repeated one at a time until
the guilty one is found, and an exchange during which the server answered nobody is repeated
alone. One `Replayer` per server; it is used by one thread, which runs a pool of its own.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from rawsgi.compare.client import Patience, Transcript, replay_exchange
from rawsgi.compare.exchanges import Exchange
from rawsgi.compare.heartbeat import Heartbeat
from rawsgi.compare.servers import Server, ServerError

WORKERS: Final = 8
WAITING_WORKERS: Final = 12
CRASH_LIMIT: Final = 8
# In `wsgi` the probe application itself waits up to two seconds for a close() that never comes.
PATIENCE: Final = {
    "conformance": Patience(),
    "wsgi": Patience(silence_s=2.5, silence_limit_s=5.0),
}


class Replayer:
    """Replays exchanges against one server and remembers nothing but how often it crashed."""

    def __init__(
        self, server: Server, probed: bool, timeout_s: float, cancelled: threading.Event
    ) -> None:
        self.server = server
        self.crashes = 0
        self._probed = probed
        self._timeout_s = timeout_s
        self._cancelled = cancelled

    def replay(
        self,
        exchanges: Sequence[Exchange],
        on_done: Callable[[], None] = lambda: None,
        workers: int = WORKERS,
        thorough: bool = False,
    ) -> dict[str, Transcript]:
        """Replay all and return the transcripts by id. Raises nothing for the server's sake.

        thorough: wait longer before silence is believed. on_done: called after each exchange,
        in any thread.
        """
        transcripts: dict[str, Transcript] = {}
        pending = list(exchanges)
        while pending and not self._cancelled.is_set():
            if not self._revive():
                for exchange in pending:
                    transcripts[exchange.id] = Transcript(ending="unreachable")
                    on_done()
                break
            suspects, pending = self._replay_until_death(
                pending, transcripts, on_done, workers, thorough
            )
            for exchange in suspects:
                transcripts[exchange.id] = self._replay_suspect(exchange, thorough)
                on_done()
        for exchange in exchanges:
            transcript = transcripts.get(exchange.id)
            if transcript is not None and transcript.ending == "blocked" and self._revive():
                transcripts[exchange.id] = self._replay_one(exchange, None, thorough)
        return transcripts

    def _replay_until_death(
        self,
        exchanges: Sequence[Exchange],
        transcripts: dict[str, Transcript],
        on_done: Callable[[], None],
        workers: int,
        thorough: bool,
    ) -> tuple[list[Exchange], list[Exchange]]:
        """Replay until the end or until the server dies; return the suspects and the rest."""
        waiting: queue.SimpleQueue[Exchange] = queue.SimpleQueue()
        for exchange in exchanges:
            waiting.put(exchange)
        suspects: list[Exchange] = []
        heartbeat = Heartbeat(self.server.address) if self._probed else None

        def work() -> None:
            while self.server.is_alive() and not self._cancelled.is_set():
                try:
                    exchange = waiting.get_nowait()
                except queue.Empty:
                    return
                transcript = self._replay_one(exchange, heartbeat, thorough)
                if self.server.is_alive():
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
        rest = []
        with contextlib.suppress(queue.Empty):
            while True:
                rest.append(waiting.get_nowait())
        return suspects, rest

    def _replay_suspect(self, exchange: Exchange, thorough: bool) -> Transcript:
        if not self._revive():
            return Transcript(ending="unreachable")
        transcript = self._replay_one(exchange, None, thorough)
        if not self.server.is_alive():
            transcript.ending = "crashed"
        return transcript

    def _replay_one(
        self, exchange: Exchange, heartbeat: Heartbeat | None, thorough: bool
    ) -> Transcript:
        patience = PATIENCE.get(exchange.part)
        if patience is None:
            patience = Patience(silence_s=self._timeout_s, exchange_s=4 * self._timeout_s)
        elif thorough or heartbeat is None:
            patience = replace(
                patience,
                silence_s=max(1.0, patience.silence_s),
                heartbeats=2 * patience.heartbeats,
            )
        return replay_exchange(
            exchange, self.server.address, patience, heartbeat, self._probed, self._cancelled
        )

    def _revive(self) -> bool:
        """Start the server again if it is dead; say whether it lives."""
        if self.server.is_alive():
            return True
        self.crashes += 1
        if self.crashes > CRASH_LIMIT:
            return False
        try:
            self.server.restart()
        except ServerError:
            self.crashes = CRASH_LIMIT + 1
            return False
        return True


def repeatable(exchange: Exchange) -> bool:
    """Say whether an exchange may be sent twice to an application that is not ours."""
    words = exchange.sent().split(b" ", 1)
    return exchange.part != "yours" or words[0] in (b"GET", b"HEAD", b"OPTIONS")


def count_crashes(replayers: Iterable[Replayer]) -> dict[str, int]:
    """Return how often each server died."""
    return {replayer.server.name: replayer.crashes for replayer in replayers if replayer.crashes}
