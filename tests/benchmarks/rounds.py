"""Measure each server under each workload, in interleaved rounds.

Rule: A B C, A B C, ... and never A A A, B B B: the speed of a shared machine drifts over
minutes, and only figures of the same round may be divided by each other. One server runs at
a time (see `servers`). CPU time per request comes first; rates and latencies depend on who
else uses the machine.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tests.benchmarks import readings
from tests.benchmarks.load.client import end_client, start_client
from tests.benchmarks.load.wrk import Load, LoadError, run_wrk
from tests.benchmarks.output.figures import FOREIGN_LIMIT, Figures, Results
from tests.benchmarks.served.applications import FILE_VARIABLE
from tests.benchmarks.servers import (
    Cores,
    Launch,
    Running,
    Server,
    ServerError,
    choose_cores,
    find_free_port,
    raise_descriptor_limit,
    running,
)
from tests.benchmarks.workloads import MIXED_RATE, MIXED_SLOW_SHARE, SLEEP_IDEAL, Workload

FILE_BYTES = 10_000_000
WARM_UP_S = 1.0
IDLE_CONNECTIONS = 10_000
IDLE_S = 5.0
SEED = 9112


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often. The defaults are those of the published figures."""

    rounds: int = 5
    seconds: float = 2.0
    idle_connections: int = IDLE_CONNECTIONS
    idle_s: float = IDLE_S
    patience_s: float = 5.0
    """How long to wait, before each measurement, for others to leave the cores alone."""


def run_rounds(
    servers: Sequence[Server],
    workloads: Sequence[Workload],
    plan: Plan,
    progress: Callable[[str], None],
) -> Results:
    """Measure everything. A server that fails in a round is noted and the rest goes on."""
    raise_descriptor_limit()
    results = Results()
    try:
        with file_to_send() as environment:
            for workload in workloads:
                _run_workload(servers, workload, plan, environment, results, progress)
    except KeyboardInterrupt:
        results.interrupted = True  # what was measured so far is still worth showing
    return results


def _run_workload(
    servers: Sequence[Server],
    workload: Workload,
    plan: Plan,
    environment: Mapping[str, str],
    results: Results,
    progress: Callable[[str], None],
) -> None:
    for number in range(plan.rounds):
        for server in servers:
            if server.name == "floor" and not workload.floor:
                continue
            progress(f"{workload.name}: round {number + 1} of {plan.rounds}, {server.name}")
            try:
                figures = measure(server, workload, plan, number, environment)
            except (ServerError, LoadError, OSError, subprocess.SubprocessError) as error:
                results.note_failure(workload.name, server.name, number, str(error))
            else:
                results.add(workload.name, server.name, number, figures)


def await_quiet(cores: Cores, patience_s: float) -> None:
    """Wait until the cores have been idle for a moment, at most `patience_s`."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        start, busy_s = time.monotonic(), readings.read_core_busy_s(cores.server | cores.load)
        time.sleep(0.25)
        busy_s = readings.read_core_busy_s(cores.server | cores.load) - busy_s
        if busy_s < FOREIGN_LIMIT * (time.monotonic() - start):
            return


@contextlib.contextmanager
def file_to_send() -> Iterator[dict[str, str]]:
    """The 10 MB file, as the variable of the environment that names it."""
    with tempfile.NamedTemporaryFile(prefix="rawsgi-benchmark-") as file:
        file.write(b"x" * FILE_BYTES)
        file.flush()
        yield {FILE_VARIABLE: file.name}


def measure(
    server: Server,
    workload: Workload,
    plan: Plan,
    number: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Figures:
    """Start `server`, measure one round of `workload`, and end it.

    Raises:
        ServerError, LoadError: it did not start, died, or could not be loaded.
    """
    cores = choose_cores()
    await_quiet(cores, plan.patience_s)
    launch = Launch(workload.application, find_free_port(), workload.threads, workload.connections)
    with running(server, launch, cores.server, environment, workload.load.path) as up:
        timed = replace(plan, seconds=max(plan.seconds, workload.seconds_at_least))
        failure: LoadError | None = None
        figures: Figures = {}
        try:
            figures = MEASURES[workload.kind](up, workload, timed, cores, number)
        except LoadError as error:
            failure = error
        if up.process.poll() is not None:
            raise ServerError(f"{server.name} ended under load: {up.output()}")
        if failure is not None:
            raise failure
        return figures


@dataclass(slots=True)
class Meter:
    """What a server spends from `start_meter` to `read`."""

    server: Running
    cores: Cores
    stats: dict[int, readings.Stat]
    cpu: dict[int, float]
    cores_s: float
    children_s: float
    start: float

    def read(self) -> Figures:
        wall_s = time.monotonic() - self.start
        cores_s = readings.read_core_busy_s(self.cores.server | self.cores.load) - self.cores_s
        load_s = _read_children_s() - self.children_s
        tree = self.server.tree()
        cpu_s = readings.spent_cpu_s(self.cpu, readings.read_cpu_s(tree))
        return {
            "cpu_s": cpu_s,
            "system": readings.read_system_share(self.stats, readings.read_stats(tree)),
            "busy": cpu_s / wall_s,
            "foreign": max(0.0, cores_s - cpu_s - load_s) / wall_s,
        }


def start_meter(server: Running, cores: Cores) -> Meter:
    tree = server.tree()
    return Meter(
        server,
        cores,
        readings.read_stats(tree),
        readings.read_cpu_s(tree),
        readings.read_core_busy_s(cores.server | cores.load),
        _read_children_s(),
        time.monotonic(),
    )


def _read_children_s() -> float:
    """CPU seconds of the children that have ended: of the load generator, at its end."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def apply_load(server: Running, load: Load, seconds: float, cores: Cores) -> Figures:
    """Run wrk against `server` and read what the server spent on it."""
    meter = start_meter(server, cores)
    seen = run_wrk(server.port, load, seconds, cores.load)
    figures = meter.read()
    if not seen.requests:
        raise LoadError("no request was answered")
    cpu_us = figures.pop("cpu_s") / seen.requests * 1e6
    return {
        **figures,
        "cpu_us": cpu_us,
        "requests_s": seen.requests_s,
        "p50_ms": seen.p50_us / 1e3,
        "p99_ms": seen.p99_us / 1e3,
        "errors": float(seen.errors),
        "cut": float(seen.read),
    }


