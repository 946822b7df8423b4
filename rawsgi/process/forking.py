"""What a child process that the application forks must not have of the server.

Why it exists: such a child (multiprocessing, os.fork) begins with all that the worker has. With
the signals' descriptor its SIGTERM would be taken for the worker's, with the sockets it would
keep a port taken and a client waiting after the worker has closed them. Its rule: a child gives
all of it back before any other code runs in it, and the parent notices nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
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


_thread = threading.local()


def _hold_signals() -> None:
    """Until the child has left: one that comes before would be written to the worker's
    descriptor. The child begins with this thread's mask; signals to the worker take another."""
    if _leavers:
        _thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _release_signals() -> None:
    mask = _thread.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _leave_all() -> None:
    for leave in _leavers:
        leave()
    _release_signals()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_hold_signals, after_in_parent=_release_signals, after_in_child=_leave_all
    )
