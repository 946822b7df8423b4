"""The crew one step at a time: what each step leaves behind. One thread plays all of them.

`test_crew` looks at every order in which threads may move, and at what must always hold. Here
are the steps of which no order tells: who waits for whom, for how long, and who is told.
"""

from __future__ import annotations

import errno
import re
import sys
import types
from collections import deque
from collections.abc import Callable
from math import inf
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from rawsgi.net.client.buffers import LOW_WATERMARK_BYTES
from rawsgi.net.client.connection import CLOSED, QUEUED, READ, RUNNING, WAITING
from rawsgi.net.client.exchange import Exchange
from rawsgi.net.crew import crew as crew_module
from rawsgi.net.crew import overtime as overtime_module
from rawsgi.net.crew import parking as parking_module
from rawsgi.net.crew.crew import LONGEST_DELAY_S, SHORTEST_DELAY_S, Crew
from rawsgi.net.crew.interruption import RequestTimeout
from rawsgi.net.crew.member import LEAD, STAND_BY, STOP, TAKE_OVER, WAKE, Member
from tests.exchange import Log, watch_log
from tests.played_connection import Client, Loop

__all__ = ["watch_log"]  # a fixture

OK = "200 OK"
PATIENCE_S = parking_module._PATIENCE_S


class Thread:
    """A thread that never moves."""

    def __init__(self, **_: Any) -> None:
        self.starts = 0

    def start(self) -> None:
        self.starts += 1


class Desk:
    """A crew of which only the leader moves."""

    def __init__(self, **settings: Any) -> None:
        self.loop = loop = Loop(**settings)
        self.lost: list[int] = []
        self.application: Callable[[Exchange], None] = lambda exchange: None
        played_loop: Any = loop
        self.crew = Crew(played_loop, lambda exchange: self.application(exchange), self.lost.append)
        self.crew.main.leads = True
        loop.crew = self.crew
        self.parking = self.crew.parking

    def take_request(self, head: str = "GET / HTTP/1.1", content: bytes = b"") -> Client:
        """Return a client whose request is complete."""
        client = Client(head, content, self.loop)
        client.connection.state = QUEUED
        client.exchange.member = None
        return client

    def enlist(self) -> Member:
        """Return a new member of the crew."""
        member = self.crew._enlist()
        assert member is not None
        return member

    def run(self, client: Client, member: Member | None = None) -> Member:
        """Another thread than the leader begins to run the request, and is in the middle of it."""
        member = member or self.enlist()
        client.connection.state = RUNNING
        member.exchange = client.exchange
        client.exchange.called = self.loop.now
        client.exchange.member = member
        self.crew.running += 1
        return member

    def throttle(self, client: Client) -> None:
        """The application is too far ahead of its client: its thread waits."""
        exchange = client.exchange
        if client.connection.outbox is None:
            exchange.begin_response(
                exchange.encode_head(OK, []), 1 << 30, bytes(LOW_WATERMARK_BYTES + 1)
            )
        assert client.connection.outbox is not None
        client.connection.outbox.throttled = True
        self.parking.announce(exchange)
        self.loop.run_posts()

    def find_orders(self, member: Member | None) -> list[Any]:
        """Return what the member was told since the last look."""
        assert member is not None
        found = []
        while not member.inbox.empty():
            found.append(member.inbox.get())
        return found


@pytest.fixture
def make_desk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Desk]:
    threading = types.SimpleNamespace(Thread=Thread, get_ident=lambda: 0)
    monkeypatch.setattr(crew_module, "threading", threading)
    monkeypatch.setattr(overtime_module, "interrupt", lambda ident: None)
    return Desk


MakeDesk = Callable[..., Desk]


def goes_on(client: Client) -> bool:
    """The thread that waited for its client does so no more."""
    outbox = client.connection.outbox
    return outbox is not None and not outbox.throttled


# -- Parking ---------------------------------------------------------------------------------------


