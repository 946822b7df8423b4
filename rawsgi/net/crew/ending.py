"""How a process ends when it is not the worker that ends it. From any thread, at once."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from rawsgi.logs import log

EXIT_BROKEN = 70
"""Exit status of a process whose loop cannot go on (EX_SOFTWARE of sysexits.h)."""


def end_process() -> None:
    """The loop is broken, and perhaps the main thread is stuck."""
    os._exit(EXIT_BROKEN)


def end_child() -> NoReturn:
    """A child that the application forked has come back from it: a second server it is not."""
    log.warning("a child that the application forked came back from it: it ends (use os._exit)")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)
