"""When threads that are lost to endless requests are too many, and the process has to be replaced.

The rule of this file: a thread counts only while it is lost, and only once it has been for some
time. A slow hour of a database answers many requests with 504 and gives all their threads back; a
deadlock gives none back. Only the thread that leads the loop calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rawsgi.net.loop import Loop

# So many times the limit, and so many times all threads, and nobody waits any longer: each thread
# has its stack, and what the application holds for it.
_HOPELESS = 16
_HOPELESS_CREWS = 4


class Replacement:
    """Watches the lost threads of one crew."""

    __slots__ = ("_after_s", "_hopeless", "_limit", "_loop", "_replace", "deadline", "scheduled")

    def __init__(
        self, loop: Loop, limit: int, after_s: float, replace: Callable[[int], None]
    ) -> None:
        """`replace` is called with the number of lost threads when `limit` of them have been
        lost for `after_s` seconds."""
        self._loop = loop
        self._limit = limit
        self._after_s = after_s
        self._hopeless = max(_HOPELESS * limit, _HOPELESS_CREWS * loop.settings.threads)
        self._replace = replace
        self.deadline = 0.0
        self.scheduled: float | None = None

    def look(self) -> None:
        """Another thread was lost, or it is time to look again."""
        lost_at = sorted(self._loop.crew.lost_at.values())
        if len(lost_at) < self._limit:
            return
        due = lost_at[self._limit - 1] + self._after_s
        if due <= self._loop.now or len(lost_at) >= self._hopeless:
            self._replace(len(lost_at))
            return
        self.deadline = due
        self._loop.clock.schedule(self)

    def expire(self, now: float) -> None:
        """The clock: those that have come back meanwhile are not counted."""
        self.look()
