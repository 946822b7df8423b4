"""Where the time of one request goes: `python -m tests.benchmarks profile`.

The same rawsgi process is loaded twice. First as it is: that gives the true CPU time per
request. Then with a profile function in every thread: that gives the calls per request, which
are exact, and how the time is shared among functions, which is an estimate, because the
profiling costs more than what it measures. The shares are scaled to the true time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

from tests.benchmarks.load.wrk import run_wrk
from tests.benchmarks.output.table import align
from tests.benchmarks.rounds import WARM_UP_S, apply_load, await_quiet, file_to_send
from tests.benchmarks.served.profiled import FILE_VARIABLE, SET_EVERYWHERE
from tests.benchmarks.servers import (
    HOST,
    ROOT,
    Launch,
    Server,
    choose_cores,
    find_free_port,
    raise_descriptor_limit,
    running,
)
from tests.benchmarks.workloads import WORKLOADS, Workload

LAYERS = ("net", "protocol", "wsgi", "process", "rawsgi", "application", "standard library")
STANDARD_LIBRARY = Path(json.__file__).resolve().parents[1]
PATIENCE_S = 10.0
SMALLEST_SHARE = 0.02
"""Functions called less often than once in 50 requests are left out of the list."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function, per request."""

    kind: str
    layer: str
    name: str
    calls: float
    us: float


def find_layer(file: str) -> str:
    """The layer that a source file belongs to."""
    path = Path(file)
    if path.is_relative_to(ROOT / "rawsgi"):
        folder = path.relative_to(ROOT / "rawsgi").parts[0]
        return folder if folder in LAYERS else "rawsgi"
    if path.is_relative_to(STANDARD_LIBRARY) and "site-packages" not in path.parts:
        return "standard library"
    return "standard library" if file.startswith("<") else "application"


def share_out(document: Mapping[str, Any], requests: int, cpu_us: float) -> list[Function]:
    """Turn what was counted into calls and microseconds per request that add up to `cpu_us`."""
    overhead_ns = float(document["overhead_ns"])
    found: dict[tuple[str, str, str], list[float]] = {}
    for kind, file, name, calls, stretches, nanoseconds in document["rows"]:
        # What setting the profile function itself did is not the request's.
        if file.endswith("profiled.py") or "setprofile" in name:
            continue
        entry = found.setdefault((kind, find_layer(file), name), [0.0, 0.0])
        entry[0] += calls
        entry[1] += max(0.0, nanoseconds - stretches * overhead_ns)
    total_ns = sum(entry[1] for entry in found.values()) or 1.0
    functions = [
        Function(*key, calls / requests, nanoseconds / total_ns * cpu_us)
        for key, (calls, nanoseconds) in found.items()
    ]
    return sorted(functions, key=lambda function: -function.us)


def build_layer_rows(functions: Sequence[Function]) -> list[list[str]]:
    """A row per layer: Python calls, C calls, microseconds in each."""
    rows = [["layer", "Python calls", "C calls", "µs in Python", "µs in C", "µs"]]
    sums = [0.0] * 5
    for layer in LAYERS:
        values = [0.0] * 5
        for function in functions:
            if function.layer == layer:
                column = 0 if function.kind == "python" else 1
                values[column] += function.calls
                values[2 + column] += function.us
                values[4] += function.us
        if any(values):
            rows.append(_write_row(layer, values))
            sums = [total + value for total, value in zip(sums, values, strict=True)]
    rows.append(_write_row("all", sums))
    return rows


def _write_row(name: str, values: Sequence[float]) -> list[str]:
    digits = (1, 1, 2, 2, 2)
    return [name, *(f"{value:.{digit}f}" for value, digit in zip(values, digits, strict=True))]


def build_function_rows(functions: Sequence[Function], limit: int) -> list[list[str]]:
    """The functions that cost most; a C function stands with the layer that calls it."""
    rows = [["function", "layer", "calls", "µs"]]
    for function in functions:
        if function.calls >= SMALLEST_SHARE and len(rows) <= limit:
            name = f"{function.name} (C)" if function.kind == "c" else function.name
            rows.append([name, function.layer, f"{function.calls:.2f}", f"{function.us:.2f}"])
    return rows


def run_profile(workload: Workload, seconds: float) -> tuple[dict[str, float], list[Function]]:
    """The undisturbed figures of the workload, and its functions."""
    raise_descriptor_limit()
    cores = choose_cores()
    with tempfile.TemporaryDirectory(prefix="rawsgi-benchmark-") as folder, file_to_send() as file:
        path = Path(folder) / "profile"
        server = Server("rawsgi, profiled", _command)
        launch = Launch(
            workload.application, find_free_port(), workload.threads, workload.connections
        )
        environment = {**file, FILE_VARIABLE: str(path)}
        with running(server, launch, cores.server, environment, stdin=PIPE) as up:
            apply_load(up, workload.load, WARM_UP_S, cores)
            await_quiet(cores, PATIENCE_S)
            figures = apply_load(up, workload.load, seconds, cores)
            assert up.process.stdin is not None
            up.process.stdin.write(b"start\n")
            up.process.stdin.flush()
            time.sleep(0.2)
            requests = run_wrk(up.port, workload.load, seconds, cores.load).requests
            up.process.stdin.write(b"stop\n")
            up.process.stdin.flush()
            document = _await_document(path)
    return figures, share_out(document, max(1, requests), figures["cpu_us"])


def _command(launch: Launch) -> list[str]:
    words = [sys.executable, "-m", "tests.benchmarks.served.profiled", launch.application]
    words += ["--host", HOST, "--port", str(launch.port), "--no-access-log"]
    if launch.threads is not None:
        words += ["--threads", str(launch.threads)]
    if launch.connections is not None:
        words += ["--connections", str(launch.connections)]
    return words


def _await_document(path: Path) -> dict[str, Any]:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if path.exists() and (text := path.read_text(encoding="utf-8")).endswith("\n"):
            document: dict[str, Any] = json.loads(text)
            return document
        time.sleep(0.05)
    raise TimeoutError("the profiled server wrote nothing")


def profile(argv: Sequence[str], progress: Callable[[str], None]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks profile",
        description="Calls and microseconds of one request by layer and by function.",
    )
    loads = [name for name, workload in WORKLOADS.items() if workload.kind in ("load", "many")]
    parser.add_argument("--workload", choices=loads, default="hello", metavar="NAME")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--functions", type=int, default=30, metavar="N", help="how many to list")
    arguments = parser.parse_args(argv)
    if not hasattr(threading, SET_EVERYWHERE):
        print(f"profile needs Python 3.12 or later (threading.{SET_EVERYWHERE})")
        return 2
    workload = WORKLOADS[arguments.workload]
    progress(f"profile: {workload.title}")
    figures, functions = run_profile(workload, arguments.seconds)
    progress("")
    print(
        f"{workload.title}: {figures['cpu_us']:.2f} µs CPU per request, "
        f"{figures['system']:.0%} of it in the kernel "
        f"({figures['requests_s']:,.0f} requests/s, others took {figures['foreign']:.0%} of a core)"
    )
    print(f"\n{align(build_layer_rows(functions))}\n")
    print(align(build_function_rows(functions, arguments.functions), left=2))
    return 0
