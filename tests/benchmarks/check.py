"""The demands on rawsgi's speed, each measured and judged: `python -m tests.benchmarks check`.

A demand holds when the median over the rounds holds; the lowest and highest round stand
beside it. Only the servers that a demand names run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.output.figures import METRICS, REFERENCE, Metric, Results, Spread, spread
from tests.benchmarks.output.page import describe_run, write_json
from tests.benchmarks.output.table import align, write_disturbance, write_failures
from tests.benchmarks.rounds import Plan, run_rounds
from tests.benchmarks.servers import SERVERS
from tests.benchmarks.workloads import WORKLOADS


@dataclass(frozen=True, slots=True)
class Demand:
    """One row: a figure of rawsgi, or (with `other`) its CPU per request to another's."""

    workload: str
    limit: float
    text: str
    other: str = ""
    key: str = "cpu_us"
    at_least: bool = False

    def find(self, results: Results) -> Spread | None:
        if self.other:
            return spread(results.ratios(self.workload, REFERENCE, self.other, self.key))
        return results.spread(self.workload, REFERENCE, self.key)

    def holds(self, results: Results) -> bool:
        found = self.find(results)
        if found is None:
            return False
        return found.median >= self.limit if self.at_least else found.median <= self.limit


def _to(workload: str, limit: float, other: str, text: str) -> Demand:
    return Demand(workload, limit, f"at most {text} {other}", other)


DEMANDS = (
    _to("hello", 1.0, "granian", "1.0 x"),
    _to("hello", 0.2, "gunicorn-gthread", "1/5 of"),
    _to("hello", 2.0, "bjoern", "2 x"),
    _to("fields", 1.0, "granian", "1.0 x"),
    _to("flask", 0.95, "granian", "0.95 x"),
    _to("flask", 0.5, "gunicorn-gthread", "1/2 of"),
    _to("flask", 1.25, "bjoern", "1.25 x"),
    _to("post", 1.2, "granian", "1.2 x"),
    _to("stream", 1.0, "granian", "1.0 x"),
    _to("mebibyte", 1.0, "granian", "1.0 x"),
    _to("close", 1.3, "granian", "1.3 x"),
    Demand("thousand", 1.15, "at most 1.15 x its own figure at 32", key="own_ratio"),
    Demand("sleep", 0.9, "at least 90 % of 320 requests/s", key="ideal", at_least=True),
    Demand("mixed", 25.0, "p99 of the fast ones under 25 ms", key="fast_p99_ms"),
    Demand("idle-connections", 4.0, "at most 4 KiB each", key="idle_kib"),
    Demand("idle-connections", 1.1, "busy ones at most 1.10 x their CPU alone", key="busy_ratio"),
    Demand("idle", 0.0, "no context switch in 5 s", key="switches"),
)


def build_rows(demands: Sequence[Demand], results: Results) -> list[list[str]]:
    """A header, then what is demanded, what was measured, and whether that holds."""
    rows = [["workload", "demanded", "measured", "(lowest-highest)", "µs", "other µs", "holds"]]
    for demand in demands:
        found = demand.find(results)
        metric = Metric("", 3, unit="x") if demand.other else METRICS[demand.key]
        rows.append(
            [
                demand.workload,
                demand.text,
                metric.write(found.median) if found else "not measured",
                f"({metric.write(found.low)}-{metric.write(found.high)})" if found else "",
                _write_cpu(results, demand.workload, REFERENCE),
                _write_cpu(results, demand.workload, demand.other) if demand.other else "",
                "holds" if demand.holds(results) else "DOES NOT HOLD",
            ]
        )
    return rows


def _write_cpu(results: Results, workload: str, server: str) -> str:
    found = results.spread(workload, server, "cpu_us")
    return METRICS["cpu_us"].write(found.median) if found else ""


def run_checks(
    names: Sequence[str], plan: Plan, progress: Callable[[str], None]
) -> tuple[list[Demand], Results]:
    """Measure what the demands on the named workloads (all when none is named) need."""
    demands = [demand for demand in DEMANDS if not names or demand.workload in names]
    results = Results()
    for workload in dict.fromkeys(demand.workload for demand in demands):
        others = [demand.other for demand in demands if demand.workload == workload]
        needed = [SERVERS[name] for name in dict.fromkeys([REFERENCE, *others]) if name]
        present = [server for server in needed if server.version() is not None]
        part = run_rounds(present, [WORKLOADS[workload]], plan, progress)
        results.rounds.update(part.rounds)
        results.failures += part.failures
        if part.interrupted:
            break
    return demands, results


def check(argv: Sequence[str], progress: Callable[[str], None]) -> int:
    """The command. Returns 0 when every demand holds, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks check",
        description="Measure what is demanded of rawsgi and say whether it holds.",
    )
    workloads = list(dict.fromkeys(demand.workload for demand in DEMANDS))
    parser.add_argument("--workload", action="append", choices=workloads, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    parser.add_argument("--seconds", type=float, default=Plan().seconds)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    plan = Plan(rounds=arguments.rounds, seconds=arguments.seconds)
    demands, results = run_checks(arguments.workload or [], plan, progress)
    progress("")
    print(align(build_rows(demands, results), left=2))
    print(write_disturbance(results))
    print("\n".join(write_failures(results)))
    if arguments.json:
        about = describe_run(plan.rounds, plan.seconds)
        arguments.json.write_text(write_json(results, about), encoding="utf-8")
    return 0 if all(demand.holds(results) for demand in demands) else 1
