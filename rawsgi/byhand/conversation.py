"""One client of a person's, from its first request to the end of the connection.

The rule of this file: a line that is typed goes to the client at once, right or wrong.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import Final

from rawsgi.byhand.arriving import ArrivingRequest
from rawsgi.byhand.keyboard import Keyboard
from rawsgi.byhand.screen import Screen
from rawsgi.byhand.typed import TypedAnswer

_BLOCK_BYTES: Final = 65536
_WAITING_BYTES: Final = 1 << 20
_LINGER_S: Final = 2.0
_RESET_MS: Final = 50


class Conversation:
    """One client, from its first request to the end of the connection."""

    def __init__(self, client: socket.socket, keyboard: Keyboard, screen: Screen) -> None:
        self._client = client
        self._keyboard = keyboard
        self._screen = screen
        self._tell = screen.tell
        self._open = True
        self._hears_nothing = False  # the client has ended its side
        self._answered = False  # one answer at least
        self._begin()

    def run(self) -> None:
        """Show, wait, send, until one of both has closed."""
        while self._open:
            if self._keyboard.take_end():
                self._finish()
            elif self._keyboard.lines and self._may_take_line():
                self._take_line(*self._keyboard.lines.popleft())
            elif self._keyboard.wait(self._client if self._may_hear() else None):
                self._receive()
        if self._keyboard.is_terminal:
            self._keyboard.lines.clear()  # they were meant for this client

    def _begin(self) -> None:
        self._request = ArrivingRequest(self._screen)
        self._answer: TypedAnswer | None = None

    # -- From the client --------------------------------------------------------------------------

    def _may_hear(self) -> bool:
        """What is sent before its time waits: here up to a limit, then where it comes from."""
        waiting = len(self._request.buffer) if self._request.complete else 0
        return not self._hears_nothing and waiting < _WAITING_BYTES

    def _receive(self) -> None:
        try:
            data = self._client.recv(_BLOCK_BYTES)
        except OSError:
            return self._lose_client()
        if data:
            return self._read(data)
        self._hears_nothing = True
        if not self._request.began:
            self._tell("*", "The client has closed the connection.")
            self._open = False
        elif self._request.complete:
            self._tell("*", "The client has closed its side. Perhaps it has gone.")
        else:
            self._tell("!", "The client has closed its side in the middle of its request.")

    def _read(self, data: bytes) -> None:
        request = self._request
        asked, complete = request.asks_first, request.complete
        if complete:
            request.buffer += data
            self._tell("*", "More bytes have come. They are shown when this answer is complete.")
            return
        request.feed(data)
        if len(request.buffer) > _WAITING_BYTES and not request.complete:
            self._tell("!", f"A line of more than {_WAITING_BYTES:,} bytes: nobody reads on.")
            self._finish()
        elif request.complete:
            self._tell("*", "The request is complete. The client waits for an answer.")
            if self._answer is None or not self._answer.began:
                self._tell("*", "Begin with the status-line, such as: HTTP/1.1 200 OK")
        elif request.asks_first and not asked:
            self._tell("*", "The client asks before it sends its content. Yes is two lines:")
            self._tell("*", "HTTP/1.1 100 Continue, and an empty one. Or give a final answer.")

    def _lose_client(self) -> None:
        self._tell("!", "The client has gone: it gets no more of what you type.")
        self._open = False

    # -- From the person --------------------------------------------------------------------------

    def _may_take_line(self) -> bool:
        """A person may answer at any time; lines from a pipe wait until it is their turn."""
        line = self._keyboard.lines[0][0]
        if self._keyboard.is_terminal or self._hears_nothing or self._request.complete:
            return True
        if self._request.asks_first and not (self._answer and self._answer.interim):
            return True
        return self._answered and not self._request.began and not line.startswith(b"HTTP/")

    def _take_line(self, line: bytes, end: bytes) -> None:
        if line == b".":
            return self._finish()
        if not self._request.began:
            return self._take_surplus(line, end)
        if self._answer is None:
            self._answer = TypedAnswer(self._request.method, self._request.version, self._tell)
        if not (self._request.complete or self._answer.began or self._request.asks_first):
            self._tell("*", "You answer before the request is complete.")
        if self._send(self._answer.take(line, end)) and self._answer.complete:
            self._end_answer()

    def _take_surplus(self, line: bytes, end: bytes) -> None:
        if self._answered and line and not line.startswith(b"HTTP/"):
            self._tell("!", "The answer was complete before this line: the client did not expect")
            self._tell("!", "it, and takes it for the beginning of the next answer.")
            self._send(line + end)
        else:
            self._tell("*", "No request is waiting: this line was not sent.")

    def _send(self, data: bytes) -> bool:
        try:
            self._client.sendall(data)
            failed = self._hears_nothing and self._is_reset()
        except OSError:
            failed = True
        if failed:
            self._lose_client()
        return not failed

    def _is_reset(self) -> bool:
        """Whether a client that had ended its side has gone altogether: then it says so now."""
        watcher = select.poll()
        watcher.register(self._client, 0)  # errors are reported always
        watcher.poll(_RESET_MS)
        return bool(self._client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _end_answer(self) -> None:
        assert self._answer is not None
        why = ""
        if not self._request.complete:
            why = "the request was not complete"
        elif self._answer.closes:
            why = "the answer ends it"
        elif self._request.closes:
            why = "the client asked for it (close, or HTTP/1.0)"
        elif self._hears_nothing:
            why = "the client sends no more"
        if why:
            return self._close(f"The connection is closed: {why}.")
        self._tell("*", "The connection is kept for the next request; a dot closes it.")
        self._answered = True
        next_bytes = bytes(self._request.buffer)
        self._begin()
        if next_bytes:
            self._read(next_bytes)

    def _finish(self) -> None:
        if self._answer is not None:
            self._answer.finish()
        elif self._request.began:
            TypedAnswer(b"", b"", self._tell).finish()
        self._close("The connection is closed.")

    def _close(self, text: str) -> None:
        """Close so that the client gets all of the answer, even while it still sends."""
        self._open = False
        self._tell("*", text)
        unread = self._request.began and not self._request.complete
        deadline = time.monotonic() + (_LINGER_S if unread else 0.0)
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)
            while not self._hears_nothing:
                left = max(0.0, deadline - time.monotonic())
                if not select.select([self._client], [], [], left)[0]:
                    break
                self._hears_nothing = not self._client.recv(_BLOCK_BYTES)
