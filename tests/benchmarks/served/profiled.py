"""rawsgi in a process that can count its own calls and time them.

Reads lines on standard input: `start` sets a profile function in every thread, `stop` takes it
away and writes what was counted as one line of JSON to the file named by `RAWSGI_PROFILE`.
Nothing is measured before `start`, so that the same process gives the undisturbed cost first.

Rule: the time between two events belongs to the function that runs then, less what an event
itself costs, which `calibrate` finds out. A stretch of more than a millisecond is waiting (for
the network, for a turn, for the processor) and counts for nobody.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from types import FrameType
from typing import Any

FILE_VARIABLE = "RAWSGI_PROFILE"
SET_EVERYWHERE = "setprofile_all_threads"
"""The function of `threading` that Python has since 3.12."""

WAITING_NS = 1_000_000
CALIBRATION_CALLS = 20_000

Key = tuple[str, str, str]
"""Kind (`python` or `c`), file of the Python function that runs or calls, name."""


class Counter:
    """Calls, stretches and nanoseconds by function; one stack per thread."""

    def __init__(self) -> None:
        self.calls: dict[Key, int] = {}
        self.stretches: dict[Key, int] = {}
        self.nanoseconds: dict[Key, int] = {}
        self._local = threading.local()

    def observe(self, frame: FrameType, event: str, argument: Any) -> None:
        """A profile function (sys.setprofile). Any thread; keys are added by one at a time."""
        now = perf_counter_ns()
        local = self._local
        try:
            stack: list[Key] = local.stack
        except AttributeError:
            stack = local.stack = []
            local.last = now
        if stack:
            key = stack[-1]
            elapsed = now - local.last
            if elapsed < WAITING_NS:
                self.nanoseconds[key] = self.nanoseconds.get(key, 0) + elapsed
            self.stretches[key] = self.stretches.get(key, 0) + 1
        if event == "call":
            code = frame.f_code
            key = ("python", code.co_filename, code.co_qualname)
            self.calls[key] = self.calls.get(key, 0) + 1
            stack.append(key)
        elif event == "c_call":
            name = getattr(argument, "__qualname__", repr(argument))
            key = ("c", frame.f_code.co_filename, name)
            self.calls[key] = self.calls.get(key, 0) + 1
            stack.append(key)
        elif stack:
            stack.pop()
        local.last = perf_counter_ns()

    def as_rows(self) -> list[list[Any]]:
        """Kind, file, name, calls, stretches, nanoseconds."""
        return [
            [*key, calls, self.stretches.get(key, 0), self.nanoseconds.get(key, 0)]
            for key, calls in list(self.calls.items())
        ]


def _do_nothing() -> None:
    pass


def calibrate() -> float:
    """Nanoseconds that a stretch without any work appears to take."""
    counter = Counter()

    def repeat(function: Callable[[], object]) -> None:
        for _ in range(CALIBRATION_CALLS):
            function()

    sys.setprofile(counter.observe)
    repeat(_do_nothing)
    sys.setprofile(None)
    key = next(key for key in counter.calls if key[2] == _do_nothing.__qualname__)
    return counter.nanoseconds[key] / max(1, counter.stretches[key])


def _obey(path: Path) -> None:
    counter = Counter()
    overhead_ns = calibrate()
    set_everywhere = getattr(threading, SET_EVERYWHERE)
    for line in sys.stdin:
        if line.strip() == "start":
            set_everywhere(counter.observe)
        elif line.strip() == "stop":
            set_everywhere(None)
            document = {"overhead_ns": overhead_ns, "rows": counter.as_rows()}
            path.write_text(json.dumps(document) + "\n", encoding="utf-8")


def main() -> int:
    from rawsgi.cli import main as serve

    path = Path(os.environ[FILE_VARIABLE])
    threading.Thread(target=_obey, args=(path,), name="profile", daemon=True).start()
    return serve(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
