"""What a child process that the application forks must not have of the server.

Why it exists: such a child (multiprocessing, os.fork) begins with all that the worker has. With
the signals' descriptor its SIGTERM would be taken for the worker's, with the sockets it would
keep a port taken and a client waiting after the worker has closed them. Its rule: a child gives
all of it back before any other code runs in it, and the parent notices nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

_leavers: list[Callable[[], None]] = []


@contextlib.contextmanager
def left_by_children(leave: Callable[[], None]) -> Iterator[None]:
    """While it lasts, `leave` is called in each child that is forked, by its only thread."""
    _leavers.append(leave)
    try:
        yield
    finally:
        _leavers.remove(leave)


def _leave_all() -> None:
    for leave in _leavers:
        leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)
