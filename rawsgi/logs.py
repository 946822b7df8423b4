"""Access lines to standard output, errors to standard error; nobody outside can forge a line.

A request costs one call to `AccessLog.write`, which formats and appends; the loop flushes what
has gathered before it waits. Standard output may be slow, full or gone: the log gives up lines,
then itself, never the server. Errors go through `logging`, where a record begins at column 0 and
continues indented, so that text inside a record cannot pass for another record.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import select
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("rawsgi.error")
"""Errors of the server and tracebacks of applications. Any thread."""

# What bounds the memory: lines that wait while standard output takes none, the length of a line,
# of one text from the wire in it, and how many pairs of Referer and User-Agent are remembered.
WAITING_LINES_LIMIT = 4096
LINE_LIMIT = 4096
TEXT_LIMIT = 1024
TAILS_LIMIT = 512
# Lines that are joined at a time: what is half written stays small.
BATCH_LINES = 256
# POSIX: a pipe that polls as writable takes this much at once without blocking, and writes of
# at most this much do not interleave with those of other processes.
PIPE_BYTES = 4096

_UNSAFE = re.compile(r"[^ !#-\[\]-~]")
# In the error log non-ASCII text may stay as it is: only what steers a terminal or ends a line.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


class HasLogLevel(Protocol):
    """What `configure_logging` needs of the settings."""

    @property
    def log_level(self) -> str: ...


def escape(text: str | bytes) -> str:
    """Text from the wire for a log: control, quote, backslash and non-ASCII bytes as \\xHH."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(_escape_match, text)


