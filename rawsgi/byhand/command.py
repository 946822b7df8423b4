"""`rawsgi by-hand`: being an HTTP server by hand.

It shows a client's request as it arrives and sends the answer that a person types. The rule of
this file: one client at a time, and whatever it does, the next one is waited for.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from typing import Final, NoReturn

from rawsgi.byhand.conversation import Conversation
from rawsgi.byhand.keyboard import Keyboard
from rawsgi.byhand.screen import Screen

FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130

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
    screen.write(f"You are the server at {url} (Ctrl-C to stop).")
    screen.write(f"Try in another terminal: curl -v {url}/")
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
