"""One descriptor that the texts of all connections are written to.

The rule of this file: a line arrives whole, whoever else writes there: threads wait for each
other here, and what goes to a pipe goes in pieces that the system does not mix with those of
others (POSIX: PIPE_BUF). A reader that is gone or asleep costs text, never the server: a pager
that nobody turns, or a terminal that was stopped with Ctrl-S, is waited for once, and briefly.
"""

from __future__ import annotations

import os
import select
import threading

# At least 512 by POSIX, 4096 with Linux. What polls as writable takes this much at once.
_PIECE_BYTES = select.PIPE_BUF
_PATIENCE_S = 1.0


class Printer:
    """Writes whole texts at a time. Any thread."""

    def __init__(self, descriptor: int | None) -> None:
        """None, or a descriptor that fails: nothing is written."""
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._lost_lines = 0
        self._cut = False  # the last line that was written lacks its end

    def write(self, text: str) -> None:
        """Write lines. Where nobody reads them in time, the rest is lost, and counted."""
        data = text.encode("ascii")
        with self._lock:
            lost, start = self._lost_lines, 0
            if lost:
                note = f"* {lost} lines of the transcript are lost: nobody read them\n"
                data = b"\n" * self._cut + note.encode("ascii") + data
                start = len(note) + self._cut
            at = 0
            while at < len(data) and self._descriptor is not None:
                end = at + _PIECE_BYTES
                if end < len(data):
                    end = data.rfind(b"\n", at, end) + 1 or end
                patience_s = 0.0 if lost and not at else _PATIENCE_S
                written = self._write(data[at:end]) if self._wait(patience_s) else 0
                if not written:
                    self._lost_lines = data.count(b"\n", max(at, start)) + (0 if at else lost)
                    return
                at += written
                self._cut = data[at - 1 : at] != b"\n"
            self._lost_lines = 0

    def _wait(self, timeout_s: float) -> bool:
        """Is there room for a piece, within this time? True also where writing will fail."""
        poller = select.poll()
        try:
            poller.register(self._descriptor or 0, select.POLLOUT)
            return bool(poller.poll(timeout_s * 1000))
        except (OSError, ValueError):
            return True

    def _write(self, data: bytes) -> int:
        assert self._descriptor is not None
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # somebody else took the room
            return 0
        except (OSError, ValueError):  # its reader is gone
            self._descriptor = None
            return 0
