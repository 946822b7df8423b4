"""An exception raised in a thread by another one, where Python can do that.

The rule of this file: it knows of threads, and of no request; whoever interrupts sees to it that
the thread has not begun something else meanwhile (see `overtime`).
"""

from __future__ import annotations

import threading
from typing import Any


class RequestTimeout(BaseException):
    """Raised in a thread whose request was answered with a 504; not for `except Exception`."""

    is_logged = True
    """The log has told of the request already, with the thread's stack."""


def prepare() -> None:
    """Load what interrupting takes: at the moment of a timeout it would take too long."""
    try:
        import ctypes  # noqa: F401  # here, since few need it, and some builds have none
    except ImportError:
        pass


def interrupt(ident: int) -> None:
    """Raise `RequestTimeout` in the thread `ident`, as soon as it runs Python code again."""
    _set_async_exception(ident, RequestTimeout)


def absorb_interruption() -> None:
    """Take back what `interrupt` has not raised yet in the calling thread."""
    _set_async_exception(threading.get_ident(), None)


def _set_async_exception(ident: int, exception: type[BaseException] | None) -> None:
    try:
        import ctypes
    except ImportError:
        return
    raise_in_thread: Any = ctypes.pythonapi.PyThreadState_SetAsyncExc
    argument = None if exception is None else ctypes.py_object(exception)
    raise_in_thread(ctypes.c_ulong(ident), argument)
