"""The figures as a table: plain text for a terminal, Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.output.figures import FOREIGN_LIMIT, METRICS, Results
from tests.benchmarks.workloads import WORKLOADS

HIDDEN = frozenset({"system", "slow_p50_ms"})
"""In the JSON only."""


def build_rows(results: Results, workload: str) -> list[list[str]]:
    """A header row, then a row per server; the headline figure carries its spread."""
    headline = WORKLOADS[workload].headline
    keys = [key for key in results.keys(workload) if _is_shown(results, workload, key)]
    rows = [["server", *(METRICS[key].title for key in keys)]]
    for server in results.servers(workload):
        row = [server]
        for key in keys:
            found = results.spread(workload, server, key)
            text = METRICS[key].write(found.median if found else None)
            if found and key in (headline, "cpu_us", "ratio") and found.low != found.high:
                low = METRICS[key].write(found.low)
                text += f" ({low}-{METRICS[key].write(found.high)})"
            row.append(text)
        rows.append(row)
    return rows


def _is_shown(results: Results, workload: str, key: str) -> bool:
    """Not what is for the JSON, and not a column of nothing but zeros that says nothing."""
    if key in HIDDEN:
        return False
    if key != "cut":
        return True
    return any(any(results.values(workload, server, key)) for server in results.servers(workload))


def align(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns of equal width: `left` of them set to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def write_markdown(rows: Sequence[Sequence[str]]) -> str:
    """The same rows as a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "| --- |" + " ---: |" * (len(rows[0]) - 1)
    return "\n".join([lines[0], rule, *lines[1:]])


def write_text(results: Results) -> str:
    """All workloads, one table each, and what failed."""
    parts = [
        f"{workload}: {WORKLOADS[workload].title}\n{align(build_rows(results, workload))}"
        for workload in results.rounds
    ]
    parts += write_failures(results)
    return "\n\n".join([*parts, write_disturbance(results)])


def write_failures(results: Results) -> list[str]:
    """A line for each server and workload: how often it failed, and the last line it gave."""
    found: dict[tuple[str, str], list[str]] = {}
    for failure in results.failures:
        lines = failure["text"].splitlines() or [""]
        found.setdefault((failure["server"], failure["workload"]), []).append(lines[-1].strip())
    return [
        f"failed: {server}, {workload}, {len(texts)} x: {texts[-1][:200]}"
        for (server, workload), texts in found.items()
    ]


def write_disturbance(results: Results) -> str:
    """One sentence on how far the machine was ours."""
    disturbed, rounds = results.count_disturbed()
    return (
        f"In {disturbed} of {rounds} rounds other processes took more than "
        f"{FOREIGN_LIMIT:.0%} of a core; they count only where there is no other."
    )
