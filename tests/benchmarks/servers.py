"""Start and stop the servers under measurement, one process (tree) each.

Rule: every server runs with its own defaults and one worker process, its access log off.
Two things may differ from the defaults, because a workload is about them, and then they
differ for every server that has such a setting: the number of threads (where the
application sleeps) and the number of connections (where there are many).

A server is started anew for each round, on a core of its own where the machine has two, and
nothing else of the benchmark runs beside it: servers that stand idle still wake up, and a
fresh process in each round averages over memory layout and hash seeds, which a process
that lives through all rounds keeps.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks import readings

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
DESCRIPTORS = 30000
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


class ServerError(Exception):
    """A server did not start, or died under load; the text says what it wrote."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a server is asked to run. `None` leaves the server's own default."""

    application: str
    port: int
    threads: int | None = None
    connections: int | None = None
    options: tuple[str, ...] = ()
    """Further options, for rawsgi only."""


@dataclass(frozen=True, slots=True)
class Server:
    """One entry of the comparison."""

    name: str
    command: Callable[[Launch], list[str]]
    distribution: str | None = None
    """The package that must be installed; `None` for what this repository holds."""

    note: str = ""

    def version(self) -> str | None:
        """The installed version, `""` for our own, `None` when it is not installed."""
        if self.distribution is None:
            return ""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


@dataclass(slots=True)
class Running:
    """A server that has answered its first request."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def tree(self) -> list[int]:
        return readings.list_tree(self.process.pid)

    def output(self, limit_bytes: int = 2000) -> str:
        """The end of what the server wrote."""
        return self.log.read_bytes()[-limit_bytes:].decode("utf-8", "replace")


def _python(*words: str) -> list[str]:
    return [sys.executable, *words]


def _option(flag: str, value: int | None) -> list[str]:
    return [] if value is None else [flag, str(value)]


def _rawsgi(launch: Launch) -> list[str]:
    return [
        *_python("-m", "rawsgi", launch.application, "--host", HOST),
        *("--port", str(launch.port), "--no-access-log"),
        *_option("--threads", launch.threads),
        *_option("--connections", launch.connections),
        *launch.options,
    ]


def _floor(launch: Launch) -> list[str]:
    module = "tests.benchmarks.served.floor"
    return _python("-m", module, "--host", HOST, "--port", str(launch.port))


def _gunicorn(*worker: str) -> Callable[[Launch], list[str]]:
    def command(launch: Launch) -> list[str]:
        return [
            *_python("-m", "gunicorn", "--bind", f"{HOST}:{launch.port}", "--workers", "1"),
            *(*worker, *_option("--worker-connections", launch.connections)),
            *(_option("--threads", launch.threads) if "gthread" in worker else []),
            launch.application,
        ]

    return command


def _waitress(launch: Launch) -> list[str]:
    return [
        *_python("-m", "waitress", f"--listen={HOST}:{launch.port}"),
        *([] if launch.threads is None else [f"--threads={launch.threads}"]),
        # By default it uses select(), which ends at 1,024 descriptors.
        *(
            []
            if launch.connections is None
            else [f"--connection-limit={launch.connections}", "--asyncore-use-poll"]
        ),
        launch.application,
    ]


def _cheroot(launch: Launch) -> list[str]:
    return [
        *_python("-m", "cheroot", "--bind", f"{HOST}:{launch.port}"),
        *_option("--threads", launch.threads),
        launch.application,
    ]


def _granian(launch: Launch) -> list[str]:
    return [
        *_python("-m", "granian", "--interface", "wsgi", "--host", HOST),
        *("--port", str(launch.port), "--workers", "1"),
        *_option("--blocking-threads", launch.threads),
        launch.application,
    ]


def _uwsgi(launch: Launch) -> list[str]:
    binary = Path(sys.executable).with_name("uwsgi")
    found = str(binary) if binary.exists() else shutil.which("uwsgi") or "uwsgi"
    return [
        *(found, "--http-socket", f"{HOST}:{launch.port}", "--module", launch.application),
        *("--disable-logging", "--die-on-term", "--need-app"),
        *_option("--threads", launch.threads),
    ]


def _launcher(name: str) -> Callable[[Launch], list[str]]:
    def command(launch: Launch) -> list[str]:
        module = "tests.benchmarks.served.launchers"
        return _python("-m", module, name, launch.application, HOST, str(launch.port))

    return command


SERVERS = {
    server.name: server
    for server in (
        Server("rawsgi", _rawsgi),
        Server("floor", _floor, note="answers a constant; no server can cost less"),
        Server("granian", _granian, "granian", "Rust"),
        Server("bjoern", _launcher("bjoern"), "bjoern", "C, one thread"),
        Server("uwsgi", _uwsgi, "uwsgi", "C; --http-socket closes after each response"),
        Server("gevent", _launcher("gevent"), "gevent", "greenlets; parts in C"),
        Server("cheroot", _cheroot, "cheroot"),
        Server("waitress", _waitress, "waitress"),
        Server("gunicorn-gthread", _gunicorn("--worker-class", "gthread"), "gunicorn"),
        Server(
            "gunicorn-sync",
            _gunicorn("--worker-class", "sync"),
            "gunicorn",
            "closes after each response",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the server and the load generator get; equal on a machine with one."""

    server: frozenset[int]
    load: frozenset[int]


