"""A progress bar on stderr, at a terminal only.

The rule: what is piped or logged holds no trace of it.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Final, TextIO

_WIDTH: Final = 30
_PAUSE_S: Final = 0.1


class Progress:
    """Counts what is done and draws it. `advance` may be called from any thread."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._shown = self._stream.isatty()
        self._lock = threading.Lock()
        self._total = total
        self._done = 0
        self._drawn_s = 0.0

    def advance(self) -> None:
        """Count one more."""
        with self._lock:
            self._done += 1
            now = time.monotonic()
            if self._shown and now - self._drawn_s > _PAUSE_S:
                self._drawn_s = now
                self._draw()

    def clear(self) -> None:
        """Take the bar away."""
        with self._lock:
            if self._shown:
                self._stream.write("\r\x1b[K")
                self._stream.flush()

    def _draw(self) -> None:
        share = min(1.0, self._done / max(1, self._total))
        filled = round(share * _WIDTH)
        text = f"{'#' * filled}{'.' * (_WIDTH - filled)} {self._done} of {self._total}"
        if self._done >= self._total:
            text += ", looking twice at what differs"
        self._stream.write(f"\r{text}\x1b[K")
        self._stream.flush()
