"""The threads of a worker: one leads the loop and runs requests on the spot, others relieve it.

A hand-over from the loop to another thread and back costs more than a small request. So the
thread that leads runs the application itself, and whoever stands by takes the loop over if that
takes too long.

The token. There is one token, and whoever holds it leads: it alone touches the loop, the
connections that no thread runs, and every field of `Crew` that is not said to be anybody's.

    state              who may move it            to
    held by L          L, to run a request        on the table    (append)
    held by L          L, with a limit of one     held by M       (LEAD in M's inbox)
    on the table       L, its request is done     held by L       (pop)
    on the table       an earlier leader, same    held by it      (pop)
    on the table       the standby S, when it     held by S       (pop)
                       lay there for a delay

`list.append` and `list.pop` are atomic with and without the GIL, so of all who reach for the
token one gets it and the others an IndexError. Four things follow:

1. At most one thread leads: there is one token, and only its holder puts it down.
2. What L wrote before it put the token down is seen by whoever picks it up: append and pop
   synchronise. The loop is complete in its object whenever a request is run, so any thread goes
   on where the last one stopped; it need not be the standby: an old leader that finds *a* token
   on the table (the new leader runs a request at that moment) leads again.
3. Somebody always leads or will. The token is put down only if a standby exists, and a standby
   does nothing else until it has the token or the leader frees it. S says that it is asleep,
   lets a delay pass, and only then looks at the table for the last time; L puts the token down,
   and only then looks whether S is asleep. So S sees the token, or L sees that it must wake S.
   (The last look is a copy, which takes the list's lock as append does: one of the two comes
   first, and who comes second sees all that the first has done before.)
   L looks at the S that was there before it put the token down; if another has come since, then
   somebody took the token, and L wakes one thread too many.
4. Between the two nothing is raised: what a request raises is caught in the thread that runs it,
   and an interruption (see `overtime`) is over before the thread reaches for the token.

The members and their states stand in `member`. `running` counts those that run a request
without leading and are not parked (see `parking`): one more for each token that is taken, each
exchange that is handed out and each that is readmitted; one less for each `_release`, each old
leader that leads again, each that is replaced and each that is parked. There is one thread more
than `limit`, not counting the parked, so that while `limit` applications run, somebody leads;
the leader then runs none. A thread that ran a request and found the token gone touches nothing
of the loop: it posts its exchange, takes the next one from the queue, or posts that it is free.

With a limit of one, only one thread runs applications (the main thread, as long as it is not
lost). The second one only relieves it: it queues what is complete, and gives the loop back when
the first one is free.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING

from rawsgi.logs import log
from rawsgi.net.client.connection import QUEUED, READ, RUNNING, WAITING
from rawsgi.net.client.exchange import Exchange
from rawsgi.net.client.journal import describe
from rawsgi.net.crew.ending import end_child, end_process
from rawsgi.net.crew.interruption import RequestTimeout
from rawsgi.net.crew.member import LEAD, STAND_BY, STOP, TAKE_OVER, WAKE, Member, Order
from rawsgi.net.crew.overtime import Overtime
from rawsgi.net.crew.parking import Parking

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
# So many failures of the loop itself, each within a second of the last, and the process ends.
_FAILURES_LIMIT = 10


class Crew:
    """The threads that serve one loop. `run_application` is called by one thread per exchange.

    `on_lost` is called by the leader with the number of threads that are stuck in requests that
    were answered with a 504; `on_broken` by a thread that cannot go on, and should not return.
    """

    def __init__(
        self,
        loop: Loop,
        run_application: Callable[[Exchange], None],
        on_lost: Callable[[int], None],
        on_broken: Callable[[], None] = end_process,
    ) -> None:
        self.loop = loop
        self._run_application = run_application
        self._on_lost = on_lost
        self._on_broken = on_broken
        self.limit = loop.settings.threads
        self._queue_limit = loop.settings.queue
        self.overtime = Overtime(loop, self)
        self.parking = Parking(loop, self)
        self._can_be_lost = bool(self.overtime.timeout_s)
        """A thread may be lost when its request is over: to a timeout, or to a child."""
        self._is_child = False
        # Anybody's, atomic each.
        self._table: list[Member] = []
        """The token, while it is nobody's: as the member that put it down."""
        self._queue: deque[Exchange] = deque()
        """Complete requests that wait for a thread. The leader appends, any thread takes."""
        # Written by the leader, read by the standby.
        self._turn = 0
        """How many times the token was put down."""
        # Written by the leader and the standby, and none the worse for a lost write.
        self._delay_s = LONGEST_DELAY_S
        # The leader's.
        self.running = 0
        """Applications that run in threads other than the leader's."""
        self.takeovers = 0
        self.lost_at: dict[Exchange, float] = {}
        """Since when threads are stuck in which requests that were answered with a 504."""
        self.successor: Member | None = None
        """To whom the leader is to hand the loop (only with a limit of one)."""
        self.main = Member(runs_applications=True)
        """The thread that called `run`."""
        self.leader = self.main
        self._members = [self.main]
        self.standby: Member | None = None
        self._resting: list[Member] = []
        self._enlisted = 0
        self._warned = False

    def __len__(self) -> int:
        return len(self._members)

    @property
    def lost(self) -> int:
        """Threads that are stuck in a request that was answered with a 504."""
        return len(self.lost_at)

    @property
    def is_pressed(self) -> bool:
        """Any thread: requests wait for a place just now."""
        return bool(self._queue)

    # -- The leader: running requests --------------------------------------------------------------

    def execute(self, exchange: Exchange) -> bool:
        """Run a complete request, or queue it. False: this thread has lost the loop meanwhile."""
        me = self.leader
        connection = exchange.connection
        if self._can_be_lost:
            exchange.claim = [None]
        if self.running >= self.limit or self._queue or not me.runs_applications:
            self._enqueue(exchange)
            return True
        standby = self.standby or self._appoint_standby()
        if standby is None:
            self._enqueue(exchange)
            return True
        connection.state = RUNNING
        exchange.member = me
        exchange.gathers = True
        me.exchange = exchange
        self._turn += 1
        self._table.append(me)
        # From here on this thread may have lost the lead.
        # Only the standby takes `asleep` back. Done here, an interruption before WAKE would leave
        # it asleep, and nobody would know.
        if standby.asleep:
            standby.inbox.put(WAKE)
        try:
            self._run_application(exchange)
        except BaseException as error:
            self._end_failed(exchange, error)
        if self._can_be_lost and not self._settle(me):
            return False
        try:
            self._table.pop()
        except IndexError:
            me.leads = False
            me.exchange = None
            if connection.unsent:
                connection.send_unsent()
            self.loop.post(self._take_back, exchange)
            return False
        if self.leader is not me:
            self._lead_again(me, exchange)
        me.exchange = None
        exchange.member = None
        if self.loop.complete and connection.unsent and self._delay_s == LONGEST_DELAY_S:
            self.loop.defer(exchange)
        else:
            if self.loop.deferred and monotonic() >= self.loop.defer_until:
                self.loop.finish_deferred()
            connection.finish(exchange)
        return True

    def _settle(self, me: Member) -> bool:
        """A request is over. False: this thread was lost, and has to end without another step."""
        if self._is_child:
            end_child()
        with me.lock:
            if me.lost:
                return False
            me.exchange = None
            return True

    def _end_failed(self, exchange: Exchange, error: BaseException) -> None:
        """The gateway raised, which it should not: the server's fault, or an interruption that
        came while the response was being ended."""
        if not isinstance(error, RequestTimeout):
            log.error("%s: the server failed", describe(exchange.request), exc_info=error)
        try:
            exchange.abort("the server failed")
        except BaseException:
            exchange.connection.broken = True

    def _lead_again(self, me: Member, exchange: Exchange) -> None:
        """The token was taken and lay there again: its new owner runs a request just now."""
        other, self.leader = self.leader, me
        self.running -= 1
        self.loop.clock.forget(exchange)
        self._relieve(other)

    def _take_back(self, exchange: Exchange) -> None:
        """The leader: another thread has run this exchange to its end."""
        self.loop.clock.forget(exchange)
        self.parking.leave(exchange)
        exchange.member = None
        if monotonic() - exchange.called < _SHORT_REQUEST_S:
            self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
        if exchange.connection.exchange is exchange:
            exchange.connection.finish(exchange)
        elif exchange.content_bytes:
            exchange.close_content()

    # -- The leader: the queue ---------------------------------------------------------------------

    def _enqueue(self, exchange: Exchange) -> None:
        connection = exchange.connection
        if len(self._queue) >= self._queue_limit:
            connection.refuse_queued(exchange, 503, "all threads are busy and the queue is full")
            return
        connection.state = WAITING  # it is nobody's, should the next step fail
        connection.arm(READ)  # to learn when the client leaves
        connection.state = QUEUED
        self.overtime.watch(exchange)
        self._queue.append(exchange)
        self.dispatch()

    def dispatch(self) -> None:
        """Give places to threads that wait for one, then queued requests to free threads."""
        self.parking.fill_places()
        while self._queue and self.running < self.limit:
            member = self._find_free_member()
            if member is None:
                if not self.running:
                    self._refuse_all()
                return
            try:
                exchange = self._queue.popleft()
            except IndexError:
                self._resting.append(member)
                return
            self.running += 1
            member.inbox.put(exchange)

    def _refuse_all(self) -> None:
        """No thread can be had, and none will be free."""
        while self._queue:
            exchange = self._queue.popleft()
            self.loop.clock.forget(exchange)
            exchange.connection.refuse_queued(exchange, 503, "no thread can be started")

    def _find_free_member(self) -> Member | None:
        for index, member in enumerate(self._resting):
            if member.runs_applications:
                return self._resting.pop(index)
        if self.limit > 1 or not any(m.runs_applications for m in self._members):
            enlisted = self._enlist()
            if enlisted is not None:
                return enlisted
        standby = self.standby
        if standby is not None and standby.runs_applications:
            self.standby = None  # no other can be had, and the leader runs nothing just now
            return standby
        return None

    def _release(self, member: Member) -> None:
        """The leader: a thread has found the queue empty and is free."""
        self.running -= 1
        if not self.leader.runs_applications and not self._queue:
            self.successor = member
            return
        self._resting.append(member)
        self.dispatch()
        self.dismiss_surplus()

    def dismiss_surplus(self) -> None:
        """The leader: end threads that stood in for parked ones which are back."""
        for member in self._resting[:]:
            if len(self._members) - self.parking.count <= self.limit + 1:
                return
            if member is not self.main:
                self._resting.remove(member)
                self._members.remove(member)
                member.inbox.put(STOP)

    def drop_queued(self, exchange: Exchange) -> bool:
        """The leader: take a request out of the queue; False: a thread has just taken it."""
        try:
            self.loop.complete.remove(exchange)
            return True
        except ValueError:
            pass
        while True:
            try:
                self._queue.remove(exchange)
            except IndexError:
                continue  # a thread took another one in the middle of the search
            except ValueError:
                return False
            self.loop.clock.forget(exchange)
            return True

    # -- The leader: who does what -----------------------------------------------------------------

    def _enlist(self) -> Member | None:
        """Return a new thread that waits for orders; None: the crew is complete."""
        if len(self._members) - self.parking.count > self.limit:
            return None
        runs = self.limit > 1 or not any(m.runs_applications for m in self._members)
        member = Member(runs)
        self._enlisted += 1
        member.thread = threading.Thread(
            target=self._live, args=(member,), name=f"rawsgi-{self._enlisted}", daemon=True
        )
        try:
            member.thread.start()
        except (RuntimeError, MemoryError) as error:
            if not self._warned:
                self._warned = True
                log.error("no further thread can be started (said once): %s", error)
            return None
        self._warned = False
        self._members.append(member)
        return member

    def _appoint_standby(self) -> Member | None:
        member = self._resting.pop() if self._resting else self._enlist()
        if member is not None:
            self.standby = member
            member.inbox.put(STAND_BY)
        return member

    def _relieve(self, other: Member) -> None:
        """This thread leads now; `other` goes on with the request that it began as leader."""
        self.running += 1
        self.loop.now = monotonic()
        exchange = other.exchange
        if exchange is not None and exchange.member is other:
            try:
                exchange.stop_gathering()
            except Exception as error:
                self.loop.contain(exchange, error)
            self.overtime.watch(exchange, look_soon=True)

    def _take_over(self, me: Member) -> None:
        other, self.leader = self.leader, me
        self.standby = None
        self.takeovers += 1
        self._delay_s = SHORTEST_DELAY_S
        self._relieve(other)

    def replace(self, member: Member, exchange: Exchange) -> None:
        """The leader: `member` is lost to its request; another thread takes its place."""
        self._members.remove(member)
        self.parking.readmit_now(exchange)
        self.running -= 1
        self.lost_at[exchange] = self.loop.now
        self._on_lost(self.lost)
        self.dispatch()

    def _count_return(self, exchange: Exchange) -> None:
        """The leader: a lost thread has come back from this exchange, and ends."""
        self.lost_at.pop(exchange, None)
        self._take_back(exchange)

    def abdicate(self) -> None:
        """The leader: hand the loop to `successor` and stand by."""
        me, successor = self.leader, self.successor
        assert successor is not None
        self.successor = None
        if self.standby is not None:
            self._resting.append(me)
        else:
            self.standby = me
            me.inbox.put(STAND_BY)
        me.leads = False
        self.leader = successor
        successor.inbox.put(LEAD)

    # -- Any member --------------------------------------------------------------------------------

    def run(self) -> None:
        """Lead with this thread, and return when the loop has finished."""
        self.main.inbox.put(LEAD)
        self._live(self.main)
        for member in self._members:
            if member.thread is not None:
                member.thread.join(1.0)

    def stop(self) -> None:
        """The leader: the loop has finished; every member ends when its request ends."""
        for member in self._members:
            member.inbox.put(STOP)
        if self.main.lost:
            self.main.inbox.put(STOP)

    def leave(self) -> None:
        """In a child that the application forked: its only thread ends it when it comes back."""
        self._is_child = self._can_be_lost = True

    def _live(self, me: Member) -> None:
        me.ident = threading.get_ident()
        try:
            self._follow_orders(me)
            me.absorb_interruption()
        except RequestTimeout:
            pass  # it is sent once, and only to a thread that is lost
        except BaseException as error:
            log.critical("a thread of the server has failed: the process ends", exc_info=error)
            self._on_broken()
        if me.lost:
            self._end_lost(me)

    def _end_lost(self, me: Member) -> None:
        """A lost thread came back. It ends; the main thread waits for the end of the others."""
        exchange, me.exchange = me.exchange, None
        if exchange is not None:
            self.loop.post(self._count_return, exchange)
        while me.thread is None and me.inbox.get() is not STOP:
            pass

    def _follow_orders(self, me: Member) -> None:
        """Return when the loop has finished, or this thread is lost."""
        while not me.lost:
            order = me.inbox.get()
            if order is STAND_BY:
                order = self._stand_by(me)
            if isinstance(order, Exchange):
                self._run_queued(me, order)
            elif order is LEAD:
                if not self._lead(me):
                    continue
            elif order is STOP:
                return
            else:
                continue  # WAKE, TAKE_OVER: somebody else was meant
            while not me.lost:
                exchange = self._take_queued()
                if exchange is None:
                    self.loop.post(self._release, me)
                    break
                self._run_queued(me, exchange)

    def _lead(self, me: Member) -> bool:
        """Lead; True: the token is gone, and what this thread ran as the leader is over.

        The loop contains what fails in a connection. What gets here is the loop's own failure:
        it goes on, unless it fails again and again.
        """
        me.leads = True
        failures = 0
        while True:
            began = monotonic()
            try:
                return self.loop.lead()
            except Exception as error:
                failures = failures + 1 if monotonic() - began < 1.0 else 1
                if failures == _FAILURES_LIMIT or not me.leads:
                    raise
                if isinstance(error, OSError):
                    log.error("the loop goes on, although the system refused: %s", error)
                else:
                    log.error("the loop has failed, and goes on", exc_info=error)

    def _take_queued(self) -> Exchange | None:
        """The next request for a thread that is done with one; None: it is to be released."""
        if self.parking.returning:
            return None  # they have waited for longer, and the leader lets them go on
        try:
            return self._queue.popleft()
        except IndexError:
            return None

    def _run_queued(self, me: Member, exchange: Exchange) -> None:
        exchange.connection.state = RUNNING
        exchange.called = monotonic()
        me.exchange = exchange
        exchange.member = me  # last: the leader may judge it from now on
        try:
            self._run_application(exchange)
        except BaseException as error:
            self._end_failed(exchange, error)
        if self._settle(me):
            if exchange.connection.unsent:
                exchange.connection.send_unsent()
            self.loop.post(self._take_back, exchange)

    def _stand_by(self, me: Member) -> Order | Exchange:
        """Watch the token. Return LEAD once it is this thread's, or what else there is to do."""
        turn = self._turn
        idle = calm = 0
        order: Order | Exchange | None
        while True:
            try:
                order = me.inbox.get(timeout=self._delay_s)
            except Empty:
                order = None
            if order is not None and order is not WAKE and order is not TAKE_OVER:
                return order
            if self._table:
                if order is TAKE_OVER or (turn == self._turn and order is None):
                    try:
                        self._table.pop()
                    except IndexError:
                        continue
                    self._take_over(me)
                    return LEAD
                idle = 0
            elif turn == self._turn:
                idle += 1
                if idle >= _IDLE_LOOKS:
                    idle = 0
                    order = self._sleep(me)
                    if order is TAKE_OVER:
                        me.inbox.put(order)
                    elif order is not WAKE:
                        return order
            else:
                idle = 0
            turn = self._turn
            calm += 1
            if calm >= _CALM_LOOKS:
                calm = 0
                self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)

    def _sleep(self, me: Member) -> Order | Exchange:
        """Nothing to watch: wait without a time limit, so that an idle process never wakes up."""
        turn = self._turn
        me.asleep = True
        order: Order | Exchange = WAKE
        try:
            order = me.inbox.get(timeout=self._delay_s)
        except Empty:
            if turn == self._turn and not self._table.copy():
                order = me.inbox.get()
        me.asleep = False
        return order
