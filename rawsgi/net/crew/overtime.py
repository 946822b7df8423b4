"""Requests that take too long: their stack goes to the log, then a 504 to the client.

The rule of this file: only the leader calls, and an interruption never hits the next request.
`Member.lock` sees to that: with it the leader looks whether the member still runs the exchange,
marks it as lost and interrupts it; with it the member declares that its exchange is over. So
whoever is interrupted is lost, whoever is lost runs nothing more, and nobody is interrupted twice.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from rawsgi.logs import log
from rawsgi.net.client.journal import describe
from rawsgi.net.crew.interruption import interrupt, prepare

if TYPE_CHECKING:
    from rawsgi.net.client.exchange import Exchange
    from rawsgi.net.crew.crew import Crew
    from rawsgi.net.crew.member import Member
    from rawsgi.net.loop import Loop

# The module that calls the application, as the frames of its functions name it.
_GATEWAY = str(Path(__file__).parents[2] / "wsgi" / "gateway.py")
# A second look at what the old leader gathers, in case that it had just begun to.
_LOOK_SOON_S = 0.005
# A response that has begun may be a whole one that is just leaving: it gets so much more.
_LEAVING_S = 0.1


class Overtime:
    """Watches the exchanges that are queued, or run in other threads than the leader."""

    __slots__ = ("_crew", "_loop", "slow_s", "timeout_s")

    def __init__(self, loop: Loop, crew: Crew) -> None:
        self._loop = loop
        self._crew = crew
        self.slow_s = loop.settings.slow_request_s
        self.timeout_s = loop.settings.request_timeout_s
        if self.timeout_s:
            prepare()

    def watch(self, exchange: Exchange, look_soon: bool = False, leaves: bool = False) -> None:
        """Have the clock look at the exchange when it is next late for something. `leaves`: its
        response had begun when its time was over."""
        instants = []
        if look_soon:
            instants.append(self._loop.now + _LOOK_SOON_S)
        if self.slow_s and not exchange.slow_logged:
            instants.append(exchange.called + self.slow_s)
        if self.timeout_s:
            instants.append(exchange.called + self.timeout_s + (_LEAVING_S if leaves else 0.0))
        self._loop.clock.forget(exchange)
        if instants:
            exchange.deadline = max(min(instants), self._loop.now)
            self._loop.clock.schedule(exchange)

    def judge(self, exchange: Exchange, now: float) -> None:
        """The clock: something may be due."""
        # In this order: who sees the member sees `called` as the member has set it.
        member: Member | None = exchange.member
        called = exchange.called
        if member is None:
            self._judge_waiting(exchange, now)
            return
        exchange.stop_gathering()
        # Instants as `watch` has them: a difference may be rounded the other way.
        leaves = False
        if self.timeout_s and now >= called + self.timeout_s:
            if self._time_out(exchange, member, now):
                return
            leaves = True
        if self.slow_s and now >= called + self.slow_s and not exchange.slow_logged:
            exchange.slow_logged = True
            log.warning(
                "%s has been running for %.1f s, just now here:\n%s",
                describe(exchange.request), now - called, format_stack(member),
            )  # fmt: skip
        self.watch(exchange, leaves=leaves)

    def _judge_waiting(self, exchange: Exchange, now: float) -> None:
        """It is queued, or a thread has just taken it. Where the time goes, the stacks of the
        running ones tell."""
        overdue = bool(self.timeout_s) and now >= exchange.called + self.timeout_s
        if overdue and self._crew.drop_queued(exchange):
            exchange.connection.refuse_queued(exchange, 503, "the request waited too long")
            return
        # Half the time: a look that comes before anything is due, whenever it was started.
        half_s = min((s for s in (self.slow_s, self.timeout_s) if s), default=0.0) / 2
        if half_s:
            exchange.deadline = self._loop.now + half_s
            if self.timeout_s and not overdue:
                exchange.deadline = min(exchange.deadline, exchange.called + self.timeout_s)
            self._loop.clock.schedule(exchange)

    def _time_out(self, exchange: Exchange, member: Member, now: float) -> bool:
        """Answer for the application, interrupt its thread where Python can, and replace it.
        False: its response has begun, and gets a moment more."""
        stack = format_stack(member)
        connection = exchange.connection
        with member.lock:
            if member.exchange is not exchange:
                return True  # it has just ended by itself; its post is under way
            claim = exchange.claim
            try:
                unanswered = claim is not None and claim.pop() is None
            except IndexError:
                unanswered = False
            if not unanswered and now < exchange.called + self.timeout_s + _LEAVING_S:
                return False
            member.lost = True
            complete = connection.outbox is not None and connection.outbox.complete
            if not unanswered and not complete:
                connection.broken = True  # who is interrupted in a send does not know what has left
            interrupt(member.ident)
        log.error(
            "%s timed out after %.1f s, just now here:\n%s",
            describe(exchange.request), now - exchange.called, stack,
        )  # fmt: skip
        if unanswered:
            connection.answer_timeout(exchange)
        elif complete:
            connection.protocol.abandon("the application took too long after its response")
            connection.finish(exchange)
        else:
            connection.cut()
        self._crew.replace(member, exchange)
        return True


def format_stack(member: Member) -> str:
    """Where the member's thread stands just now, from the application's first frame on."""
    frame = sys._current_frames().get(member.ident)
    if frame is None:
        return "  (it has just ended)"
    frames = traceback.extract_stack(frame)
    # What called the application is the same every time, and the server's own.
    while any(each.filename == _GATEWAY for each in frames[:-1]):
        outer = frames.pop(0)
        if outer.filename == _GATEWAY and frames[0].filename != _GATEWAY:
            break
    return "".join(frames.format()).rstrip("\n")
