"""The threads of a worker: one leads the loop and runs requests on the spot, others relieve it.

A hand-over from the loop to another thread and back costs more than a small request. So the
thread that leads runs the application itself, and whoever stands by takes the loop over if that
takes too long.

The token. There is one token, and whoever holds it leads: it alone touches the loop, the
connections that no thread runs, and every field of `Crew` that is not said to be anybody's.

    state              who may move it           to
    held by L          L, to run a request       on the table      (append)
    on the table       L, the request is done    held by L         (pop)
    on the table       the standby S, when it    held by S         (pop)
                       lay there for a delay

`list.append` and `list.pop` are atomic with and without the GIL, so of two who reach for the
token one gets it and the other an IndexError. Three things follow:

1. At most one thread leads: there is one token, and only its holder puts it down.
2. What L wrote before it put the token down is seen by whoever picks it up: append and pop
   synchronise. The loop is complete in its object whenever a request is run, so any thread goes
   on where the last one stopped; it need not be the standby: an old leader that finds *a* token
   on the table (the new leader runs a request at that moment) leads again.
3. Somebody always leads or will: the token is put down only if a standby exists, and the standby
   looks at the table once more after it declared itself asleep and let one delay pass, so that
   either it sees the token or the leader sees that it must be woken.

A thread that ran a request and found the token gone touches nothing of the loop: it posts its
exchange, takes the next one from the queue, or posts that it is free. There is one thread more
than `limit`, so that while `limit` applications run, somebody leads; the leader then runs none.

With a limit of one, only one thread ever runs applications (the main thread, as long as it is
not lost); when it is done it gets the loop back.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from rawsgi.logs import escape, log
from rawsgi.net.connection import QUEUED, READ, RUNNING
from rawsgi.net.exchange import Exchange

if TYPE_CHECKING:
    from rawsgi.net.loop import Loop

# How long the token lies before the standby takes it: long while requests are short, because
# then it is a mistake; short while it keeps happening, because then the application is slow.
LONGEST_DELAY_S = 0.005
SHORTEST_DELAY_S = 0.0005
# A request that ends sooner did not need to be relieved of the loop.
_SHORT_REQUEST_S = 0.004
# So many looks without a request, and the standby sleeps until it is woken.
_IDLE_LOOKS = 20
# So many looks without a take-over, and the delay grows again.
_CALM_LOOKS = 16


class RequestTimeout(BaseException):
    """Raised in a thread whose request was answered with a 504; not for `except Exception`."""


class Order:
    """What a member is told to do, other than to run an exchange."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


LEAD: Final = Order("LEAD")
STAND_BY: Final = Order("STAND_BY")
WAKE: Final = Order("WAKE")
STOP: Final = Order("STOP")


class Member:
    """One thread of the crew."""

    __slots__ = ("exchange", "ident", "inbox", "lock", "lost", "runs_applications", "thread")

    def __init__(self, runs_applications: bool) -> None:
        self.runs_applications = runs_applications
        self.inbox: SimpleQueue[Order | Exchange] = SimpleQueue()
        """Orders. Any thread puts, the member gets."""
        self.thread: threading.Thread | None = None
        """None: the thread that called `Crew.run`."""
        self.ident = 0
        self.lock = threading.Lock()
        """Guards `exchange` against an interruption that comes too late."""
        self.exchange: Exchange | None = None
        """What it runs. Written by the member, and by nobody else."""
        self.lost = False
        """Its request has timed out and it was replaced; with `lock`, by the leader."""


