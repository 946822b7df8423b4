"""`rawsgi replay FILE... APP`: recorded requests, sent to the application in this very thread.

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
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any, BinaryIO

from rawsgi.config import RELAXATIONS, Settings, SettingsError
from rawsgi.logs import configure_logging
from rawsgi.protocol.head import HeadParser
from rawsgi.protocol.http1 import COMPLETE, HTTP1
from rawsgi.protocol.message import Limits, ProtocolError, Request
from rawsgi.protocol.response import Fields, Head, HeadEncoder
from rawsgi.version import VERSION
from rawsgi.wire.visible import show_bytes, show_text
from rawsgi.wsgi.environ import make_base
from rawsgi.wsgi.gateway import Application, Gateway
from rawsgi.wsgi.loading.application import find_application

EXIT_SERVER_ERROR = 1
"""The answer was a 5xx, or the request was refused."""

_NO_LIMIT = 1 << 40
# What the server accepted is not refused here, whatever its limits were: it is on the disk
# already, and there is nothing to protect from.
_LIMITS = Limits(
    request_line_bytes=_NO_LIMIT,
    fields=_NO_LIMIT,
    head_bytes=_NO_LIMIT,
    content_bytes=_NO_LIMIT,
    chunk_line_bytes=_NO_LIMIT,
)
# What stands beside a request in a recording.
_BESIDE = (".response", ".json")
_REQUEST = re.compile(r"\.request(\.cut)?$")


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

    @property
    def wants_content(self) -> bool:
        return self._protocol.wants_content

    def client_disconnected(self) -> bool:
        return False

    def encode_head(self, status: str, fields: Fields) -> Head:
        return self._protocol.encode_head(status, fields)

    def send_response(self, head: Head, content: bytes) -> None:
        data = self._protocol.send_head(head, None, content)
        self.head_sent = True
        self._write(data)

    def begin_response(self, head: Head, length: int | None, block: bytes) -> bool:
        data = self._protocol.send_head(head, length, block, ends=False)
        self.head_sent = True
        self._write(data)
        return self._protocol.wants_content

    def send_data(self, block: bytes) -> None:
        self._write(self._protocol.send_data(block))

    def send_end(self) -> None:
        self._write(self._protocol.send_end())

    def send_file(self, head: Head, file: Any, span: tuple[int, int]) -> bool:
        offset, count = span
        data = self._protocol.send_head(head, count)
        count = self._protocol.claim_data(count)
        self._protocol.send_end()
        self.head_sent = True
        self._write(data + (os.pread(file.fileno(), count, offset) if count else b""))
        return True

    def abort(self, reason: str) -> None:
        self.aborted = reason

    def absorb_timeout(self) -> None:
        """There is none: a request may take as long as it likes."""


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


def find_requests(texts: Sequence[str]) -> list[Path]:
    """The files that hold requests, given files of recordings, their names alone, or folders.

    Each once and in order, as `kept/*` names the three files of each. Raises `SettingsError`.
    """
    found: dict[Path, None] = {}
    for text in texts:
        path = Path(text)
        try:
            if not path.is_dir():
                found[_find_request(path)] = None
                continue
            inside = sorted(each for each in path.iterdir() if _REQUEST.search(each.name))
        except OSError as error:  # a folder that is closed to us, a name that is too long
            raise SettingsError(f"replay {text}: {error.strerror}") from None
        if not inside:
            raise SettingsError(f"replay {text}: there is no .request in this folder")
        found |= dict.fromkeys(inside)
    return list(found)


def _find_request(path: Path) -> Path:
    beside = path.suffix in _BESIDE
    if not beside and path.exists():
        return path
    base = path.with_suffix("") if beside else path
    for suffix in (".request", ".request.cut"):
        request = base.with_name(base.name + suffix)
        if request.exists():
            return request
    if path.exists():
        raise SettingsError(f"replay {path}: there is no {base.name}.request beside it")
    raise SettingsError(f"replay {path}: there is no such file")


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

    def look(self, failed: bool) -> None:
        """Stand in the frame where the exception of the last request came from."""
        error, self.error = self.error, None
        if failed and error is None:
            _tell("no exception was seen: did the framework swallow it?")
        if failed and error is not None and error.__traceback__ is not None:
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
        self.ends_line = True

    def write(self, data: bytes) -> None:
        if self._terminal:
            lines = data.replace(b"\r\n", b"\n").split(b"\n")
            data = b"\n".join(show_bytes(line).replace("\\\\", "\\").encode() for line in lines)
        self._stream.write(data)
        self.ends_line = data.endswith(b"\n") if data else self.ends_line

    def end(self) -> None:
        if self._terminal and not self.ends_line:
            self._stream.write(b"\n")
            self.ends_line = True
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
    protocol = HTTP1(HeadParser(_LIMITS, frozenset(allow)), encoder)
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
        description="Send recorded requests to an application, in this process and thread.",
        epilog="Exit status: 0; 1 if an answer is a 5xx or a request is refused; 2 for misuse.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "files", metavar="FILE", nargs="+",
        help="NAME.request, as `rawsgi --record` wrote it, or a folder of them",
    )  # fmt: skip
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
    if Path(arguments.application).suffix in (".request", ".cut", *_BESIDE):
        raise SettingsError("replay: the application is missing: rawsgi replay FILE... APP")
    if any(text.endswith(".py") and os.path.isfile(text) for text in arguments.files):
        raise SettingsError("replay: the application comes last: rawsgi replay FILE... APP")
    paths = find_requests(arguments.files)
    if len(paths) == 1 and str(paths[0]) != arguments.files[0]:
        _tell(f"this is {show_text(str(paths[0]))}")
    settings = Settings(application=arguments.application)
    configure_logging(settings)
    name, application = find_application(arguments.application, arguments.app_dir)
    configure_logging(settings)
    debugger = None
    if arguments.pdb:
        application = debugger = Debugger(application)
        debugger.listen()
    output = _Output(sys.stdout.buffer, sys.stdout.isatty())
    failed = 0
    for path in paths:
        label = f"{show_text(str(path))}: " if len(paths) > 1 else ""
        code = _replay_file(path, label, name, application, output, arguments.allow)
        failed += not 0 < code < 500
        if debugger is not None:
            debugger.look(code >= 500)
    if len(paths) > 1:
        _tell(f"{len(paths)} requests, {failed} failed" if failed else f"{len(paths)} requests")
    return EXIT_SERVER_ERROR if failed else 0


def _replay_file(
    path: Path, label: str, name: str, application: Application, output: _Output, allow: list[str]
) -> int:
    """Replay one file and tell what came of it; the worst status code, 0 if it was refused.

    Raises `SettingsError`."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"replay {path}: {error.strerror}") from None
    facts = read_facts(path)
    if path.suffix == ".cut":
        _tell(f"{label}not all of this request was kept: it cannot be complete")
    if facts.get("secrets_masked"):
        _tell(f"{label}a secret in it was masked when it was recorded (--wire-secrets keeps them)")
    try:
        codes = replay(raw, application, facts, output, tuple(allow))
    except ProtocolError as error:
        _end_content(output)
        _tell(f"{label}refused with {error}. {error.hint}".rstrip())
        return 0
    if not codes:
        _tell(f"{label}there is no request in it")
        return 0
    _end_content(output)
    _tell(label + _compare(name, codes, facts))
    return max(codes)


def _end_content(output: _Output) -> None:
    """The verdict stands on a line of its own, also where both outputs go to one place. Not a
    byte is added to the content itself."""
    if not output.ends_line:
        sys.stderr.write("\n")
        output.ends_line = True


def _compare(name: str, codes: list[int], facts: dict[str, Any]) -> str:
    text = f"{name} answered with {', '.join(map(str, codes))}"
    recorded = facts.get("status")
    if isinstance(recorded, int):
        text += "; so it did when it was recorded" if codes == [recorded] else (
            f"; when it was recorded, with {recorded}"
        )  # fmt: skip
    return text
