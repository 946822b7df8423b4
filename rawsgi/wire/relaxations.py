"""Relaxations that were needed: the first time each is told in the log, then they are counted.

The rule of this file: a relaxation that nobody needs can be switched off again, so the log must
say who needed it; and a client that needs it all the time must not fill the log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rawsgi.logs import escape, log
from rawsgi.protocol.message import RELAXATIONS

if TYPE_CHECKING:
    from rawsgi.protocol.message import Request


class RelaxationLog:
    """How often each was needed. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: dict[str, int] = {}

    def watch_runs(self, run: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return `run`, the gateway's, that notes what each exchange needed when it is over."""

        def run_noted(exchange: Any) -> None:
            run(exchange)
            if exchange.request.relaxed:
                self.note(exchange.request, exchange.remote[0])

        return run_noted

    def note(self, request: Request, remote: str) -> None:
        """`request`, from the address `remote`, was accepted by the grace of `request.relaxed`."""
        about = f"{request.method} {escape(request.target)} from {remote or 'a client'}"
        for name in request.relaxed:
            # Told with the lock, so that the 100th is not told before the 10th.
            with self._lock:
                count = self.counts[name] = self.counts.get(name, 0) + 1
                if count == 1:
                    log.warning(
                        "%s needed --allow %s: %s (counted from now on)",
                        about, name, RELAXATIONS[name],
                    )  # fmt: skip
                elif str(count).rstrip("0") == "1":  # 10, 100, 1000 ...
                    log.warning("%d requests needed --allow %s, the last %s", count, name, about)

    def close(self) -> None:
        """Say how often, at the end."""
        for name, count in self.counts.items():
            if count > 1:
                log.warning("%d requests needed --allow %s", count, name)
