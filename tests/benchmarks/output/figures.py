"""The figures of all rounds, and what may be said about them.

Rule: a figure is a median over rounds with its lowest and highest beside it, and a ratio is
the median of the ratios within each round, never the ratio of two medians. A round that
other processes of the machine disturbed counts only when there is no other.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

Figures = dict[str, float]
"""The figures of one server in one round, by the names in `METRICS`."""

REFERENCE = "rawsgi"

FOREIGN_LIMIT = 0.1
"""A round is disturbed when others took more than this share of one core."""


@dataclass(frozen=True, slots=True)
class Metric:
    """How a figure is named and written."""

    title: str
    digits: int = 1
    factor: float = 1.0
    unit: str = ""

    def write(self, value: float | None) -> str:
        return "-" if value is None else f"{value * self.factor:,.{self.digits}f}{self.unit}"


METRICS = {
    "cpu_us": Metric("CPU µs/request"),
    "ratio": Metric("CPU ratio", 2, unit="x"),
    "system": Metric("in kernel", 0, 100, "%"),
    "requests_s": Metric("requests/s", 0),
    "p50_ms": Metric("p50 ms", 2),
    "p99_ms": Metric("p99 ms", 2),
    "memory_kib": Metric("memory MiB", 1, 1 / 1024),
    "busy": Metric("busy", 0, 100, "%"),
    "foreign": Metric("others", 0, 100, "%"),
    "errors": Metric("errors", 0),
    "cut": Metric("unannounced closes", 0),
    "own_ratio": Metric("CPU to its own at 32", 2, unit="x"),
    "ideal": Metric("of the ideal", 1, 100, "%"),
    "fast_p50_ms": Metric("fast p50 ms", 2),
    "fast_p99_ms": Metric("fast p99 ms", 2),
    "fast_max_ms": Metric("fast max ms", 1),
    "slow_p50_ms": Metric("slow p50 ms", 1),
    "slow_p99_ms": Metric("slow p99 ms", 1),
    "idle_kib": Metric("KiB per idle connection", 2),
    "held": Metric("idle connections kept", 0),
    "busy_ratio": Metric("CPU to its own alone", 2, unit="x"),
    "busy_speed": Metric("rate to its own alone", 2, unit="x"),
    "switches": Metric("context switches", 0),
    "idle_cpu_ms": Metric("CPU ms", 2),
    "threads": Metric("threads", 0),
}

HIGHER_IS_BETTER = frozenset({"requests_s", "ideal", "held", "busy_speed"})


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over rounds."""

    median: float
    low: float
    high: float


@dataclass(slots=True)
class Results:
    """Everything that was measured: workload, server, round."""

    rounds: dict[str, dict[str, dict[int, Figures]]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False

    def add(self, workload: str, server: str, number: int, figures: Figures) -> None:
        self.rounds.setdefault(workload, {}).setdefault(server, {})[number] = dict(figures)

    def note_failure(self, workload: str, server: str, number: int, text: str) -> None:
        self.failures.append(
            {"workload": workload, "server": server, "round": number + 1, "text": text.strip()}
        )

    def servers(self, workload: str) -> list[str]:
        return list(self.rounds.get(workload, {}))

    def keys(self, workload: str) -> list[str]:
        """The names of the figures that any server has, in the order of `METRICS`."""
        present = {
            key
            for rounds in self.rounds.get(workload, {}).values()
            for figures in rounds.values()
            for key in figures
        }
        if "cpu_us" in present:
            present.add("ratio")
        return [key for key in METRICS if key in present]

    def values(self, workload: str, server: str, key: str) -> list[float]:
        """One value per round that has it; for `ratio`, per round that both servers have."""
        if key == "ratio":
            return self.ratios(workload, server, REFERENCE)
        rounds = self.rounds.get(workload, {}).get(server, {}).values()
        quiet = [figures[key] for figures in rounds if key in figures and _is_quiet(figures)]
        return quiet or [figures[key] for figures in rounds if key in figures]

    def ratios(self, workload: str, server: str, to: str, key: str = "cpu_us") -> list[float]:
        """`server` divided by `to`, within each round that has both."""
        rounds = self.rounds.get(workload, {}).get(server, {})
        others = self.rounds.get(workload, {}).get(to, {})
        pairs = [
            (figures, others[number])
            for number, figures in rounds.items()
            if key in figures and others.get(number, {}).get(key)
        ]
        quiet = [pair for pair in pairs if _is_quiet(pair[0]) and _is_quiet(pair[1])]
        return [figures[key] / other[key] for figures, other in quiet or pairs]

    def count_disturbed(self) -> tuple[int, int]:
        """How many rounds others disturbed, and how many there were."""
        rounds = [
            figures
            for servers in self.rounds.values()
            for numbered in servers.values()
            for figures in numbered.values()
        ]
        return sum(not _is_quiet(figures) for figures in rounds), len(rounds)

    def spread(self, workload: str, server: str, key: str) -> Spread | None:
        return spread(self.values(workload, server, key))

    def as_json(self) -> dict[str, Any]:
        """Medians and spreads for a reader, rounds for whoever wants to compute again."""
        workloads = {
            workload: {
                server: {
                    "figures": {
                        key: {"median": found.median, "low": found.low, "high": found.high}
                        for key in self.keys(workload)
                        if (found := self.spread(workload, server, key)) is not None
                    },
                    "rounds": {str(number + 1): values for number, values in rounds.items()},
                }
                for server, rounds in servers.items()
            }
            for workload, servers in self.rounds.items()
        }
        return {"workloads": workloads, "failures": self.failures}


def _is_quiet(figures: Figures) -> bool:
    return figures.get("foreign", 0.0) <= FOREIGN_LIMIT


def read_json(document: dict[str, Any]) -> Results:
    """The results that `Results.as_json` wrote."""
    results = Results(failures=list(document.get("failures", [])))
    for workload, servers in document["workloads"].items():
        for server, entry in servers.items():
            for number, figures in entry["rounds"].items():
                results.add(workload, server, int(number) - 1, figures)
    return results


def spread(values: list[float]) -> Spread | None:
    """`None` when nothing was measured."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values))