def _escape_match(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{{{code:X}}}"


def wants_colour(descriptor: int) -> bool:
    """Colour at a terminal only; NO_COLOR and TERM=dumb forbid it, FORCE_COLOR asks for it."""
    if os.environ.get("NO_COLOR"):
        return False
    if force := os.environ.get("FORCE_COLOR"):
        return force != "0"
    return os.environ.get("TERM") != "dumb" and os.isatty(descriptor)


class AccessLog:
    """Combined log format with the duration at its end; to standard output, or to a file.

    Fields and their owners: `_lines` is appended to by any thread and emptied by the flusher;
    `_stamp` is replaced whole by any thread; `_tails` is a cache, from texts to a pure function of
    them, that any thread fills; `_lost` belongs to who holds `_counting`, and `_unwritten` and
    the rest to who holds `_flushing`.
    """

    __slots__ = (
        "_clock",
        "_coloured",
        "_counting",
        "_descriptor",
        "_failing",
        "_flushing",
        "_lines",
        "_lost",
        "_owned",
        "_path",
        "_poller",
        "_stamp",
        "_stopped",
        "_tails",
        "_unwritten",
    )

    def __init__(
        self,
        descriptor: int = 1,
        *,
        path: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Write to `descriptor`, which stays the caller's, or append to the file `path`.

        Raises OSError when the file cannot be opened.
        """
        # The application may change the current folder before the file is opened anew.
        self._path = path if not path or os.path.isabs(path) else os.path.join(os.getcwd(), path)
        self._descriptor = descriptor if self._path is None else _open_for_append(self._path)
        self._owned = path is not None
        self._clock = clock
        self._coloured = wants_colour(self._descriptor)
        self._poller = _make_poller(self._descriptor)
        self._lines: list[str] = []
        self._stamp = (-1, "")
        self._tails: dict[tuple[str, str], str] = {}
        self._unwritten = b""
        self._stopped = False
        self._failing = False
        self._lost = 0
        self._counting = threading.Lock()
        self._flushing = threading.Lock()

    def write(
        self,
        remote: str,
        method: str,
        target: str,
        version: str,
        status: int,
        sent_bytes: int,
        duration_s: float,
        referer: str,
        user_agent: str,
    ) -> None:
        """Keep one line for the next flush. Any thread; never waits, never raises for any text."""
        now = int(self._clock())
        second, stamp = self._stamp
        if now != second:
            stamp = format_time(now)
            self._stamp = (now, stamp)  # one store: a reader sees the old pair or the new one
        tail = self._tails.get((referer, user_agent)) or self._make_tail(referer, user_agent)
        if self._coloured or not target or _UNSAFE.search(f"{remote}{method}{target}{version}"):
            line = self._format_with_care(
                remote, stamp, (method, target, version), status, sent_bytes, tail, duration_s
            )
        else:
            line = (
                f'{remote or "-"} - - [{stamp}] "{method} {target} {version}" {status} {sent_bytes}'
                f" {tail} {duration_s:.6f}"
            )
        if len(self._lines) < WAITING_LINES_LIMIT:
            self._lines.append(line if len(line) <= LINE_LIMIT else _cut(line, LINE_LIMIT))
        else:
            with self._counting:
                self._lost += 1

    def _make_tail(self, referer: str, user_agent: str) -> str:
        """`"referer" "agent"`. The same browser comes again: what is not long is remembered."""
        parts = (f'"{_cut(escape(text), TEXT_LIMIT) or "-"}"' for text in (referer, user_agent))
        tail = " ".join(parts)
        if len(referer) + len(user_agent) <= TEXT_LIMIT:
            if len(self._tails) >= TAILS_LIMIT:
                self._tails.clear()
            self._tails[referer, user_agent] = tail
        return tail

    def _format_with_care(
        self,
        remote: str,
        stamp: str,
        start: tuple[str, str, str],
        status: int,
        sent_bytes: int,
        tail: str,
        duration_s: float,
    ) -> str:
        """The same line where something must be escaped, is missing, or is coloured."""
        remote = _cut(escape(remote), TEXT_LIMIT) or "-"
        method, target, version = (_cut(escape(text), 2 * TEXT_LIMIT) for text in start)
        # A refused request may have none of the three.
        request = f"{method} {target} {version}" if target else f"{method} {version}".strip() or "-"
        shown = _colour_status(status) if self._coloured else str(status)
        return f'{remote} - - [{stamp}] "{request}" {shown} {sent_bytes} {tail} {duration_s:.6f}'

    def flush(self, wait_s: float = 0.0) -> bool:
        """Write what has gathered; True when nothing is left. Any thread, one at a time.

        Does not wait for a slow reader unless `wait_s` says how long it may, as at the end.
        """
        if not self._lines and not self._unwritten:
            return True
        if not self._flushing.acquire(blocking=False):
            return False
        deadline = time.monotonic() + wait_s if wait_s else 0.0
        try:
            while not self._stopped:
                if not self._unwritten:
                    self._unwritten = self._gather()
                    if not self._unwritten:
                        return True
                if not self._write_some(deadline):
                    return False
            self._lines.clear()
            return True
        finally:
            self._flushing.release()

    def _gather(self) -> bytes:
        """Take lines from the front. What others append meanwhile, at the end, is not touched."""
        lines = self._lines
        taken = lines[:BATCH_LINES]
        if not taken:
            return b""
        del lines[: len(taken)]
        taken.append("")
        return "\n".join(taken).encode("ascii")

    def _write_some(self, deadline: float) -> bool:
        """One write; False when standard output takes nothing now, or until `deadline`."""
        data = self._unwritten
        if self._poller is not None:
            # An error or a hang-up counts as ready: the write that follows learns which it is.
            wait_s = max(deadline - time.monotonic(), 0.0) if deadline else 0.0
            if not self._poller.poll(wait_s * 1000):
                return False
            if len(data) > PIPE_BYTES:  # whole lines, if they fit
                data = data[: data.rfind(b"\n", 0, PIPE_BYTES) + 1 or PIPE_BYTES]
        try:
            written = os.write(self._descriptor, data)
        except BlockingIOError:  # another process filled the pipe after the poll
            return False
        except OSError as error:
            self._give_up(error)
            return True
        self._unwritten = self._unwritten[written:]
        if self._failing or self._lost:
            self._report_recovery()
        return True

    def _give_up(self, error: OSError) -> None:
        """A reader that is gone ends the log; anything else (a full disk) costs these lines."""
        lines = self._unwritten.count(b"\n")
        self._unwritten = b""
        if error.errno in (errno.EPIPE, errno.EBADF, errno.ECONNRESET):
            self._stopped = True
            if error.errno == errno.EBADF:
                self._owned = False  # somebody closed it: the number may be another's by now
            self._lines.clear()
            log.warning("access log stopped: its output was closed")
            return
        with self._counting:
            self._lost += lines
        if not self._failing:
            self._failing = True
            log.error("access log cannot be written, lines are lost: %s", error.strerror)

    def _report_recovery(self) -> None:
        with self._counting:
            lost, self._lost = self._lost, 0
        self._failing = False
        if lost:
            log.warning("access log: %d lines were lost", lost)

    def reopen(self) -> bool:
        """Open the file anew after it was moved away, or try a closed output again. Any thread.
        False: there is no file.

        The descriptor keeps its number, so that a flush in another thread writes to the old file
        or to the new one. Raises OSError when the file cannot be opened; the old one stays then.
        """
        self.flush()
        with self._flushing:
            if self._path is not None:
                fresh = _open_for_append(self._path)
                if not self._owned:
                    self._descriptor, self._owned = fresh, True
                    self._poller = _make_poller(fresh)
                else:
                    try:
                        os.dup2(fresh, self._descriptor, inheritable=False)
                    finally:
                        os.close(fresh)
            self._stopped = False
            return self._path is not None

    def close(self, wait_s: float = 1.0) -> None:
        """Write the rest, waiting so long for a slow reader; close a file of our own."""
        self.flush(wait_s)
        with self._flushing:
            if self._owned:
                self._owned = False
                os.close(self._descriptor)
            self._stopped = True
            self._lines.clear()


def format_time(seconds: int) -> str:
    """`10/Oct/2000:13:55:36 +0000` in local time. English months whatever the locale."""
    t = time.localtime(seconds)
    offset = t.tm_gmtoff // 60
    sign = "-" if offset < 0 else "+"
    hours, minutes = divmod(abs(offset), 60)
    return (
        f"{t.tm_mday:02d}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}:"
        f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} {sign}{hours:02d}{minutes:02d}"
    )


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _colour_status(status: int) -> str:
    colour = {2: "32", 3: "36", 4: "33", 5: "31"}.get(status // 100, "0")
    return f"\x1b[{colour}m{status}\x1b[0m"


def _open_for_append(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _make_poller(descriptor: int) -> select.poll | None:
    """For pipes, sockets and terminals, whose reader may stall; a file has none and needs none."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return None
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)):
        return None
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return poller


