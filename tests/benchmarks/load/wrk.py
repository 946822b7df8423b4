"""Run wrk and read its figures.

wrk is a closed-loop load generator in C: each connection sends its next request when the
last one is answered. It is the Debian package `wrk`. The script `report.lua` prints its
figures on one line, so that nothing is parsed that is meant for people.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.servers import HOST, pinned

FOLDER = Path(__file__).resolve().parent
INSTALL = "wrk is not installed: `apt-get install wrk` (Debian, Ubuntu) installs it."


class LoadError(Exception):
    """The load could not be made, or its figures could not be read."""


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of traffic."""

    connections: int = 32
    path: str = "/"
    fields: tuple[str, ...] = ()
    method: str = "GET"
    content: bytes = b""
    script: str = "report.lua"


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What wrk saw in one run; times in microseconds."""

    duration_us: int
    requests: int
    bytes: int
    p50_us: int
    p99_us: int
    max_us: int
    connect: int
    read: int
    write: int
    status: int
    timeout: int

    @property
    def errors(self) -> int:
        """Failed requests. wrk's read errors are not among them: it also counts one when a
        server closes a connection without having said so, after a complete response."""
        return self.connect + self.write + self.status + self.timeout

    @property
    def requests_s(self) -> float:
        return self.requests / (self.duration_us / 1e6) if self.duration_us else 0.0


def parse_figures(text: str) -> LoadFigures:
    """Find the line that `report.lua` wrote in wrk's output.

    Raises:
        LoadError: there is no such line, or it has other names than expected.
    """
    for line in text.splitlines():
        if line.startswith("figures "):
            pairs = (word.split("=", 1) for word in line.split()[1:])
            try:
                return LoadFigures(**{name: int(value) for name, value in pairs})
            except (TypeError, ValueError) as error:
                raise LoadError(f"wrk's figures are not as expected: {line}") from error
    raise LoadError(f"wrk printed no figures: {text.strip()[-500:]}")


def find_wrk() -> str:
    """The path of wrk.

    Raises:
        LoadError: it is not installed; the text says how to install it.
    """
    found = shutil.which("wrk")
    if found is None:
        raise LoadError(INSTALL)
    return found


def run_wrk(port: int, load: Load, seconds: float, cores: frozenset[int]) -> LoadFigures:
    """Load `port` for `seconds` (whole seconds to wrk, at least one) from `cores`."""
    whole = max(1, round(seconds))
    command = [find_wrk(), "-t", "1", "-c", str(load.connections), "-d", f"{whole}s"]
    command += ["-s", str(FOLDER / load.script)]
    for line in load.fields:
        command += ["-H", line]
    command.append(f"http://{HOST}:{port}{load.path}")
    with tempfile.NamedTemporaryFile(prefix="rawsgi-benchmark-") as content:
        if load.method != "GET":
            content.write(load.content)
            content.flush()
            command += ["--", load.method, content.name]
        return _run(command, whole, cores)


def _run(command: Sequence[str], seconds: int, cores: frozenset[int]) -> LoadFigures:
    with pinned(cores):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    try:
        output, _ = process.communicate(timeout=seconds + 20)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"wrk did not end within {seconds + 20} s") from error
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return parse_figures(output)
