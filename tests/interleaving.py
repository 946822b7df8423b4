"""Threads that run one at a time, in an order that a seed decides: forced interleavings.

Why it exists: what threads may do to each other is not found by waiting for it. Here the threads
are real and so is the code that they run, but only one of them moves at a time. At every line of
the files under test, and at everything that may block, the schedule may hand over to another
one. Time is virtual: it passes when nobody can move. Any thread may stall at any step, while time
passes for the others, as when a system is busy with something else.
Its rule: the same seed gives the same run, whatever the machine does.
"""

from __future__ import annotations

import _thread
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection
from queue import Empty
from types import FrameType
from typing import Any

STALLED = "stalled"
"""`Runner.blocked_on` of a thread that the system does not let run for a while."""

# Long enough for anything but a bug of this file.
_STUCK_S = 60.0


class Abandoned(BaseException):
    """The schedule has failed: every thread is to end."""


class Deadlock(AssertionError):
    """Nobody can move, and no time would change that."""


class Runner:
    """One thread of a schedule. Blocked while `ready` is there and says no."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: Callable[[], object] | None = None
        self.deadline: float | None = None
        self.blocked_on = ""
        self.done = False
        self.pending: type[BaseException] | None = None
        """Raised at one of the next lines, as an asynchronous exception is."""
        self.baton = _thread.allocate_lock()
        self.baton.acquire()

    def can_move(self, now: float) -> bool:
        if self.done:
            return False
        if self.ready is None or (self.deadline is not None and self.deadline <= now):
            return True
        return bool(self.ready())

    def __repr__(self) -> str:
        return f"{self.name}({'done' if self.done else self.blocked_on or 'moving'})"


class Schedule:
    """The threads, their order, and the time. The thread that makes it is the first of them."""

    def __init__(self, seed: int, files: Collection[str], *, by_opcode: bool = False) -> None:
        """A hand-over is possible at each line of `files`, or at each bytecode."""
        self.random = random.Random(seed)
        self.now = 0.0
        self.switches = self.random.choice((0.01, 0.03, 0.1, 0.3))
        """Probability of a hand-over at each step."""
        self.stalls = self.random.choice((0.0, 0.002, 0.01, 0.03))
        """Probability of a stall at each step: the thread rests while time passes for others."""
        self.main = Runner("main")
        self.current = self.main
        self.runners = [self.main]
        self.failure: BaseException | None = None
        self.steps = 0
        self._looking = False
        """The invariants are looked at: what that calls is no step."""
        self.on_step: Callable[[], None] = lambda: None
        """Called at each step: the invariants."""
        self.on_quiet: Callable[[], None] = lambda: None
        """Called when nobody can move before time passes. May make somebody able to."""
        self._files = frozenset(files)
        self._event = "opcode" if by_opcode else "line"

    # -- Steps -----------------------------------------------------------------------------------

    def step(self) -> None:
        """The current thread: somebody else may go first."""
        if self._looking:
            return
        if self.failure is not None:
            raise Abandoned
        self._looking = True  # as `_check` does: this is where the time goes
        try:
            self.on_step()
        except AssertionError as error:
            raise self.fail(error) from None
        finally:
            self._looking = False
        self.steps += 1
        if self.steps > 200_000:
            raise self.fail(AssertionError("it goes on for ever"))
        number = self.random.random()
        if number < self.stalls:
            self.wait(lambda: False, self.random.choice((0.0006, 0.003, 0.006, 0.03)), STALLED)
        elif number < self.stalls + self.switches:
            self._hand_over()

    def wait(
        self, ready: Callable[[], object], timeout_s: float | None = None, what: str = ""
    ) -> bool:
        """The current thread: block until `ready()` holds; False when it did not in time."""
        self._check()
        me = self.current
        me.ready = ready
        me.blocked_on = what
        # A little more: sums of floats must not stop short of the instant that is meant.
        me.deadline = None if timeout_s is None else self.now + timeout_s + 1e-9
        self._hand_over()
        me.ready = me.deadline = None
        me.blocked_on = ""
        return bool(ready())

    def _check(self) -> None:
        if self.failure is not None:
            raise Abandoned
        self._looking = True
        try:
            self.on_step()
        except AssertionError as error:
            raise self.fail(error) from None
        finally:
            self._looking = False

    def fail(self, error: BaseException) -> BaseException:
        """Remember the first failure, and return what ends the current thread."""
        if self.failure is None:
            self.failure = error
            for runner in self.runners:
                runner.ready = runner.deadline = None
        return Abandoned()

    def _hand_over(self) -> None:
        me = self.current
        try:
            chosen = self._choose()
        except AssertionError as error:
            self.fail(error)
            chosen = next(runner for runner in self.runners if not runner.done)
        if chosen is not me:
            self.current = chosen
            chosen.baton.release()
            if me.done:
                return
            if not me.baton.acquire(timeout=_STUCK_S):
                raise RuntimeError(f"{me} was never chosen again: {self.runners}")
        if self.failure is not None:
            raise Abandoned

    def _choose(self) -> Runner:
        while True:
            movable = [runner for runner in self.runners if runner.can_move(self.now)]
            if movable:
                return self.random.choice(movable)
            before = self.now
            self._looking = True
            try:
                self.on_quiet()
            finally:
                self._looking = False
            if any(runner.can_move(before) for runner in self.runners):
                continue
            deadlines = [r.deadline for r in self.runners if r.deadline is not None]
            if not deadlines:
                raise Deadlock(f"nobody can move: {self.runners}")
            self.now = max(self.now, min(deadlines))

    # -- Threads ---------------------------------------------------------------------------------

    def run(self, function: Callable[[], None]) -> None:
        """Run `function` as the first thread; raise what any thread found wrong."""
        previous = sys.gettrace()
        if self._files:
            sys.settrace(self._trace)
        try:
            function()
        except Abandoned:
            pass
        except BaseException as error:
            self.fail(error)
        finally:
            sys.settrace(previous)
            self._end()
        if self.failure is not None:
            raise self.failure

    def _end(self) -> None:
        """Wait for the other threads; after a failure they run into `Abandoned`."""
        while True:
            left = [runner for runner in self.runners[1:] if not runner.done]
            if not left:
                return
            try:
                self.wait(lambda: all(runner.done for runner in self.runners[1:]), None, "end")
            except Abandoned:
                self._hand_over_quietly()

    def _hand_over_quietly(self) -> None:
        try:
            self._hand_over()
        except Abandoned:
            pass

    def spawn(self, name: str, function: Callable[[], None]) -> Runner:
        """Start a thread; it moves when it is chosen."""
        runner = Runner(name)

        def live() -> None:
            if not runner.baton.acquire(timeout=_STUCK_S):
                return
            if self._files:
                sys.settrace(self._trace)
            try:
                if self.failure is None:
                    function()
            except Abandoned:
                pass
            except BaseException as error:
                self.fail(error)
            finally:
                sys.settrace(None)
                runner.done = True
                self._hand_over_quietly()

        self.runners.append(runner)
        threading.Thread(target=live, name=name, daemon=True).start()
        return runner

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        if self._event == "opcode":
            frame.f_trace_opcodes = True
        return self._trace_line

    def _trace_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == self._event:
            self.step()
        if event == "line" and self.current.pending is not None:
            self.deliver(0.3)
        return self._trace_line

    def deliver(self, probability: float = 1.0) -> None:
        """Raise what is pending in the current thread, with a probability."""
        pending = self.current.pending
        if pending is not None and self.random.random() < probability:
            self.current.pending = None
            raise pending

    # -- What blocks -----------------------------------------------------------------------------

    def sleep(self, duration_s: float) -> None:
        self.wait(lambda: False, duration_s, "sleep")


class ScheduledLock:
    """`threading.Lock` as a context manager."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._held = False

    def __enter__(self) -> None:
        self._schedule.wait(lambda: not self._held, None, "lock")
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False
        self._schedule.step()


class ScheduledQueue:
    """`queue.SimpleQueue`."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        self._schedule.step()
        self.items.append(item)

    def get(self, timeout: float | None = None) -> Any:
        self._schedule.step()
        if not self._schedule.wait(lambda: self.items, timeout, f"get({timeout})"):
            raise Empty
        return self.items.popleft()


class ScheduledThread:
    """`threading.Thread` with what the crew uses of it."""

    def __init__(self, schedule: Schedule, target: Any, args: Any, name: str) -> None:
        self._schedule = schedule
        self._target = target
        self._args = args
        self._name = name
        self.runner: Runner | None = None
        self.can_start = True

    def start(self) -> None:
        """Raises `RuntimeError` unless it `can_start`."""
        self._schedule.step()
        if not self.can_start:
            raise RuntimeError("can't start new thread")
        self.runner = self._schedule.spawn(self._name, lambda: self._target(*self._args))
        self._schedule.step()

    def join(self, timeout: float | None = None) -> None:
        runner = self.runner
        assert runner is not None
        self._schedule.wait(lambda: runner.done, timeout, f"join {runner.name}")