class _ErrorFormatter(logging.Formatter):
    """`2000-10-10 13:55:36 +0000 error: text`; further lines of the record are indented."""

    def __init__(self, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        text = _STEERING.sub(_escape_match, super().format(record)).replace("\n", "\n  ")
        moment = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(record.created))
        level = record.levelname.lower()
        if self._coloured:
            colour = "31" if record.levelno >= logging.ERROR else "33"
            level = level if record.levelno < logging.WARNING else f"\x1b[{colour}m{level}\x1b[0m"
        return f"{moment} {level}: {text}"


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Our own handler, told from those that others add to the logger."""


def configure_logging(settings: HasLogLevel) -> None:
    """Send the error log to standard error at the level of the settings.

    May be called again, and is after the application was imported: Django and others configure
    `logging` in a way that disables every logger that exists already. Main thread.
    """
    log.disabled = False
    log.propagate = False
    log.setLevel(settings.log_level.upper())
    for handler in log.handlers[:]:
        if isinstance(handler, _StderrHandler):
            log.removeHandler(handler)
    if sys.stderr is None:
        return
    handler = _StderrHandler(sys.stderr)
    try:
        coloured = wants_colour(sys.stderr.fileno())
    except (OSError, ValueError):  # a replaced stream need not have a descriptor
        coloured = False
    handler.setFormatter(_ErrorFormatter(coloured))
    log.addHandler(handler)