def choose_cores() -> Cores:
    """The last core for the server, the first (which takes most interrupts) for the load."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(frozenset(usable[-1:]), frozenset(usable[:1]))


@contextlib.contextmanager
def pinned(cores: frozenset[int]) -> Iterator[None]:
    """Processes started inside inherit these cores, with every thread they will have."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_descriptor_limit() -> None:
    """Allow this process and what it starts as many descriptors as the machine grants."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(hard, DESCRIPTORS), hard):
        if soft >= wanted:
            return
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
            return


def find_free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    server: Server,
    launch: Launch,
    cores: frozenset[int],
    environment: Mapping[str, str] | None = None,
    path: str = "/",
    stdin: int = subprocess.DEVNULL,
) -> Iterator[Running]:
    """Start `server`, wait until it answers `path` with 200, and end its whole tree after.

    Raises:
        ServerError: it ended, or did not answer in 20 seconds.
    """
    added = dict(environment or {})
    folder = Path(tempfile.mkdtemp(prefix="rawsgi-benchmark-"))
    log = folder / "output"
    try:
        with log.open("wb") as output, pinned(cores):
            process = subprocess.Popen(
                server.command(launch),
                cwd=ROOT,
                env=_build_environment(added),
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started = Running(server.name, launch.port, process, log, added)
        try:
            _await_answer(started, path)
            yield started
        finally:
            stop(started)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _build_environment(added: Mapping[str, str]) -> dict[str, str]:
    """As little as possible: a server that copies the environment into each `environ` would
    otherwise pay for what the person who measures happens to have set."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), **added}


def _await_answer(server: Running, path: str) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        if server.process.poll() is not None:
            code = server.process.returncode
            raise ServerError(f"{server.name} ended with {code}: {server.output()}")
        with contextlib.suppress(OSError):
            if read_status(server.port, path) == 200:
                return
        time.sleep(0.02)
    raise ServerError(f"{server.name} did not answer in {START_TIMEOUT_S:g} s: {server.output()}")


def read_status(port: int, path: str) -> int:
    """The status of one GET, on a connection of its own; 0 when no status line came."""
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((HOST, port), timeout=5) as client:
        client.sendall(request.encode("ascii"))
        received = b""
        while b"\r\n" not in received and (block := client.recv(4096)):
            received += block
    words = received.split(b" ", 2)
    return int(words[1]) if len(words) == 3 and words[1].isdigit() else 0


def stop(server: Running) -> int:
    """SIGTERM; what is left of the tree after 5 seconds gets SIGKILL. Returns the exit code."""
    tree = server.tree()
    if server.process.stdin is not None:
        with contextlib.suppress(OSError):
            server.process.stdin.close()
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
    _end_orphans(tree, server.process.pid)
    return server.process.returncode


def _end_orphans(processes: Sequence[int], root: int) -> None:
    """Give children a moment to follow their parent, then end them."""
    end = time.monotonic() + STOP_TIMEOUT_S
    left = {process for process in processes if process != root}
    while left and time.monotonic() < end:
        left = {process for process in left if Path(f"/proc/{process}").exists()}
        if left:
            time.sleep(0.02)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