class Crew:
    """The threads that serve one loop. `run_application` is called by one thread per exchange."""

    def __init__(
        self,
        loop: Loop,
        run_application: Callable[[Exchange], None],
        on_lost: Callable[[int], None],
    ) -> None:
        settings = loop.settings
        self.loop = loop
        self._run_application = run_application
        self._on_lost = on_lost
        self._limit = settings.threads
        self._queue_limit = settings.queue
        self._slow_s = settings.slow_request_s
        self._timeout_s = settings.request_timeout_s
        # Anybody's, atomic each.
        self._table: list[Member] = []
        """The token, while it is nobody's: as the member that put it down."""
        self._queue: deque[Exchange] = deque()
        """Complete requests that wait for a thread."""
        # Written by the leader, read by the standby.
        self._turn = 0
        """How many times the token was put down."""
        self._delay_s = LONGEST_DELAY_S
        # Set by the standby, cleared by the standby or the leader.
        self._standby_asleep = False
        # The leader's.
        self.running = 0
        """Applications that run in threads other than the leader's."""
        self.takeovers = 0
        self.lost = 0
        """Threads that are stuck in a request that was answered with a 504."""
        self.successor: Member | None = None
        """To whom the leader is to hand the loop (only with a limit of one)."""
        self.main = Member(runs_applications=True)
        """The thread that called `run`."""
        self.leader = self.main
        self._members = [self.main]
        self._standby: Member | None = None
        self._resting: list[Member] = []

    def __len__(self) -> int:
        return len(self._members)

    # -- The leader: running requests --------------------------------------------------------------

    def execute(self, exchange: Exchange) -> bool:
        """Run a complete request, or queue it. False: this thread has lost the loop meanwhile."""
        me = self.leader
        connection = exchange.connection
        connection.exchange = exchange
        if self._timeout_s:
            exchange.claim = [None]
        if (
            self.running >= self._limit
            or self._queue
            or not me.runs_applications
            or (self._standby is None and not self._appoint_standby())
        ):
            self._enqueue(exchange)
            return True
        connection.state = RUNNING
        exchange.member = me
        exchange.gathers = True
        me.exchange = exchange
        self._turn += 1
        self._table.append(me)
        if self._standby_asleep:
            self._wake_standby()
        self._run_application(exchange)
        try:
            self._table.pop()
        except IndexError:
            self._hand_back(me, exchange)
            return False
        if self.leader is not me and not self._lead_again(me, exchange):
            return False
        me.exchange = None
        exchange.member = None
        connection.finish(exchange)
        return True

    def _hand_back(self, me: Member, exchange: Exchange) -> None:
        """Not the leader: the exchange goes to the loop."""
        with me.lock:
            me.exchange = None
        self.loop.post(self._take_back, exchange)

    def _lead_again(self, me: Member, exchange: Exchange) -> bool:
        """The token was taken and lay there again: its new owner runs a request just now."""
        with me.lock:
            me.exchange = None
            lost = me.lost
        if lost:
            self._table.append(self.leader)  # replaced meanwhile: it is not for this thread
            self.loop.post(self._take_back, exchange)
            return False
        other, self.leader = self.leader, me
        self.running -= 1
        self.loop.clock.forget(exchange)
        self._relieve(other)
        return True

    def _take_back(self, exchange: Exchange) -> None:
        """The leader: another thread has run this exchange to its end."""
        self.loop.clock.forget(exchange)
        exchange.member = None
        if monotonic() - exchange.called < _SHORT_REQUEST_S:
            self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
        if exchange.connection.exchange is exchange:
            exchange.connection.finish(exchange)
        elif exchange.content_bytes:
            exchange.content.close()

    # -- The leader: the queue ---------------------------------------------------------------------

    def _enqueue(self, exchange: Exchange) -> None:
        connection = exchange.connection
        if len(self._queue) >= self._queue_limit:
            connection.refuse_queued(exchange, 503, "all threads are busy and the queue is full")
            return
        connection.state = QUEUED
        self._queue.append(exchange)
        self._watch(exchange)
        connection.arm(READ)  # to learn when the client leaves
        self._dispatch()

    def _dispatch(self) -> None:
        """Give queued requests to threads that are free or can be had."""
        while self._queue and self.running < self._limit:
            member = self._find_free_member()
            if member is None:
                return
            try:
                exchange = self._queue.popleft()
            except IndexError:
                self._resting.append(member)
                return
            self.running += 1
            member.inbox.put(exchange)

    def _find_free_member(self) -> Member | None:
        for index, member in enumerate(self._resting):
            if member.runs_applications:
                return self._resting.pop(index)
        needs_runner = self._limit > 1 or not any(m.runs_applications for m in self._members)
        return self._enlist() if needs_runner else None

    def _release(self, member: Member) -> None:
        """The leader: a thread has found the queue empty and is free."""
        self.running -= 1
        if not self.leader.runs_applications and not self._queue:
            self.successor = member
            return
        self._resting.append(member)
        self._dispatch()

    def drop_queued(self, exchange: Exchange) -> bool:
        """The leader: take a request out of the queue; False: a thread has just taken it."""
        try:
            self._queue.remove(exchange)
        except (ValueError, IndexError):
            return False
        self.loop.clock.forget(exchange)
        return True

    # -- The leader: who does what -----------------------------------------------------------------

    def _enlist(self) -> Member | None:
        """Return a new thread that waits for orders; None: the crew is complete."""
        if len(self._members) > self._limit:
            return None
        runs = self._limit > 1 or not any(m.runs_applications for m in self._members)
        member = Member(runs)
        thread = threading.Thread(
            target=self._live, args=(member,), name=f"rawsgi-{len(self._members)}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            log.error("no further thread can be started: %s", error)
            return None
        member.thread = thread
        self._members.append(member)
        return member

    def _appoint_standby(self) -> bool:
        member = self._resting.pop() if self._resting else self._enlist()
        if member is None:
            return False
        self._standby = member
        self._standby_asleep = False
        member.inbox.put(STAND_BY)
        return True

    def _wake_standby(self) -> None:
        self._standby_asleep = False
        if self._standby is not None:
            self._standby.inbox.put(WAKE)

    def _relieve(self, other: Member) -> None:
        """This thread leads now; `other` goes on with the request that it began as leader."""
        self.running += 1
        exchange = other.exchange
        if exchange is not None and exchange.member is other:
            exchange.stop_gathering()
            self._watch(exchange, look_soon=True)

    def _take_over(self, me: Member) -> None:
        other, self.leader = self.leader, me
        self._standby = None
        self.takeovers += 1
        self._delay_s = SHORTEST_DELAY_S
        self._relieve(other)

    def abdicate(self) -> None:
        """The leader: hand the loop to `successor` and stand by."""
        me, successor = self.leader, self.successor
        assert successor is not None
        self.successor = None
        if self._standby is not None:
            self._resting.append(me)
        else:
            self._standby = me
            self._standby_asleep = False
            me.inbox.put(STAND_BY)
        self.leader = successor
        successor.inbox.put(LEAD)

    # -- Any member --------------------------------------------------------------------------------

    def run(self) -> None:
        """Lead with this thread, and return when the loop has finished."""
        me = self.leader
        me.ident = threading.get_ident()
        me.inbox.put(LEAD)
        self._live(me)
        for member in self._members:
            if member.thread is not None and member.thread is not threading.current_thread():
                member.thread.join(1.0)

    def stop(self) -> None:
        """The leader: the loop has finished; every member ends when its request ends."""
        for member in self._members:
            member.inbox.put(STOP)

    def _live(self, me: Member) -> None:
        me.ident = threading.get_ident()
        while True:
            try:
                order = me.inbox.get()
                if order is STOP or self._follow(me, order):
                    return
            except RequestTimeout:  # came after its request had ended
                exchange = me.exchange
                if exchange is not None:
                    self._hand_back(me, exchange)
                if self._end_if_lost(me):
                    return

    def _follow(self, me: Member, order: Order | Exchange) -> bool:
        """Do as ordered; True: this thread is to end."""
        if isinstance(order, Exchange):
            self._run_queued(me, order)
        elif order is LEAD or (order is STAND_BY and self._stand_by(me)):
            if not self.loop.lead():
                return False
        else:
            return False
        while not me.lost:
            try:
                exchange = self._queue.popleft()
            except IndexError:
                self.loop.post(self._release, me)
                return False
            self._run_queued(me, exchange)
        return self._end_if_lost(me)

    def _run_queued(self, me: Member, exchange: Exchange) -> None:
        exchange.connection.state = RUNNING
        exchange.called = monotonic()
        me.exchange = exchange
        exchange.member = me
        self._run_application(exchange)
        self._hand_back(me, exchange)

    def _stand_by(self, me: Member) -> bool:
        """Watch the token; True: this thread has taken it and leads."""
        turn = self._turn
        idle = calm = 0
        while True:
            order: Order | Exchange | None
            try:
                order = me.inbox.get(timeout=self._delay_s)
            except Empty:
                order = None
            if order is STOP:
                me.inbox.put(STOP)
                return False
            if self._table:
                if turn == self._turn and order is None:
                    try:
                        self._table.pop()
                    except IndexError:
                        continue
                    self._take_over(me)
                    return True
                idle = 0
            elif turn == self._turn:
                idle += 1
                if idle >= _IDLE_LOOKS:
                    self._sleep(me)
                    idle = 0
            else:
                idle = 0
            turn = self._turn
            calm += 1
            if calm >= _CALM_LOOKS:
                calm = 0
                self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)

    def _sleep(self, me: Member) -> None:
        """Nothing to watch: wait without a time limit, so that an idle process never wakes up."""
        turn = self._turn
        self._standby_asleep = True
        try:
            order = me.inbox.get(timeout=self._delay_s)
        except Empty:
            if turn != self._turn or self._table:
                self._standby_asleep = False
                return
            order = me.inbox.get()
        self._standby_asleep = False
        if order is STOP:
            me.inbox.put(STOP)

    # -- The leader: requests that take too long ---------------------------------------------------

    def _watch(self, exchange: Exchange, look_soon: bool = False) -> None:
        """Have the clock look at the exchange when it is next late for something."""
        clock = self.loop.clock
        instants = []
        if look_soon:
            instants.append(self.loop.now + LONGEST_DELAY_S)
        if self._slow_s and not exchange.slow_logged:
            instants.append(exchange.called + self._slow_s)
        if self._timeout_s:
            instants.append(exchange.called + self._timeout_s)
        clock.forget(exchange)
        if instants:
            exchange.deadline = max(min(instants), self.loop.now)
            clock.schedule(exchange)

    def judge(self, exchange: Exchange, now: float) -> None:
        """The clock: an exchange is queued, or runs in another thread, for some time."""
        exchange.stop_gathering()
        age_s = now - exchange.called
        running = exchange.member is not None
        if self._timeout_s and age_s >= self._timeout_s:
            if running:
                self._time_out(exchange, age_s)
            elif self.drop_queued(exchange):
                exchange.connection.refuse_queued(exchange, 503, "the request waited too long")
            return
        if self._slow_s and age_s >= self._slow_s and not exchange.slow_logged:
            exchange.slow_logged = True
            if running:
                log.warning(
                    "%s has been running for %.1f s, just now here:\n%s",
                    describe(exchange), age_s, self._format_stack(exchange.member),
                )  # fmt: skip
            else:
                log.warning("%s has waited %.1f s for a thread", describe(exchange), age_s)
        self._watch(exchange)

    def _time_out(self, exchange: Exchange, age_s: float) -> None:
        """Answer for the application, interrupt its thread where Python can, and replace it."""
        member = exchange.member
        log.error(
            "%s timed out after %.1f s, just now here:\n%s",
            describe(exchange), age_s, self._format_stack(member),
        )  # fmt: skip
        connection = exchange.connection
        claim = exchange.claim
        try:
            unanswered = claim is not None and claim.pop() is None
        except IndexError:
            unanswered = False
        if unanswered:
            connection.answer_timeout(exchange)
        else:
            connection.cut()
        with member.lock:
            if member.exchange is not exchange:
                return  # it has just ended by itself
            member.lost = True
            interrupt(member.ident)
        self._members.remove(member)
        self.running -= 1
        self.lost += 1
        if self.leader.runs_applications is False and self._limit == 1:
            self.leader.runs_applications = True  # there is no other now
        self._on_lost(self.lost)
        self._dispatch()

    def _end_if_lost(self, me: Member) -> bool:
        """A lost thread that came back ends; True. The main thread waits for the end instead."""
        if not me.lost:
            return False
        self.loop.post(self._found, me)
        if me.thread is not None:
            return True
        while me.inbox.get() is not STOP:
            pass
        return True

    def _found(self, member: Member) -> None:
        self.lost -= 1

    def _format_stack(self, member: Member) -> str:
        frame = sys._current_frames().get(member.ident)
        if frame is None:
            return "  (it has just ended)"
        return "".join(traceback.format_stack(frame)).rstrip("\n")


def describe(exchange: Exchange) -> str:
    """Method and target for the error log, safe against bytes from the wire."""
    return f"{exchange.request.method} {escape(exchange.request.target)}"


def interrupt(ident: int) -> None:
    """Raise `RequestTimeout` in the thread `ident`, as soon as it runs Python code again."""
    raise_in_thread: Any = ctypes.pythonapi.PyThreadState_SetAsyncExc
    raise_in_thread(ctypes.c_ulong(ident), ctypes.py_object(RequestTimeout))
