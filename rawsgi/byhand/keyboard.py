"""Standard input, by line.

The rule of this file: waiting is for both, the keyboard and the client: whoever is first.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from typing import Final

_KEYBOARD: Final = 0
_BLOCK_BYTES: Final = 65536
_WAITING_LINES: Final = 1000


class Keyboard:
    """Standard input, by line. Lines wait here until they may be sent."""

    def __init__(self) -> None:
        self.lines: deque[tuple[bytes, bytes]] = deque()  # a line, and the end to send with it
        self.is_terminal = os.isatty(_KEYBOARD)
        self._partial = b""
        self._ended = False

    def wait(self, other: socket.socket | None) -> bool:
        """Wait for typed lines or for the socket; True: the socket has something."""
        watched: list[socket.socket | int] = [] if other is None else [other]
        if not self._ended and len(self.lines) < _WAITING_LINES:
            watched.append(_KEYBOARD)
        ready = select.select(watched, [], [])[0]
        if _KEYBOARD in ready:
            self._read()
        return other in ready

    def take_end(self) -> bool:
        """Whether the input ends here. At a terminal, Ctrl-D may be typed again later."""
        ended = self._ended and not self.lines
        self._ended = self._ended and not (ended and self.is_terminal)
        return ended

    def _read(self) -> None:
        data = os.read(_KEYBOARD, _BLOCK_BYTES)
        *lines, self._partial = (self._partial + data).split(b"\n")
        self.lines.extend((line.removesuffix(b"\r"), b"\r\n") for line in lines)
        if not data:
            self._ended = True
            if self._partial:
                self.lines.append((self._partial, b""))
            self._partial = b""
