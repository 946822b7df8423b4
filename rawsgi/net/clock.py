"""Deadlines: who is to be woken when, at a cost that only what expires pays.

The rule of this file: moving a deadline back is one store in the item and costs nothing here;
the heap is corrected when the old instant comes. Only the thread that leads the loop calls.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf
from typing import Protocol


class Timed(Protocol):
    """Something with a deadline, an instant of `time.monotonic()` in seconds."""

    deadline: float
    scheduled: float | None
    """The instant at which the clock looks at the item; None: never."""

    def expire(self, now: float) -> None:
        """The deadline has passed."""


class Clock:
    """A heap of instants, lazily kept: an entry may be early, never late."""

    __slots__ = ("_compact_at", "_contain", "_entries", "_serial", "soonest")

    def __init__(self, contain: Callable[[object, Exception], None]) -> None:
        """`contain` is told of an item whose `expire` raised, and of what."""
        self._contain = contain
        self._entries: list[tuple[float, int, Timed]] = []
        self._serial = 0
        self._compact_at = 1024
        self.soonest = inf
        """When `expire_due` is worth calling next."""

    def __len__(self) -> int:
        return len(self._entries)

    def schedule(self, item: Timed) -> None:
        """See to it that `item.expire` is called at its deadline, or later if it moved."""
        deadline = item.deadline
        scheduled = item.scheduled
        if scheduled is not None and scheduled <= deadline:
            return
        item.scheduled = deadline
        self._serial += 1
        heapq.heappush(self._entries, (deadline, self._serial, item))
        if deadline < self.soonest:
            self.soonest = deadline
        if len(self._entries) > self._compact_at:
            self._compact()

    def forget(self, item: Timed) -> None:
        """The item is done with; its entry is dropped when it is met."""
        item.scheduled = None

    def expire_due(self, now: float) -> None:
        """Call `expire` of every item whose deadline has passed.

        Once for each: an item that asks for an instant in the past has it at the next call.
        """
        entries = self._entries
        due = []
        while entries and (entries[0][0] <= now or entries[0][2].scheduled != entries[0][0]):
            due.append(heapq.heappop(entries))
        for instant, _, item in due:
            if item.scheduled != instant:
                continue  # forgotten, or an earlier instant took its place
            item.scheduled = None
            if item.deadline > now:
                self.schedule(item)
            else:
                try:
                    item.expire(now)
                except Exception as error:
                    self._contain(item, error)
        self.soonest = entries[0][0] if entries else inf

    def _compact(self) -> None:
        """Drop the entries of forgotten items, so that short connections leave nothing behind."""
        self._entries[:] = [entry for entry in self._entries if entry[2].scheduled == entry[0]]
        heapq.heapify(self._entries)
        self._compact_at = max(1024, 2 * len(self._entries))
