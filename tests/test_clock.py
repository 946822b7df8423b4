"""The clock: nobody is woken early, late, twice for one deadline, or for ever."""

from __future__ import annotations

import random
from math import inf

import pytest

from rawsgi.net.clock import Clock
from tests.conversation import choose_seed


class Item:
    """Something with a deadline; notes when it was woken."""

    def __init__(self, clock: Clock, name: str = "") -> None:
        self._clock = clock
        self.name = name
        self.deadline = inf
        self.scheduled: float | None = None
        self.woken: list[float] = []
        self.again_after_s: float | None = None
        self.failure: Exception | None = None

    def set(self, deadline: float) -> None:
        """Move the deadline, as its owner does: the clock is told."""
        self.deadline = deadline
        self._clock.schedule(self)

    def expire(self, now: float) -> None:
        assert now >= self.deadline
        self.woken.append(now)
        if self.failure is not None:
            raise self.failure
        if self.again_after_s is not None:
            self.set(now + self.again_after_s)


class Contained:
    """Takes what the clock reports."""

    def __init__(self) -> None:
        self.reported: list[tuple[object, Exception]] = []

    def __call__(self, item: object, error: Exception) -> None:
        self.reported.append((item, error))


@pytest.fixture
def contained() -> Contained:
    return Contained()


@pytest.fixture
def clock(contained: Contained) -> Clock:
    return Clock(contained)


def test_an_item_is_woken_at_its_deadline_and_once(clock: Clock) -> None:
    item = Item(clock)
    item.set(5.0)
    assert clock.soonest == 5.0
    clock.expire_due(4.9)
    assert item.woken == []
    clock.expire_due(5.0)
    clock.expire_due(6.0)
    assert item.woken == [5.0]
    assert clock.soonest == inf
    assert len(clock) == 0


def test_the_soonest_comes_first_whatever_the_order(clock: Clock) -> None:
    order: list[str] = []
    for name, deadline in (("b", 2.0), ("c", 3.0), ("a", 1.0)):
        item = Item(clock, name)
        item.expire = lambda now, name=name: order.append(name)  # type: ignore[method-assign, misc]
        item.set(deadline)
    assert clock.soonest == 1.0
    clock.expire_due(3.0)
    assert order == ["a", "b", "c"]


def test_a_deadline_that_moves_back_needs_no_call(clock: Clock) -> None:
    item = Item(clock)
    item.set(5.0)
    item.deadline = 9.0
    clock.expire_due(5.0)
    assert item.woken == []
    assert clock.soonest == 9.0
    clock.expire_due(9.0)
    assert item.woken == [9.0]


def test_a_deadline_that_moves_back_leaves_one_entry(clock: Clock) -> None:
    item = Item(clock)
    for deadline in range(5, 500):
        item.set(float(deadline))
    assert len(clock) == 1


def test_a_deadline_that_moves_forward_is_kept(clock: Clock) -> None:
    item = Item(clock)
    item.set(9.0)
    item.set(5.0)
    assert clock.soonest == 5.0
    clock.expire_due(5.0)
    assert item.woken == [5.0]
    clock.expire_due(20.0)
    assert item.woken == [5.0], "the entry of the old deadline is void"


def test_a_forgotten_item_is_not_woken(clock: Clock) -> None:
    item = Item(clock)
    item.set(5.0)
    clock.forget(item)
    clock.expire_due(10.0)
    assert item.woken == []
    assert clock.soonest == inf


def test_a_forgotten_item_may_come_again(clock: Clock) -> None:
    item = Item(clock)
    item.set(5.0)
    clock.forget(item)
    item.set(7.0)
    clock.expire_due(6.0)
    assert item.woken == []
    clock.expire_due(7.0)
    assert item.woken == [7.0]


def test_an_item_may_schedule_itself_again(clock: Clock) -> None:
    item = Item(clock)
    item.again_after_s = 1.0
    item.set(1.0)
    for now in range(1, 6):
        clock.expire_due(float(now))
    assert item.woken == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_an_item_that_asks_for_the_past_does_not_hold_the_loop(clock: Clock) -> None:
    """It would be woken for ever within one call."""
    item = Item(clock)
    item.again_after_s = 0.0
    item.set(1.0)
    clock.expire_due(2.0)
    assert item.woken == [2.0]
    assert clock.soonest <= 2.0, "its turn is the next one"
    clock.expire_due(2.5)
    assert item.woken == [2.0, 2.5]


def test_an_item_may_make_another_one_forgotten(clock: Clock) -> None:
    first, second = Item(clock, "first"), Item(clock, "second")
    first.expire = lambda now: clock.forget(second)  # type: ignore[method-assign]
    first.set(1.0)
    second.set(1.5)
    clock.expire_due(2.0)
    assert second.woken == []


def test_an_item_may_move_another_one_back(clock: Clock) -> None:
    first, second = Item(clock, "first"), Item(clock, "second")
    first.expire = lambda now: second.set(9.0)  # type: ignore[method-assign]
    first.set(1.0)
    second.set(1.5)
    clock.expire_due(2.0)
    assert second.woken == []
    clock.expire_due(9.0)
    assert second.woken == [9.0]


def test_an_item_that_fails_does_not_keep_the_others_from_their_turn(
    clock: Clock, contained: Contained
) -> None:
    items = [Item(clock, str(number)) for number in range(3)]
    items[1].failure = ValueError("broken")
    for number, item in enumerate(items):
        item.set(1.0 + number)
    clock.expire_due(5.0)
    assert [item.woken for item in items] == [[5.0], [5.0], [5.0]]
    assert contained.reported == [(items[1], items[1].failure)]
    assert clock.soonest == inf


def test_short_lives_leave_nothing_behind(clock: Clock) -> None:
    """A connection has a deadline of minutes, and closes after a millisecond."""
    for number in range(100_000):
        item = Item(clock)
        item.set(75.0 + number / 1000)
        clock.forget(item)
    assert len(clock) <= 1025


def test_many_live_items_are_kept(clock: Clock) -> None:
    items = [Item(clock) for _ in range(5000)]
    for number, item in enumerate(items):
        item.set(float(number))
    for item in items[::2]:
        clock.forget(item)
    clock.expire_due(5000.0)
    assert [bool(item.woken) for item in items] == [False, True] * 2500


def test_any_sequence_of_calls_keeps_the_promise() -> None:
    """Against a model that looks at every item: woken when due, and never otherwise."""
    generator = random.Random(choose_seed())
    for _ in range(200):
        contained = Contained()
        clock = Clock(contained)
        items = [Item(clock, str(number)) for number in range(generator.randrange(1, 12))]
        watched: dict[Item, float] = {}
        now = 0.0
        for _ in range(generator.randrange(1, 200)):
            item = generator.choice(items)
            match generator.randrange(4):
                case 0:
                    deadline = now + generator.choice((0.0, 0.5, 1.0, 3.0, 10.0))
                    item.set(deadline)
                    watched[item] = deadline
                case 1 if item in watched:
                    item.deadline = watched[item] = watched[item] + generator.random()
                case 2:
                    clock.forget(item)
                    watched.pop(item, None)
                case 3:
                    now += generator.random() * 3
                    due = {item for item, deadline in watched.items() if deadline <= now}
                    assert not due or clock.soonest <= now, "the loop would sleep too long"
                    before = {item: len(item.woken) for item in items}
                    clock.expire_due(now)
                    woken = {item for item in items if len(item.woken) > before[item]}
                    assert woken == due
                    for item in due:
                        del watched[item]
        assert contained.reported == []