def test_a_thread_that_waits_for_its_client_leaves_its_place_to_another(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(threads=2)
    slow = [desk.take_request() for _ in range(2)]
    for client in slow:
        desk.run(client)
    desk.crew.execute((queued := desk.take_request()).exchange)
    assert desk.crew.running == 2
    desk.throttle(slow[0])
    assert desk.parking.count == 1
    assert desk.crew.running == 2, "the one that was queued runs instead"
    assert desk.find_orders(desk.crew._members[-1]) == [queued.exchange]


def test_a_thread_that_waits_for_content_is_parked_too(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=2)
    client = desk.take_request("POST / HTTP/1.1\r\nContent-Length: 9")
    desk.run(client)
    upload = client.connection.upload
    assert upload is not None
    upload.inbox.starved = True
    desk.parking.announce(client.exchange)
    desk.loop.run_posts()
    assert client.exchange.parked
    desk.parking.readmit(client.exchange)
    assert not client.exchange.parked
    assert not upload.inbox.starved


def test_with_a_limit_of_one_nobody_is_parked(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=1)
    client = desk.take_request()
    desk.run(client, desk.crew.main)
    desk.throttle(client)
    assert not client.exchange.parked
    assert desk.crew.running == 1
    desk.parking.readmit(client.exchange)
    assert goes_on(client)


def test_there_is_an_end_to_parking(make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking_module, "_PARKED_LIMIT", 2)
    desk = make_desk(threads=4)
    clients = [desk.take_request() for _ in range(3)]
    for client in clients:
        desk.run(client)
        desk.throttle(client)
    assert [client.exchange.parked for client in clients] == [True, True, False]
    assert (desk.parking.count, desk.crew.running) == (2, 1)


def test_who_was_readmitted_before_the_leader_knew_is_not_parked(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=4)
    client = desk.take_request()
    desk.run(client)
    client.exchange.begin_response(client.exchange.encode_head(OK, []), 1 << 30, b"x")
    desk.parking.announce(client.exchange)
    desk.loop.run_posts()
    assert not client.exchange.parked
    assert (desk.parking.count, desk.crew.running) == (0, 1)


@pytest.mark.parametrize("why", ["parked already", "ended", "lost"])
def test_nobody_is_parked_twice_or_after_the_end(make_desk: MakeDesk, why: str) -> None:
    desk = make_desk(threads=4)
    client = desk.take_request()
    member = desk.run(client)
    if why == "parked already":
        desk.throttle(client)
    elif why == "ended":
        client.exchange.member = None
    else:
        member.lost = True
    before = desk.parking.count, desk.crew.running
    desk.throttle(client)
    assert (desk.parking.count, desk.crew.running) == before


def test_an_exchange_that_has_ended_is_parked_no_more(make_desk: MakeDesk) -> None:
    """Another thread of the application may have waited, and the request's own has ended."""
    desk = make_desk(threads=4)
    client = desk.take_request()
    desk.run(client)
    desk.throttle(client)
    assert (desk.parking.count, desk.crew.running) == (1, 0)
    desk.crew._take_back(client.exchange)
    assert (desk.parking.count, desk.crew.running) == (0, 1), "until its thread is released"


def test_who_is_back_waits_for_a_place(make_desk: MakeDesk) -> None:
    """In the order in which they came back, and each once."""
    desk = make_desk(threads=2)
    slow = [desk.take_request() for _ in range(3)]
    for client in slow:
        desk.run(client)
        desk.throttle(client)
    members = [desk.run(desk.take_request()) for _ in range(2)]
    for client in (slow[1], slow[0], slow[1]):
        desk.parking.readmit(client.exchange)
    assert not any(goes_on(client) for client in slow)
    assert list(desk.parking.returning) == [slow[1].exchange, slow[0].exchange]
    assert desk.crew._take_queued() is None
    desk.crew._release(members[0])
    assert [goes_on(client) for client in slow] == [False, True, False]
    desk.crew._release(members[1])
    assert [goes_on(client) for client in slow] == [True, True, False]
    assert not desk.parking.returning
    assert (desk.parking.count, desk.crew.running) == (1, 2)


def test_who_is_back_comes_before_who_begins(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=1 + 1)
    slow = desk.take_request()
    desk.run(slow)
    desk.throttle(slow)
    for _ in range(2):
        desk.run(desk.take_request())
    desk.crew.execute(desk.take_request().exchange)
    desk.parking.readmit(slow.exchange)
    assert desk.crew._take_queued() is None, "they have waited for longer"


def test_who_finds_a_place_goes_on_at_once(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=2)
    slow = desk.take_request()
    desk.run(slow)
    desk.throttle(slow)
    desk.run(desk.take_request())
    desk.parking.readmit(slow.exchange)
    assert goes_on(slow)
    assert (desk.parking.count, desk.crew.running) == (0, 2)


def test_who_was_not_parked_needs_no_place(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=1)
    client = desk.take_request()
    desk.run(client, desk.crew.main)
    desk.throttle(client)
    desk.parking.readmit(client.exchange)
    assert goes_on(client)
    assert not desk.parking.returning


def test_patience_ends_when_nobody_ends(make_desk: MakeDesk) -> None:
    """What one who is back holds may be what all the others wait for."""
    desk = make_desk(threads=2)
    slow = [desk.take_request() for _ in range(3)]
    for client in slow:
        desk.run(client)
        desk.throttle(client)
    for _ in range(2):
        desk.run(desk.take_request())
    desk.parking.readmit(slow[0].exchange)
    desk.loop.pass_time(0.9 * PATIENCE_S)
    desk.parking.readmit(slow[1].exchange)
    desk.parking.readmit(slow[2].exchange)
    assert not goes_on(slow[0])
    desk.loop.pass_time(0.1 * PATIENCE_S)
    assert [goes_on(client) for client in slow] == [True, False, False]
    assert desk.crew.running == 3, "above the limit"
    desk.loop.pass_time(0.9 * PATIENCE_S)
    assert not goes_on(slow[1])
    desk.loop.pass_time(0.1 * PATIENCE_S)
    desk.loop.pass_time(PATIENCE_S)
    assert all(goes_on(client) for client in slow)


def test_patience_begins_anew_with_each_that_ends(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=1 + 1)
    slow = [desk.take_request() for _ in range(2)]
    for client in slow:
        desk.run(client)
        desk.throttle(client)
    members = [desk.run(desk.take_request()) for _ in range(2)]
    for client in slow:
        desk.parking.readmit(client.exchange)
    desk.loop.pass_time(0.9 * PATIENCE_S)
    desk.crew._release(members[0])
    assert [goes_on(client) for client in slow] == [True, False]
    desk.loop.pass_time(0.9 * PATIENCE_S)
    assert not goes_on(slow[1]), "somebody has just ended"
    desk.loop.pass_time(0.1 * PATIENCE_S)
    assert goes_on(slow[1])


@pytest.mark.parametrize("when", ["it comes back", "another is free"])
def test_threads_that_stood_in_end_when_the_parked_are_back(make_desk: MakeDesk, when: str) -> None:
    desk = make_desk(threads=2)
    slow = desk.take_request()
    parked = desk.run(slow)
    desk.throttle(slow)
    members = [desk.run(desk.take_request()) for _ in range(2)]
    assert len(desk.crew) == 4
    if when == "it comes back":
        for member in members:
            desk.crew._release(member)
        assert [desk.find_orders(member) for member in members] == [[], []]
        desk.parking.readmit(slow.exchange)
    else:
        desk.parking.readmit_now(slow.exchange)
        assert len(desk.crew) == 4, "all are busy"
        desk.crew._release(members[0])
    assert len(desk.crew) == 3
    assert desk.find_orders(members[0]) == [STOP]
    assert members[0] not in desk.crew._members
    assert desk.find_orders(members[1]) == desk.find_orders(parked) == []


def test_the_main_thread_is_never_dismissed(make_desk: MakeDesk) -> None:
    """It ends with the process, and the process with it."""
    desk = make_desk(threads=2)
    desk.crew.leader = desk.enlist()
    desk.crew._members += [Member(True), Member(True)]
    desk.crew._resting.append(desk.crew.main)
    desk.crew.dismiss_surplus()
    assert desk.crew._resting == [desk.crew.main]
    assert desk.find_orders(desk.crew.main) == []


@pytest.mark.parametrize("gathers", [True, False])
def test_who_waits_has_the_loop_taken_over_at_once(make_desk: MakeDesk, gathers: bool) -> None:
    desk = make_desk(threads=2)
    client = desk.take_request()
    standby = desk.crew._appoint_standby()
    client.exchange.gathers = gathers
    desk.parking.announce(client.exchange)
    assert desk.find_orders(standby) == [STAND_BY] + [TAKE_OVER] * gathers


# -- Who runs what ---------------------------------------------------------------------------------


def test_the_leader_runs_a_request_on_the_spot(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=2)
    crew = desk.crew
    client = desk.take_request()
    seen = []

    def application(exchange: Exchange) -> None:
        assert crew.main.exchange is exchange
        assert exchange.gathers, "if it takes its time, what it gathers is flushed"
        seen.append((crew._table[:], crew._turn, exchange.member))
        exchange.send_response(exchange.encode_head(OK, []), b"content")

    desk.application = application
    client.socket.room = 1000
    assert crew.execute(client.exchange)
    assert seen == [([crew.main], 1, crew.main)]
    assert crew._table == []
    assert crew.main.exchange is client.exchange.member is None
    assert client.connection.state == WAITING


def test_a_turn_is_counted_before_the_token_lies_there(make_desk: MakeDesk) -> None:
    """Else the standby takes a token that has just been put down for one that lay there."""

    class Table(list[Member]):
        def append(self, member: Member) -> None:
            turns.append(desk.crew._turn)
            super().append(member)

    turns: list[int] = []
    desk = make_desk(threads=2)
    desk.crew._table = Table()
    for _ in range(2):
        desk.crew.execute(desk.take_request().exchange)
    assert turns == [1, 2]


@pytest.mark.parametrize("why", ["all are busy", "others wait", "the leader runs nothing"])
def test_the_leader_queues_what_has_to_wait(make_desk: MakeDesk, why: str) -> None:
    desk = make_desk(threads=2)
    crew = desk.crew
    crew._appoint_standby()
    if why == "all are busy":
        crew.running = 2
    elif why == "others wait":
        crew.running = 2
        crew.execute(desk.take_request().exchange)
        crew.running = 1
        crew._resting.clear()
        crew._members.append(Member(True))
    else:
        crew.leader = Member(runs_applications=False)
        crew.running = 1
        crew._members += [Member(True)] * 2
        crew.standby = None
    client = desk.take_request()
    ran: list[Exchange] = []
    desk.application = ran.append
    assert crew.execute(client.exchange)
    assert ran == []
    assert crew._queue[-1] is client.exchange
    assert client.connection.state == QUEUED
    assert desk.loop.poller.mask == READ, "to learn when the client leaves"


def test_the_queue_has_an_end(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=2, queue=2)
    desk.crew.running = 2
    clients = [desk.take_request() for _ in range(3)]
    for client in clients:
        client.socket.room = 1000
        desk.crew.execute(client.exchange)
    assert list(desk.crew._queue) == [client.exchange for client in clients[:2]]
    assert clients[2].socket.sent.startswith(b"HTTP/1.1 503 ")


def test_a_request_that_cannot_be_queued_is_nobodys(make_desk: MakeDesk) -> None:
    """The system refuses to watch the socket: the connection can be closed at once."""
    desk = make_desk(threads=2)
    desk.crew.running = 2
    client = desk.take_request()

    def refuse(fd: int, mask: int) -> None:
        raise OSError(errno.ENOSPC, "no more watches")

    client.connection.arm(0)
    desk.loop.poller.register = refuse  # type: ignore[method-assign]
    with pytest.raises(OSError):
        desk.crew.execute(client.exchange)
    client.connection.fail()
    assert client.connection.state == CLOSED
    assert not desk.crew._queue


def test_a_request_is_handed_to_no_more_threads_than_may_run(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=2)
    crew = desk.crew
    crew.running = 2
    crew.execute(desk.take_request().exchange)
    crew._resting.append(Member(True))
    crew.dispatch()
    assert len(crew._queue) == 1
    crew.running = 1
    crew.dispatch()
    assert (len(crew._queue), crew.running) == (0, 2)


@pytest.mark.parametrize("place", ["it rests", "it stands by"])
def test_the_thread_that_only_relieves_runs_nothing(make_desk: MakeDesk, place: str) -> None:
    """With a limit of one the main thread runs all."""
    desk = make_desk(threads=1)
    crew = desk.crew
    relief = desk.enlist()
    if place == "it rests":
        crew._resting.append(relief)
    else:
        crew.standby = relief
    crew._queue.append(desk.take_request().exchange)
    crew.dispatch()
    assert desk.find_orders(relief) == []


def test_the_standby_runs_what_waits_when_no_other_can(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=1)
    crew = desk.crew
    relief = desk.enlist()
    crew.leader, crew.standby = relief, crew.main
    client = desk.take_request()
    crew.execute(client.exchange)
    assert desk.find_orders(crew.main) == [client.exchange]
    assert crew.standby is None, "it is not at hand meanwhile"
    assert crew.running == 1


def test_requests_wait_for_those_that_run_when_no_thread_can_be_had(
    make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    desk = make_desk(threads=4)
    crew = desk.crew
    start = Thread.start
    monkeypatch.setattr(Thread, "start", refuse)
    clients = [desk.take_request() for _ in range(2)]
    for client in clients:
        client.socket.room = 1000
    crew.running = 1
    crew.execute(clients[0].exchange)
    assert list(crew._queue) == [clients[0].exchange]
    crew.running = 0
    crew.execute(clients[1].exchange)
    assert [client.socket.sent[9:12] for client in clients] == [b"503", b"503"]
    assert log.text.count("no further thread can be started") == 1
    monkeypatch.setattr(Thread, "start", start)
    desk.enlist()
    monkeypatch.setattr(Thread, "start", refuse)
    assert crew._enlist() is None
    assert log.text.count("no further thread can be started") == 2, "it is news again"


def test_a_client_that_leaves_takes_its_request_along(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=2)
    desk.crew.running = 2
    queued = desk.take_request()
    desk.crew.execute(queued.exchange)
    taken = desk.take_request()
    complete = desk.take_request()
    desk.loop.complete.append(complete.exchange)
    assert desk.crew.drop_queued(queued.exchange)
    assert desk.crew.drop_queued(complete.exchange)
    assert not desk.crew.drop_queued(taken.exchange)
    assert not desk.crew._queue
    assert not desk.loop.complete
    assert queued.exchange.scheduled is None


def test_what_is_seen_of_a_thread_that_begins_is_complete(make_desk: MakeDesk) -> None:
    """The leader may judge the exchange from the moment when it knows the member."""
    order: list[str] = []

    class NotedMember(Member):
        def __setattr__(self, name: str, value: object) -> None:
            order.append(f"member.{name}")
            super().__setattr__(name, value)

    class NotedExchange(Exchange):
        def __setattr__(self, name: str, value: object) -> None:
            order.append(f"exchange.{name}")
            super().__setattr__(name, value)

    desk = make_desk(threads=2)
    client = desk.take_request()
    exchange = NotedExchange(client.connection, client.exchange.request, None)
    member = NotedMember(True)
    order.clear()
    desk.application = lambda exchange: order.append("application")
    desk.crew._run_queued(member, exchange)
    begun = order[: order.index("application")]
    assert begun == ["exchange.called", "member.exchange", "exchange.member"]
    assert client.connection.state == RUNNING
    assert desk.loop.posts.pop() == (desk.crew._take_back, exchange)


@pytest.mark.parametrize("queued", [True, False])
def test_a_lost_thread_does_nothing_more(make_desk: MakeDesk, queued: bool) -> None:
    desk = make_desk(threads=2, request_timeout_s=1.0)
    client = desk.take_request()
    member = Member(True) if queued else desk.crew.main
    client.socket.room = 1000

    def application(exchange: Exchange) -> None:
        member.lost = True
        client.connection.unsent.append(b"late")

    desk.application = application
    if queued:
        desk.crew._run_queued(member, client.exchange)
    else:
        assert not desk.crew.execute(client.exchange)
    assert not desk.loop.posts
    assert client.socket.sent == b""
    assert member.exchange is client.exchange, "by which its return is counted"
    desk.crew.lost_at[client.exchange] = desk.loop.now
    member.thread = None if member is desk.crew.main else desk.enlist().thread
    member.inbox.put(STOP)
    desk.crew._end_lost(member)
    desk.loop.run_posts()
    assert desk.crew.lost == 0


# -- Who sends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("delay_s", [LONGEST_DELAY_S, SHORTEST_DELAY_S])
def test_responses_leave_together_while_requests_are_short(
    make_desk: MakeDesk, more: bool, whole: bool, delay_s: float
) -> None:
    """When the next one may take long, a response does not wait for it."""
    desk = make_desk(threads=2)
    client = desk.take_request()
    client.socket.room = 1000

    def application(exchange: Exchange) -> None:
        if whole:
            exchange.send_response(exchange.encode_head(OK, []), b"content")
        else:
            exchange.begin_response(exchange.encode_head(OK, []), None, b"content")
            exchange.send_end()

    desk.application = application
    desk.crew._delay_s = delay_s
    if more:
        desk.loop.complete.append(desk.take_request().exchange)
    assert desk.crew.execute(client.exchange)
    waits = more and whole and delay_s == LONGEST_DELAY_S
    assert desk.loop.deferred == [client.exchange] * waits
    assert bool(client.wire) != waits


@pytest.mark.parametrize("queued", [True, False])
def test_a_response_does_not_wait_for_the_leader(make_desk: MakeDesk, queued: bool) -> None:
    desk = make_desk(threads=2)
    client = desk.take_request()
    client.socket.room = 1000

    def application(exchange: Exchange) -> None:
        desk.crew._table.clear()  # somebody has taken the loop over
        exchange.send_response(exchange.encode_head(OK, []), b"content")

    desk.application = application
    if queued:
        desk.crew._run_queued(Member(True), client.exchange)
    else:
        assert not desk.crew.execute(client.exchange)
        assert not desk.crew.main.leads
        assert desk.crew.main.exchange is None
    assert client.wire == b"content"
    assert desk.loop.run_posts() == 1
    assert client.connection.state == WAITING


def test_a_failure_of_the_server_ends_the_connection(make_desk: MakeDesk, log: Log) -> None:
    desk = make_desk(threads=2)
    client = desk.take_request()

    def application(exchange: Exchange) -> None:
        raise ValueError("a fault")

    desk.application = application
    desk.crew.execute(client.exchange)
    assert "GET /: the server failed" in log.text
    assert not client.connection.protocol.reusable


def test_an_interruption_at_the_end_is_no_failure(make_desk: MakeDesk, log: Log) -> None:
    desk = make_desk(threads=2)
    client = desk.take_request()

    def fail(reason: str) -> None:
        raise RequestTimeout

    protocol: Any = types.SimpleNamespace(abandon=fail)
    client.connection.protocol = protocol
    desk.crew._end_failed(client.exchange, RequestTimeout())
    assert client.connection.broken
    assert log.texts == []


# -- Taking over -----------------------------------------------------------------------------------


def test_who_takes_over_sees_to_what_the_old_leader_left(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=2)
    crew, loop = desk.crew, desk.loop
    client = desk.take_request()
    client.socket.room = 1000
    standby = crew._appoint_standby()
    assert standby is not None

    def application(exchange: Exchange) -> None:
        exchange.begin_response(exchange.encode_head(OK, []), None, b"block")
        assert client.socket.sent == b""
        loop.now = 0.0
        crew._table.pop()
        crew._take_over(standby)

    desk.application = application
    assert not crew.execute(client.exchange)
    assert client.wire == b"5\r\nblock\r\n", "what was gathered"
    assert loop.now > 0.0, "the old leader's look at the clock was long ago"
    assert client.exchange.deadline <= loop.now + 0.01, "it may just have begun to gather"
    assert client.exchange.scheduled == loop.clock.soonest
    assert crew._delay_s == SHORTEST_DELAY_S, "it is no mistake: requests are slow"
    assert crew.leader is standby
    assert crew.standby is None
    assert crew.running == crew.takeovers == 1


def test_a_connection_that_fails_does_not_keep_the_loop_from_being_taken_over(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(threads=2)
    client = desk.take_request()
    client.connection.arm(0)
    failure = OSError(errno.ENOSPC, "no more watches")

    def refuse(fd: int, mask: int) -> None:
        raise failure

    desk.loop.poller.register = refuse  # type: ignore[method-assign]
    client.exchange.gathers = True
    client.exchange.send_response(client.exchange.encode_head(OK, []), b"content")
    client.connection.state = RUNNING
    client.exchange.member = other = desk.crew.main
    other.exchange = client.exchange
    desk.crew._take_over(standby := Member(True))
    assert desk.loop.failures == [failure]
    assert desk.crew.leader is standby
    assert client.exchange.scheduled is not None


@pytest.mark.parametrize(("took_s", "delay_s"), [(0.003, 0.002), (0.005, 0.001)])
def test_a_request_that_was_short_after_all_makes_the_standby_patient(
    make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch, took_s: float, delay_s: float
) -> None:
    desk = make_desk(threads=2)
    client = desk.take_request()
    desk.run(client)
    monkeypatch.setattr(crew_module, "monotonic", lambda: client.exchange.called + took_s)
    desk.crew._delay_s = 0.001
    desk.crew._take_back(client.exchange)
    assert desk.crew._delay_s == delay_s


def test_content_of_an_exchange_whose_connection_goes_on_without_it(make_desk: MakeDesk) -> None:
    """It was answered with a 504 meanwhile."""
    desk = make_desk(threads=2)
    desk.loop.streams_request = False
    client = desk.take_request("POST / HTTP/1.1\r\nContent-Length: 7", b"content")
    desk.run(client)
    client.connection.exchange = None
    desk.crew._take_back(client.exchange)
    assert client.exchange.content.closed
    assert client.connection.state == RUNNING, "nothing of the connection is touched"


class Inbox(SimpleQueue[Any]):
    """Orders that come one after the other, None when time passes; nobody waits for more."""

    def __init__(self, *orders: Any, on_get: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.orders = deque(orders)
        self._on_get = on_get

    def put(self, order: Any, block: bool = True, timeout: float | None = None) -> None:
        self.orders.append(order)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self._on_get()
        assert self.orders, "it waits for another order"
        order = self.orders.popleft()
        if order is None:
            assert timeout is not None, "it waits without a time limit"
            raise Empty
        return order


def stand_by(crew: Crew, inbox: Inbox) -> Any:
    me = Member(True)
    me.inbox = inbox
    crew.standby = me
    return crew._stand_by(me)


def test_the_standby_takes_a_token_that_lay_there_for_a_delay(make_desk: MakeDesk) -> None:
    crew = make_desk(threads=2).crew
    turns = iter((1, 2, 2))

    def put_down() -> None:
        crew._turn = next(turns)
        crew._table[:] = [crew.main]

    assert stand_by(crew, Inbox(None, None, None, on_get=put_down)) is LEAD
    assert next(turns, None) is None, "not before"
    assert crew._table == []


def test_a_standby_that_is_woken_lets_the_token_lie_for_a_delay(make_desk: MakeDesk) -> None:
    crew = make_desk(threads=2).crew
    crew._table.append(crew.main)
    orders = Inbox(WAKE, None)
    assert stand_by(crew, orders) is LEAD
    assert not orders.orders


@pytest.mark.parametrize("looks", [0, 1])
def test_a_standby_that_falls_asleep_is_told_to_take_over(make_desk: MakeDesk, looks: int) -> None:
    crew = make_desk(threads=2).crew

    def put_down() -> None:
        if orders.orders[0] is TAKE_OVER:
            crew._table[:] = [crew.main]

    looks += crew_module._IDLE_LOOKS
    orders = Inbox(*[None] * looks, TAKE_OVER, on_get=put_down)
    assert stand_by(crew, orders) is LEAD
    assert crew.leader is not crew.main
    assert not crew.leader.asleep


def test_the_standby_takes_the_token_at_once_when_it_is_told_to(make_desk: MakeDesk) -> None:
    crew = make_desk(threads=2).crew
    crew._table.append(crew.main)
    assert stand_by(crew, Inbox(TAKE_OVER)) is LEAD


def test_the_standby_grows_patient_while_nothing_is_to_be_taken_over(make_desk: MakeDesk) -> None:
    crew = make_desk(threads=2).crew
    crew._delay_s = SHORTEST_DELAY_S

    def run_requests() -> None:
        crew._turn += 1

    looks = 2 * crew_module._CALM_LOOKS
    assert stand_by(crew, Inbox(*[None] * looks, STOP, on_get=run_requests)) is STOP
    assert crew._delay_s == 4 * SHORTEST_DELAY_S
    looks = 20 * crew_module._CALM_LOOKS
    assert stand_by(crew, Inbox(*[None] * looks, STOP, on_get=run_requests)) is STOP
    assert crew._delay_s == LONGEST_DELAY_S


def test_the_standby_does_not_sleep_while_requests_come(make_desk: MakeDesk) -> None:
    crew = make_desk(threads=2).crew
    me = Member(True)

    def run_request() -> None:
        assert me.asleep
        crew._turn += 1

    me.inbox = Inbox(None, on_get=run_request)
    assert crew._sleep(me) is WAKE
    assert not me.asleep


def test_the_loop_is_given_to_the_thread_that_runs_applications(make_desk: MakeDesk) -> None:
    """With a limit of one. Who gave it stands by, or rests if somebody else does."""
    for has_standby in (False, True):
        desk = make_desk(threads=1)
        crew = desk.crew
        relief = desk.enlist()
        relief.leads, crew.leader = True, relief
        other = crew.standby = Member(False) if has_standby else None
        crew.running = 1
        crew._release(crew.main)
        assert crew.successor is crew.main
        crew.abdicate()
        assert crew.successor is None
        assert crew.leader is crew.main
        assert desk.find_orders(crew.main) == [LEAD]
        assert not relief.leads
        assert crew.standby is (other or relief)
        assert crew._resting == [relief] * has_standby
        assert desk.find_orders(relief) == [STAND_BY] * (not has_standby)


# -- Failures of the loop itself -------------------------------------------------------------------


class FailingLoop:
    """A loop that fails so many times, each after a while."""

    def __init__(self, failures: int, after_s: float) -> None:
        self.failures = failures
        self.now = 0.0
        self._after_s = after_s

    def lead(self) -> bool:
        self.now += self._after_s
        if not self.failures:
            return False
        self.failures -= 1
        raise ValueError("a fault of the loop")


@pytest.mark.parametrize(
    ("failures", "after_s", "leads", "goes_on"),
    [(9, 0.0, True, True), (10, 0.0, True, False), (50, 1.0, True, True), (1, 0.0, False, False)],
)
def test_the_loop_goes_on_unless_it_fails_again_and_again(
    make_desk: MakeDesk,
    monkeypatch: pytest.MonkeyPatch,
    failures: int,
    after_s: float,
    leads: bool,
    goes_on: bool,
) -> None:
    crew = make_desk(threads=2).crew
    loop: Any = FailingLoop(failures, after_s)
    crew.loop = loop
    monkeypatch.setattr(crew_module, "monotonic", lambda: loop.now)
    me = Member(True)
    calls = []
    if not leads:  # it failed in a request, with the token in somebody else's hands

        def lead() -> bool:
            calls.append(1)
            me.leads = False
            raise ValueError("a fault of the loop")

        loop.lead = lead
    if goes_on:
        assert not crew._lead(me)
    else:
        with pytest.raises(ValueError, match="a fault of the loop"):
            crew._lead(me)
    assert calls == [1] * (not leads)


# -- Requests that take too long -------------------------------------------------------------------


def time_out(desk: Desk, client: Client) -> None:
    desk.loop.pass_time(desk.crew.overtime.timeout_s)
    desk.crew.overtime.judge(client.exchange, desk.loop.now)
    if not client.exchange.claim and not client.socket.sent.startswith(b"HTTP/1.1 504 "):
        assert not client.connection.broken, "what has begun may be just leaving"
        desk.loop.pass_time(overtime_module._LEAVING_S)


@pytest.mark.parametrize("begun", [True, False])
def test_a_thread_that_is_lost_is_replaced(
    make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    interrupted: list[int] = []

    def interrupt(ident: int) -> None:
        assert member.lost, "as soon as it is interrupted it may look"
        interrupted.append(ident)

    monkeypatch.setattr(overtime_module, "interrupt", interrupt)
    desk = make_desk(threads=2, request_timeout_s=1.0)
    client = desk.take_request()
    client.socket.room = 1000
    member = desk.run(client)
    member.ident = 17
    if begun:
        desk.throttle(client)
    client.exchange.claim = [] if begun else [None]
    desk.crew.running = 2
    queued = desk.take_request()
    desk.crew.execute(queued.exchange)
    client.socket.room = 1000
    time_out(desk, client)
    assert interrupted == [17]
    assert desk.lost == [1]
    assert desk.crew.lost_at == {client.exchange: desk.loop.now}
    assert member not in desk.crew._members
    assert client.connection.broken == begun, "what was begun is cut"
    assert client.socket.sent.startswith(b"HTTP/1.1 200 " if begun else b"HTTP/1.1 504 ")
    assert b" 504 " not in client.socket.sent or not begun
    assert desk.parking.count == 0
    assert desk.crew.running == 2
    if begun:  # it was parked: nobody gets its place
        assert goes_on(client), "so that it can end"
    else:
        assert not desk.crew._queue


def test_a_parked_thread_that_is_lost_gives_no_place_away(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=2, request_timeout_s=1.0)
    client = desk.take_request("POST / HTTP/1.1\r\nContent-Length: 9")
    client.socket.room = 1000
    member = desk.run(client)
    client.exchange.claim = [None]
    upload = client.connection.upload
    assert upload is not None
    upload.inbox.starved = True
    desk.parking.announce(client.exchange)
    desk.loop.run_posts()
    desk.crew.running = 2
    time_out(desk, client)
    assert member.lost
    assert not upload.inbox.starved, "so that it can end"
    assert client.socket.sent.startswith(b"HTTP/1.1 504 ")
    assert (desk.parking.count, desk.crew.running) == (0, 2)


def test_a_request_that_has_just_ended_is_not_timed_out(make_desk: MakeDesk) -> None:
    desk = make_desk(threads=2, request_timeout_s=1.0)
    client = desk.take_request()
    member = desk.run(client)
    member.exchange = None
    time_out(desk, client)
    assert not member.lost
    assert desk.lost == []
    assert client.socket.sent == b""


def test_a_request_that_is_taken_while_it_is_judged_has_all_its_time(make_desk: MakeDesk) -> None:
    """Who sees the member sees when the application was called, and not when it was queued."""
    desk = make_desk(threads=2, request_timeout_s=1.0)
    client = desk.take_request()
    member = Member(True)

    class Taken(Exchange):
        """A thread takes it after the first look, whatever that was at."""

        looks = 0

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name in ("member", "called") and not Taken.looks:
                Taken.looks += 1
                self.called = desk.loop.now
                member.exchange = self
                self.member = member
            return value

    exchange = Taken(client.connection, client.exchange.request, None)
    desk.loop.now = exchange.started + 1.5
    Taken.looks = 0
    exchange.member = None
    desk.crew.overtime.judge(exchange, desk.loop.now)
    assert Taken.looks == 1
    assert not member.lost


@pytest.mark.parametrize("slow_s", [0.0, 0.7])
def test_a_request_that_waits_too_long_is_refused(make_desk: MakeDesk, slow_s: float) -> None:
    desk = make_desk(threads=2, request_timeout_s=1.0, slow_request_s=slow_s)
    desk.crew.running = 2
    client = desk.take_request()
    client.socket.room = 1000
    desk.loop.now = client.exchange.started
    desk.crew.execute(client.exchange)
    for _ in range(9):
        desk.loop.pass_time(0.11)
        assert client.socket.sent == b""
    desk.loop.now = client.exchange.started + 1.0
    desk.loop.pass_time(0.0)
    assert client.socket.sent.startswith(b"HTTP/1.1 503 ")


def test_a_request_that_was_just_taken_is_looked_at_again_and_not_at_once(
    make_desk: MakeDesk,
) -> None:
    """It is late, and the thread that has it has not said so yet."""
    desk = make_desk(threads=2, request_timeout_s=1.0)
    exchange = desk.take_request().exchange
    desk.loop.now = exchange.called + 1.5
    desk.crew.overtime.judge(exchange, desk.loop.now)
    assert desk.loop.now + 0.1 < desk.loop.clock.soonest <= desk.loop.now + 0.5


def test_what_a_thread_gathers_that_leads_no_more_leaves_at_the_next_look(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(threads=2)
    client = desk.take_request()
    client.socket.room = 1000
    desk.run(client)
    client.exchange.gathers = True
    client.exchange.begin_response(client.exchange.encode_head(OK, []), None, b"block")
    assert client.socket.sent == b""
    desk.crew.overtime.judge(client.exchange, desk.loop.now)
    assert client.wire == b"5\r\nblock\r\n"


@pytest.mark.parametrize("taken", [True, False])
def test_the_stack_is_told_once(make_desk: MakeDesk, log: Log, taken: bool) -> None:
    desk = make_desk(threads=2, slow_request_s=1.0, request_timeout_s=0)
    client = desk.take_request()
    desk.loop.now = client.exchange.called
    if taken:
        desk.run(client)
        desk.crew.overtime.watch(client.exchange)
    else:  # queued for longer: where the time goes, the stacks of the others tell
        desk.crew.running = 2
        desk.crew.execute(client.exchange)
    desk.loop.pass_time(1.0)
    for _ in range(5):
        desk.loop.pass_time(0.6)
    assert log.text.count("has been running for 1.0 s") == taken
    assert len(log.texts) == taken
    assert (desk.loop.clock.soonest == inf) == taken, "one that is queued may be taken yet"


def call_in_gateway(function: Callable[[], str]) -> str:
    """Call `function` from a line that stands in the gateway's file."""
    namespace: dict[str, Any] = {}
    source = "def run(function):\n    return function()\n"
    exec(compile(source, overtime_module._GATEWAY, "exec"), namespace)
    result: str = namespace["run"](function)
    return result


def test_a_stack_begins_with_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though what the server calls back into stands further down."""
    member = Member(True)
    member.ident = 1

    def format_here() -> str:
        frames = types.SimpleNamespace(_current_frames=lambda: {1: sys._getframe(2)})
        monkeypatch.setattr(overtime_module, "sys", frames)
        return overtime_module.format_stack(member)

    def application() -> str:
        return call_in_gateway(write)

    def write() -> str:
        return format_here()

    names = re.findall(r"in (\w+)$", call_in_gateway(application), re.M)
    assert names[:3] == ["application", "call_in_gateway", "run"]
    assert names.count("run") == 1


def test_a_stack_that_ends_in_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Member(True)
    member.ident = 1

    def format_caller() -> str:
        frame = sys._getframe(1)
        frames = types.SimpleNamespace(_current_frames=lambda: {1: frame})
        monkeypatch.setattr(overtime_module, "sys", frames)
        return overtime_module.format_stack(member)

    assert re.findall(r"in (\w+)$", call_in_gateway(format_caller), re.M)[-1:] == ["run"]
    member.ident = 2
    assert "just ended" in overtime_module.format_stack(member)