def _measure_load(
    server: Running, workload: Workload, plan: Plan, cores: Cores, number: int
) -> Figures:
    apply_load(server, workload.load, WARM_UP_S, cores)
    figures = apply_load(server, workload.load, plan.seconds, cores)
    return {**figures, "memory_kib": float(readings.read_pss_kib(server.tree()))}


def _measure_many(
    server: Running, workload: Workload, plan: Plan, cores: Cores, number: int
) -> Figures:
    few = replace(workload.load, connections=32)
    apply_load(server, few, WARM_UP_S, cores)
    alone = apply_load(server, few, plan.seconds, cores)
    figures = _measure_load(server, workload, plan, cores, number)
    return {**figures, "own_ratio": figures["cpu_us"] / alone["cpu_us"]}


def _measure_sleep(
    server: Running, workload: Workload, plan: Plan, cores: Cores, number: int
) -> Figures:
    figures = _measure_load(server, workload, plan, cores, number)
    return {**figures, "ideal": figures["requests_s"] / SLEEP_IDEAL}


def _measure_idle_connections(
    server: Running, workload: Workload, plan: Plan, cores: Cores, number: int
) -> Figures:
    """Busy connections alone, beside the idle ones, and alone again; the memory between."""
    apply_load(server, workload.load, WARM_UP_S, cores)
    before = apply_load(server, workload.load, plan.seconds, cores)
    memory_kib = readings.read_pss_kib(server.tree())
    arguments = [str(server.port), str(plan.idle_connections)]
    client = start_client("idle", arguments, cores.load)
    try:
        assert client.stdin is not None and client.stdout is not None
        opened = int(client.stdout.readline() or 0)
        with_idle_kib = readings.read_pss_kib(server.tree())
        beside = apply_load(server, workload.load, plan.seconds, cores)
        client.stdin.write("count\n")
        client.stdin.flush()
        held = int(client.stdout.readline() or 0)
        client.stdin.close()
        client.wait(20)
    finally:
        end_client(client)
    after = apply_load(server, workload.load, plan.seconds, cores)
    alone_us = (before["cpu_us"] + after["cpu_us"]) / 2
    alone_s = (before["requests_s"] + after["requests_s"]) / 2
    figures = {**beside, "memory_kib": float(with_idle_kib), "held": float(held)}
    figures["busy_ratio"] = beside["cpu_us"] / alone_us
    figures["busy_speed"] = beside["requests_s"] / alone_s
    if opened and held >= plan.idle_connections * 0.99:
        figures["idle_kib"] = (with_idle_kib - memory_kib) / opened
    return figures


def _measure_mixed(
    server: Running, workload: Workload, plan: Plan, cores: Cores, number: int
) -> Figures:
    def run(seconds: float, seed: int) -> dict[str, float]:
        values = [server.port, seconds, MIXED_RATE, MIXED_SLOW_SHARE, seed]
        client = start_client("mixed", [str(value) for value in values], cores.load)
        try:
            output, _ = client.communicate(timeout=seconds + 30)
        finally:
            end_client(client)
        if client.returncode:
            raise LoadError(f"the mixed client ended with {client.returncode}")
        figures: dict[str, float] = json.loads(output)
        return figures

    run(WARM_UP_S, SEED - 1)
    meter = start_meter(server, cores)
    figures = run(plan.seconds, SEED + number)
    figures |= meter.read()
    figures["cpu_us"] = figures.pop("cpu_s") / max(1.0, figures.pop("requests")) * 1e6
    return {**figures, "memory_kib": float(readings.read_pss_kib(server.tree()))}


def _measure_idle(
    server: Running, workload: Workload, plan: Plan, cores: Cores, number: int
) -> Figures:
    """Context switches of all threads while nothing is asked, after a little work."""
    apply_load(server, workload.load, WARM_UP_S, cores)
    time.sleep(2.0)
    tree = server.tree()
    before, cpu = readings.read_switches(tree), readings.read_cpu_s(tree)
    time.sleep(plan.idle_s)
    after, spent = readings.read_switches(tree), readings.read_cpu_s(tree)
    return {
        "switches": float(readings.spent_switches(before, after)),
        "idle_cpu_ms": readings.spent_cpu_s(cpu, spent) * 1e3,
        "threads": float(readings.count_threads(tree)),
        "memory_kib": float(readings.read_pss_kib(tree)),
    }


MEASURES: dict[str, Callable[[Running, Workload, Plan, Cores, int], Figures]] = {
    "load": _measure_load,
    "many": _measure_many,
    "sleep": _measure_sleep,
    "idle_connections": _measure_idle_connections,
    "mixed": _measure_mixed,
    "idle": _measure_idle,
}
