"""A real server process for the tests to talk to, and a small client that shares no code with it.

Why it exists: what a person starts is a process, so that is what the tests start.
Its rule: `serve` leaves nothing behind. On the way out the server is asked to stop, has to exit
with 0, has to have left no process of its group, and has to have written no warning about a
file or socket that it forgot to close.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent

START_LINE = re.compile(r"(http://[^\s]+|unix:[^\s]+)")
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 40.0  # more than the graceful timeout
ANSWER_TIMEOUT_S = 10.0
QUIET_S = 0.3


def wait_until(condition: Callable[[], object], timeout_s: float = ANSWER_TIMEOUT_S) -> None:
    """Return once `condition` holds; AssertionError when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {condition}")
        time.sleep(0.005)


class Response:
    """One response, read from a socket by its own framing."""

    def __init__(self, status: int, reason: str, fields: list[tuple[str, str]]) -> None:
        self.status = status
        self.reason = reason
        self.fields = fields
        self.content = b""
        self.chunks: list[bytes] = []
        """The chunks as they were framed, when the content came chunked."""

    def field(self, name: str) -> str | None:
        """Return the value of a field that may come once."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def values(self, name: str) -> list[str]:
        """Return all values of a field."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    @property
    def text(self) -> str:
        """The content as UTF-8."""
        return self.content.decode()


class Reader:
    """Reads responses off one connection, one after the other."""

    def __init__(self, connection: socket.socket) -> None:
        self.file: BinaryIO = connection.makefile("rb")

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read_response(self, method: str = "GET") -> Response:
        """Return the next response; interim ones are passed over. EOFError at the end."""
        while True:
            response = self._read_head()
            if response.status >= 200:
                break
        if method == "HEAD" or response.status in (204, 304):
            return response
        if (response.field("Transfer-Encoding") or "").lower() == "chunked":
            while chunk := self._read_chunk():
                response.chunks.append(chunk)
            response.content = b"".join(response.chunks)
            return response
        length = response.field("Content-Length")
        if length is None:
            response.content = self.file.read()
            return response
        response.content = self.file.read(int(length))
        assert len(response.content) == int(length), "the content was cut"
        return response

    def _read_line(self) -> str:
        line = self.file.readline()
        if not line:
            raise EOFError("the connection was closed")
        assert line.endswith(b"\r\n"), f"a line of the head without its end: {line!r}"
        return line[:-2].decode("latin-1")

    def _read_head(self) -> Response:
        version, status, reason = self._read_line().split(" ", 2)
        assert version == "HTTP/1.1", version
        fields = []
        while line := self._read_line():
            name, colon, value = line.partition(":")
            assert colon, line
            fields.append((name, value.strip(" \t")))
        return Response(int(status), reason, fields)

    def _read_chunk(self) -> bytes:
        size = int(self._read_line().partition(";")[0], 16)
        chunk = self.file.read(size)
        assert len(chunk) == size, "the chunk was cut"
        assert self._read_line() == "", "a chunk is followed by an empty line"
        return chunk


class Server:
    """A running `python -m rawsgi`."""

    def __init__(self, process: subprocess.Popen[bytes], output: BinaryIO, errors: BinaryIO):
        self.process = process
        self.pid = process.pid
        self.url = ""
        self.host = ""
        self.port = 0
        self.path = ""
        """Of the Unix socket, where there is one."""
        self._output = output
        self._errors = errors

    def wait_for_start(self) -> None:
        """Return when the start line is there; AssertionError with the errors when it is not."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            exited = self.process.poll()
            text = self.stderr()
            # The last line may still be on its way.
            found = START_LINE.search(text[: text.rfind("\n") + 1])
            if found:
                break
            if exited is not None or time.monotonic() > deadline:
                why = "no start line" if exited is None else f"exited with {exited}"
                raise AssertionError(f"{why}; it wrote:\n{text}")
            time.sleep(0.01)
        self.url = found[1].rstrip("/")
        if self.url.startswith("unix:"):
            self.path = self.url.removeprefix("unix:")
            return
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        self.host, self.port = host.strip("[]"), int(port)

    def connect(self, timeout_s: float = ANSWER_TIMEOUT_S) -> socket.socket:
        """Return a connected socket with a timeout. The caller closes it."""
        if not self.path:
            return socket.create_connection((self.host, self.port), timeout=timeout_s)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout_s)
        connection.connect(self.path)
        return connection

    def exchange(self, data: bytes, *, quiet_s: float = QUIET_S) -> bytes:
        """Send `data` on a new connection and return what comes back.

        Our side stays open. Reads until the server closes, or has been quiet for `quiet_s`
        after its first byte.
        """
        received = bytearray()
        with self.connect() as connection:
            # The server may refuse and close while we still send; what it said matters more.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(data)
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while block := connection.recv(65536):
                    received += block
                    connection.settimeout(quiet_s)
        return bytes(received)

    def request(
        self,
        method: str,
        target: str,
        content: bytes | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Response:
        """Send one request on a connection of its own and return the response."""
        lines = [f"{method} {target} HTTP/1.1", "Host: a.example", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in (fields or {}).items()]
        if content is not None:
            lines.append(f"Content-Length: {len(content)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        with self.connect() as connection, Reader(connection) as reader:
            connection.sendall(head + (content or b""))
            response = reader.read_response(method)
            assert reader.file.read() == b"", "more than one response"
        return response

    def stdout(self) -> str:
        """Return what the server has written to its standard output so far."""
        return _read_whole(self._output)

    def stderr(self) -> str:
        """Return what the server has written to its standard error so far."""
        return _read_whole(self._errors)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Send SIGTERM, wait, and return the exit code. Harmless when it has exited."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there {timeout_s} s after SIGTERM") from None


@contextlib.contextmanager
def serve(
    application: str,
    *flags: str,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    exit_code: int = 0,
    application_leaks: bool = False,
) -> Iterator[Server]:
    """Run `rawsgi APPLICATION` on a free port of the loopback interface.

    `--bind` among the flags takes the place of that port. `env` is added to the environment.
    `exit_code` is what the server has to exit with. `application_leaks`: the application, and
    not the server, is known to leave open files to the garbage collector.
    """
    command = [sys.executable, "-W", "default::ResourceWarning", "-m", "rawsgi", application]
    if "--bind" not in flags:
        command += ["--host", "127.0.0.1", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
    # The checkout is what is tested, wherever the server is started.
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), environment.get("PYTHONPATH")])
    )
    environment.pop("PORT", None)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, *flags],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,  # a group of its own, so that leftovers can be found
        )
        server = Server(process, output, errors)
        try:
            server.wait_for_start()
            yield server
            assert server.stop() == exit_code, f"it exited with {process.returncode}"
            _check_group_is_gone(server.pid)
            if not application_leaks:
                assert "ResourceWarning" not in server.stderr(), "it forgot to close something"
        except BaseException as error:
            error.add_note(f"--- the server's stderr:\n{server.stderr()[-8000:]}")
            raise
        finally:
            # The group keeps its number as long as any process is in it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            process.wait()


def _read_whole(file: BinaryIO) -> str:
    """Read without moving the position at which the server writes."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode("utf-8", "backslashreplace")


def _check_group_is_gone(group: int) -> None:
    """Assert that no process of the group is left; end it if there is."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
    raise AssertionError("the server left a process behind")
