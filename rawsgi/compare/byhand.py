"""`rawsgi by-hand`: being an HTTP server by hand.

It shows a client's request as it arrives (`arriving`) and sends the answer that a person types
(`typed`). The rule: all bytes come from the person; this program waits, tells, and closes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import select
import socket
import sys
import time
from collections import deque
from typing import Final, NoReturn

from rawsgi.compare.arriving import ArrivingRequest, Screen
from rawsgi.compare.typed import TypedAnswer

FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130

_KEYBOARD: Final = 0
_BLOCK_BYTES: Final = 65536
_WAITING_LINES: Final = 1000
_LINGER_S: Final = 2.0
_RESET_MS: Final = 50
_DESCRIPTION: Final = """\
Be an HTTP server by hand. Start it, point a client at it, and type the answer line by line: each
line is sent at once, with CR LF. A line with only a dot, or Ctrl-D, ends the answer and closes
the connection.
"""


class UsageError(Exception):
    """The command line is wrong. The message is for the user."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


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
            elif self._keyboard.wait(None if self._hears_nothing else self._client):
                self._receive()
        if self._keyboard.is_terminal:
            self._keyboard.lines.clear()  # they were meant for this client

    def _begin(self) -> None:
        self._request = ArrivingRequest(self._screen)
        self._answer: TypedAnswer | None = None

    # -- From the client --------------------------------------------------------------------------

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
        if request.complete:
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


def main(argv: list[str]) -> int:
    """Run `rawsgi by-hand` with the arguments after it; return the exit status."""
    try:
        arguments = make_parser().parse_args(argv)
    except SystemExit as error:
        return int(error.code or 0)
    except UsageError as error:
        print(f"rawsgi by-hand: {error}", file=sys.stderr)
        return MISUSED
    where = f"{arguments.host} port {arguments.listen}"
    try:
        family = socket.AF_INET6 if ":" in arguments.host else socket.AF_INET
        listener = socket.create_server((arguments.host, arguments.listen), family=family)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]  # the address once more
        print(f"rawsgi by-hand: cannot listen at {where}: {why}", file=sys.stderr)
        return FAILED
    try:
        with listener:
            _serve_clients(listener, arguments.once)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads what is shown; Python must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments after "by-hand"."""
    parser = _Parser(
        prog="rawsgi by-hand",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--listen", metavar="PORT", type=_read_port, default=8080, help="0: a free one [8080]"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address [127.0.0.1]")
    parser.add_argument("--once", action="store_true", help="stop after the first client")
    return parser


def _read_port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number from 0 to 65535")
    return int(text)


def _serve_clients(listener: socket.socket, once: bool) -> None:
    screen, keyboard = Screen(), Keyboard()
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    screen.write(f"You are the server at {url} (Ctrl-C to stop). Try: curl -v {url}/")
    while not keyboard.take_end():
        if not keyboard.wait(listener):
            if keyboard.is_terminal and keyboard.lines:
                keyboard.lines.clear()
                screen.tell("*", "No client is there yet: this was not sent.")
            continue
        client, _ = listener.accept()
        with client:
            screen.write("\nA client has connected.")
            Conversation(client, keyboard, screen).run()
        if once:
            return
        screen.tell("*", "Waiting for the next client.")
