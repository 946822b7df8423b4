"""Start rawsgi and the servers it is compared with, and end them again.

The rule: every server is a process of its own on a free loopback port, in a process group of its
own under a guard (`guard`), and no way out of the tester leaves one running. What a server says
on stderr is kept in a temporary file: it explains a failed start.
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
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

from rawsgi.compare.servers.kinds import Kind, ServerError

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 6.0
_FOLDER: Final = Path(__file__).parent
_ROOT: Final = _FOLDER.parent.parent.parent
# Not `app.py:app`: that is the file, as it is for rawsgi. `py:app` is a module called py.
_PLAIN_SPEC: Final = re.compile(r"(?!.*\.py:)[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_READY_REQUEST: Final = (
    b"GET /?rawsgi-ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
)


class Server:
    """One server process. Its methods belong to the thread that made it; `address` to any.

    probed: it runs the probe application, so the settings that the user has for rawsgi are not
    for it.
    """

    def __init__(
        self, name: str, kind: Kind | None, app: str, app_dir: str = ".", *, probed: bool = False
    ) -> None:
        self.name = name
        self.kind = kind
        self.version = kind.version() if kind else ""
        self.address: tuple[str, int] = (HOST, 0)
        self.command: list[str] = []
        self._app = app
        self._app_dir = app_dir
        self._probed = probed
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def start(self) -> None:
        """Start the process, without waiting until it serves."""
        assert self.kind is not None
        self.stop()
        self.address = (HOST, _find_free_port())
        environment = self._make_environment(self.kind.variables)
        app = self._app
        if not self.kind.any_spec and not _PLAIN_SPEC.fullmatch(app):
            environment["RAWSGI_COMPARE_APP"] = app
            app = "rawsgi.compare.servers.launch:app"
        self.command = self.kind.command(app, *self.address)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(_FOLDER / "guard.py"), *self.command],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            env=environment,
            start_new_session=True,
        )

    def _make_environment(self, left_out: Collection[str]) -> dict[str, str]:
        environment = {key: text for key, text in os.environ.items() if key not in left_out}
        if self._probed:
            # They are meant for the user's application, and name its log files and recordings.
            for key in [key for key in environment if key.startswith("RAWSGI_")]:
                del environment[key]
            environment["RAWSGI_CONFIG"] = os.devnull
        paths = [os.path.abspath(self._app_dir), str(_ROOT), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        # What an application takes out of a set must come in the same order everywhere.
        environment.setdefault("PYTHONHASHSEED", "0")
        return environment

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until a request is answered. Raises ServerError when it will not be."""
        deadline_s = time.monotonic() + timeout_s
        while not self._answers(deadline_s):
            if not self.is_alive():
                raise ServerError(f"{self.name} did not start: {self.explain()}")
            if time.monotonic() > deadline_s:
                raise ServerError(
                    f"{self.name} did not answer within {timeout_s:.0f} s: {self.explain()}"
                )
            time.sleep(0.03)

    def is_alive(self) -> bool:
        """Say whether the process runs (of a server that we did not start: True)."""
        return self.kind is None or (self._process is not None and self._process.poll() is None)

    def restart(self) -> None:
        """Start again after a crash. Raises ServerError."""
        self.start()
        self.wait_ready()

    def ask_to_stop(self) -> None:
        """Tell the guard to end everything; stop() then has less to wait for."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def stop(self) -> None:
        """End the process and all that it started, and wait for it."""
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._output is not None:
            self._output.close()
            self._output = None

    def _answers(self, deadline_s: float) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(self.address, 1) as connection:
            # The application may be slow at its first request; the process may die meanwhile.
            connection.settimeout(1)
            connection.sendall(_READY_REQUEST)
            while time.monotonic() < deadline_s and self.is_alive():
                try:
                    return bool(connection.recv(65536))
                except TimeoutError:
                    continue
        return False

    def explain(self) -> str:
        """Return the last telling line that the server wrote."""
        if self._output is None:
            return "it says nothing"
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 20000))
        lines = self._output.read().decode("utf-8", "replace").splitlines()
        said = [line.strip() for line in lines if line.strip()]
        errors = [line for line in said if re.match(r"[\w.]*(Error|Exception)\b", line)]
        last = (errors or said or ["it says nothing"])[-1]
        return last[:300]


def running_server(url: str) -> Server:
    """Make a Server of one that runs already (`--against URL`). Raises ServerError."""
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    try:
        port = parts.port or 80
    except ValueError as error:
        raise ServerError(f"--against {url}: {error}") from error
    if parts.scheme != "http" or not parts.hostname:
        raise ServerError(f"--against {url}: it must be http://HOST[:PORT], without TLS")
    server = Server(f"{parts.hostname}:{port}", None, "")
    server.address = (parts.hostname, port)
    return server


def stop_servers(servers: Iterable[Server]) -> None:
    """End all of them, at the same time."""
    stopping = list(servers)
    for server in stopping:
        server.ask_to_stop()
    for server in stopping:
        server.stop()


def name_servers(names: Sequence[str]) -> list[str]:
    """Make the names different: the second "python" becomes "python-2"."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return result


def _find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port
