"""Threads that wait for their clients: they do not count as running.

An application whose blocks run ahead of its client waits until the client has caught up; one
that reads its content while it arrives waits for the client to send. With 300 slow clients and
16 threads, everybody else would wait with them. So the thread is parked: it keeps its place in
the application, another thread may run meanwhile, and it goes on when the leader readmits it.
Slow clients cost threads that nobody needs, never the threads that others wait for.

The rule of this file: only the leader calls, except `announce` and `give_way`. With a limit of
one nobody is parked, since no two requests may be under way in the application.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rawsgi.net.client.exchange import Exchange
from rawsgi.net.crew.member import TAKE_OVER

if TYPE_CHECKING:
    from rawsgi.net.crew.crew import Crew
    from rawsgi.net.loop import Loop

# So long nobody has ended, and one who returns is let in above the limit: what it holds (a lock,
# the last connection of a pool) may be what all the others wait for.
_PATIENCE_S = 1.0
# Beyond that they count, and others wait: a thread costs some 100 KiB.
_PARKED_LIMIT = 2000


class Parking:
    """The parked exchanges of one crew."""

    __slots__ = ("_crew", "_loop", "count", "deadline", "returning", "scheduled")

    def __init__(self, loop: Loop, crew: Crew) -> None:
        self._loop = loop
        self._crew = crew
        self.returning: deque[Exchange] = deque()
        """Their clients have caught up, and they wait for a place. Any thread may look whether
        there are some."""
        self.count = 0
        """Threads that are parked."""
        self.deadline = 0.0
        self.scheduled: float | None = None

    def announce(self, exchange: Exchange) -> None:
        """The thread of this exchange, before it waits until it is readmitted."""
        self._loop.post(self._park, exchange)
        self.give_way(exchange)

    def give_way(self, exchange: Exchange) -> None:
        """The thread of this exchange, before it waits: it will not come back for the token soon.

        A stale order does no harm: a token that lies on the table is anybody's.
        """
        standby = self._crew.standby
        if exchange.gathers and standby is not None:  # nobody has taken the loop over yet
            standby.inbox.put(TAKE_OVER)

    def _park(self, exchange: Exchange) -> None:
        crew = self._crew
        if exchange.member is None or exchange.member.lost or exchange.parked:
            return
        if crew.limit == 1 or self.count >= _PARKED_LIMIT or not waits_for_client(exchange):
            return  # it goes on as it is, when `readmit` is called or was
        exchange.parked = True
        self.count += 1
        crew.running -= 1
        crew.dispatch()

    def readmit(self, exchange: Exchange) -> None:
        """The client has caught up: the thread goes on as soon as there is a place for it."""
        if exchange.parked and self._crew.running >= self._crew.limit:
            if exchange not in self.returning:
                if not self.returning:
                    self._watch()
                self.returning.append(exchange)
        else:
            self.readmit_now(exchange)

    def fill_places(self) -> None:
        """A thread has become free: those who return come before those who begin."""
        while self.returning and self._crew.running < self._crew.limit:
            self.readmit_now(self.returning[0])
            self._watch()

    def _watch(self) -> None:
        self.deadline = self._loop.now + _PATIENCE_S
        self._loop.clock.schedule(self)

    def expire(self, now: float) -> None:
        """The clock: nobody has ended, perhaps because all wait for what this one holds."""
        if self.returning:
            self.readmit_now(self.returning[0])
            self._watch()

    def readmit_now(self, exchange: Exchange) -> None:
        """The thread goes on, whether there is a place for it or not."""
        self.leave(exchange)
        connection = exchange.connection
        if connection.outbox is not None:
            connection.outbox.readmit()
        if connection.upload is not None:
            connection.upload.inbox.readmit()

    def leave(self, exchange: Exchange) -> None:
        """The exchange counts as running again, if it was parked: it goes on, or has ended."""
        if exchange.parked:
            exchange.parked = False
            self.count -= 1
            self._crew.running += 1
            self._crew.dismiss_surplus()
            if exchange in self.returning:
                self.returning.remove(exchange)


def waits_for_client(exchange: Exchange) -> bool:
    """Its thread is about to wait, or waits, until it is readmitted."""
    connection = exchange.connection
    outbox, upload = connection.outbox, connection.upload
    return (outbox is not None and outbox.throttled) or (
        upload is not None and upload.inbox.starved
    )
