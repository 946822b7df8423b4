"""`rawsgi replay FILE APP`: a recorded request, sent to the application in this very thread.

No socket, no other thread: a `breakpoint()` in the application stops here, and `--pdb` looks at
the wreck of an exception. The rule of this file: the way through protocol and gateway is that of
the server; only what carries the bytes is missing.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import pdb
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any, BinaryIO

from rawsgi.config import RELAXATIONS, Settings, SettingsError
from rawsgi.logs import configure_logging
from rawsgi.protocol.head import HeadParser
from rawsgi.protocol.http1 import COMPLETE, HTTP1
from rawsgi.protocol.message import Limits, ProtocolError, Request
from rawsgi.protocol.response import Fields, HeadEncoder
from rawsgi.version import VERSION
from rawsgi.wire.secrets import is_secret
from rawsgi.wire.visible import show_bytes, show_text
from rawsgi.wsgi.application import find_application
from rawsgi.wsgi.environ import make_base
from rawsgi.wsgi.gateway import Application, Gateway

EXIT_SERVER_ERROR = 1
"""The answer was a 5xx, or the request was refused."""

_CONTENT_LIMIT_BYTES = 1 << 40  # it is on the disk already: nothing to protect from
_SUFFIXES = (".response", ".json", "")


class ReplayedExchange:
    """One request and its response, as the gateway sees it. One thread."""

    def __init__(
        self, protocol: HTTP1, request: Request, content: bytes, base: dict[str, Any],
        remote: tuple[str, str], write: Callable[[bytes], object],
    ) -> None:  # fmt: skip
        self.request = request
        self.base = base
        self.content = io.BytesIO(content)
        self.content_bytes: int | None = len(content)
        self.remote = remote
        self.head_sent = False
        self.aborted = ""
        self._protocol = protocol
        self._write = write
        self._head = b""

    @property
    def wants_content(self) -> bool:
        return self._protocol.wants_content

    def client_disconnected(self) -> bool:
        return False

    def send_response(self, status: str, fields: Fields, content: bytes) -> None:
        data = self._protocol.send_head(status, fields, None, content)
        self.head_sent = True
        self._write(data)

    def send_head(self, status: str, fields: Fields, length: int | None) -> None:
        self._head = self._protocol.send_head(status, fields, length)

    def send_data(self, block: bytes) -> None:
        self._send(self._protocol.send_data(block))

    def send_end(self) -> None:
        self._send(self._protocol.send_end())

    def send_file(
        self, status: str, fields: Fields, file: Any, span: tuple[int, int], close: Any
    ) -> None:
        offset, count = span
        self._head = self._protocol.send_head(status, fields, count)
        count = self._protocol.claim_data(count)
        self._protocol.send_end()
        self._send(os.pread(file.fileno(), count, offset) if count else b"")
        close()

    def abort(self, reason: str) -> None:
        self.aborted = reason

    def _send(self, data: bytes) -> None:
        if not self.head_sent:
            self.head_sent = True
            data = self._head + data
        self._write(data)


def read_requests(protocol: HTTP1, raw: bytes) -> Iterator[tuple[Request, bytes]]:
    """Yield the requests in `raw`, each with its content. Raises `ProtocolError`."""
    data = raw
    while True:
        request = protocol.receive(data)
        data = b""
        if request is None:
            protocol.receive_eof()
            return
        content = []
        if protocol.state != COMPLETE:
            content.append(protocol.receive_content(b""))
            if protocol.state != COMPLETE:
                protocol.receive_eof()
        yield request, b"".join(content)
        if not protocol.finish():
            return


def find_recording(path: Path) -> Path:
    """The file that holds the request, given any file of a recording, or its name alone."""
    if path.suffix in (".response", ".json") or not path.exists():
        base = path.with_suffix("") if path.suffix in (".response", ".json") else path
        for suffix in (".request", ".request.cut"):
            found = base.with_name(base.name + suffix)
            if found.exists():
                return found
    return path


def read_facts(path: Path) -> dict[str, Any]:
    """What the recorder noted beside the request; {} if there is nothing, or nothing readable."""
    name = path.name.removesuffix(".cut").removesuffix(".request")
    try:
        facts = json.loads(path.with_name(name + ".json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


class Debugger:
    """Remembers the exception that the application did not survive, to look at afterwards.

    Frameworks make a 500 of it and log it: so the log is listened to as well.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self.error: BaseException | None = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        try:
            return _Blocks(self._application(environ, start_response), self)
        except BaseException as error:
            self.error = error
            raise

    def listen(self) -> None:
        """Have every record of `logging` with an exception come here."""
        handler = logging.Handler()
        handler.emit = self._take_record  # type: ignore[method-assign]
        logging.getLogger().addHandler(handler)

    def _take_record(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None and self.error is None:
            self.error = record.exc_info[1]

    def look(self) -> None:
        """Stand in the frame where the exception came from."""
        error = self.error
        if error is not None and error.__traceback__ is not None:
            print(f"{type(error).__name__}: {show_text(str(error))}", file=sys.stderr)
            pdb.post_mortem(error.__traceback__)


class _Blocks:
    """An iterable of the application's that tells of exceptions."""

    def __init__(self, result: Any, debugger: Debugger) -> None:
        self._result = result
        self._debugger = debugger

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._result
        except BaseException as error:
            self._debugger.error = error
            raise

    def close(self) -> None:
        close = getattr(self._result, "close", None)
        if close is not None:
            close()


class _Output:
    """Standard output: raw bytes for a file or a pipe, at a terminal only what is harmless."""

    def __init__(self, stream: BinaryIO, terminal: bool) -> None:
        self._stream = stream
        self._terminal = terminal
        self._ends_line = True

    def write(self, data: bytes) -> None:
        if self._terminal:
            lines = data.replace(b"\r\n", b"\n").split(b"\n")
            data = b"\n".join(show_bytes(line).replace("\\\\", "\\").encode() for line in lines)
        self._stream.write(data)
        self._ends_line = data.endswith(b"\n") if data else self._ends_line

    def end(self) -> None:
        if self._terminal and not self._ends_line:
            self._stream.write(b"\n")
        self._stream.flush()


def replay(
    raw: bytes, application: Application, facts: dict[str, Any], output: _Output,
    allow: tuple[str, ...] = (),
) -> list[int]:  # fmt: skip
    """Send every request in `raw` to `application`; return the status codes of the answers.

    Raises `ProtocolError` where the bytes are no request that would be accepted.
    """
    encoder = HeadEncoder()
    encoder.date_line = f"Date: {formatdate(time.time(), usegmt=True)}\r\n".encode()
    limits = Limits(content_bytes=_CONTENT_LIMIT_BYTES)
    protocol = HTTP1(HeadParser(limits, frozenset(allow)), encoder)
    host, port = _read_address(facts.get("server"), ("127.0.0.1", "8000"))
    base = make_base(
        host, port, multithread=False, multiprocess=False, software=f"rawsgi/{VERSION}"
    )
    remote = _read_address(facts.get("remote"), ("127.0.0.1", "0"))
    gateway = Gateway(application)
    codes = []
    for request, content in read_requests(protocol, raw):
        exchange = ReplayedExchange(protocol, request, content, base, remote, output.write)
        gateway.run(exchange)
        output.end()
        codes.append(500 if exchange.aborted else protocol.code)
        for remark in protocol.remarks:
            _tell(show_text(remark))
        protocol.remarks.clear()
    return codes


def _read_address(value: Any, default: tuple[str, str]) -> tuple[str, str]:
    if isinstance(value, list) and len(value) == 2:
        return str(value[0]), str(value[1])
    return default


def _tell(text: str) -> None:
    sys.stderr.write(f"rawsgi replay: {text}\n")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rawsgi replay",
        description="Send a recorded request to an application, in this process and thread.",
        epilog="Exit status: 0; 1 if an answer is a 5xx or the request is refused; 2 for misuse.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="NAME.request, as `rawsgi --record` wrote it")
    parser.add_argument("application", metavar="APP", help="MODULE[:ATTR], or a .py file")
    parser.add_argument("--app-dir", metavar="DIR", default=".", help="look for the module here")
    parser.add_argument(
        "--pdb", action="store_true", help="after an exception, look at where it came from"
    )
    parser.add_argument(
        "--allow", metavar="NAME", action="append", default=[], choices=tuple(RELAXATIONS),
        help=f"relax one rule of HTTP; may be repeated: {', '.join(RELAXATIONS)}",
    )  # fmt: skip
    return parser


def main(argv: list[str]) -> int:
    """Run the command; the exit status. The main thread."""
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as exit:
        return int(exit.code or 0)
    path = find_recording(Path(arguments.file))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"replay {arguments.file}: {error.strerror}") from None
    facts = read_facts(path)
    settings = Settings(application=arguments.application)
    configure_logging(settings)
    name, application = find_application(arguments.application, arguments.app_dir)
    configure_logging(settings)
    if path.suffix == ".cut":
        _tell("not all of this request was kept: it cannot be complete")
    if facts.get("secrets_masked") and any(is_secret(line) for line in raw.splitlines()):
        _tell("a secret in it was masked when it was recorded (--wire-secrets keeps them)")
    debugger = None
    if arguments.pdb:
        application = debugger = Debugger(application)
        debugger.listen()
    output = _Output(sys.stdout.buffer, sys.stdout.isatty())
    try:
        codes = replay(raw, application, facts, output, tuple(arguments.allow))
    except ProtocolError as error:
        _tell(f"refused with {error}. {error.hint}".rstrip())
        return EXIT_SERVER_ERROR
    if not codes:
        _tell("there is no request in it")
        return EXIT_SERVER_ERROR
    _tell(_compare(name, codes, facts))
    if debugger is not None and max(codes) >= 500:
        if debugger.error is None:
            _tell("no exception was seen: did the framework swallow it?")
        debugger.look()
    return EXIT_SERVER_ERROR if max(codes) >= 500 else 0


def _compare(name: str, codes: list[int], facts: dict[str, Any]) -> str:
    text = f"{name} answered with {', '.join(map(str, codes))}"
    recorded = facts.get("status")
    if isinstance(recorded, int):
        text += "; so it did when it was recorded" if codes == [recorded] else (
            f"; when it was recorded, with {recorded}"
        )  # fmt: skip
    return text
