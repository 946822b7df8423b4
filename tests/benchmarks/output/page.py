"""Put the figures into the documentation: docs/benchmarks.md, .json and .svg.

Only what stands between the two marks is written; the text around it is a person's.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.output.figures import Results
from tests.benchmarks.output.plot import write_svg
from tests.benchmarks.output.table import (
    build_rows,
    write_disturbance,
    write_failures,
    write_markdown,
)
from tests.benchmarks.servers import ROOT, SERVERS
from tests.benchmarks.workloads import WORKLOADS

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- figures: written by `python -m tests.benchmarks --write-docs` -->"
END = "<!-- end of figures -->"


def describe_run(rounds: int, seconds: float) -> dict[str, Any]:
    """What a reader must know about the run: machine, versions, date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "processor": _read_processor(),
        "cores": len(os.sched_getaffinity(0)),
        "rounds": rounds,
        "seconds": seconds,
        "versions": {
            name: version for name, server in SERVERS.items() if (version := server.version())
        },
    }


def _read_processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def write_json(results: Results, about: Mapping[str, Any]) -> str:
    return json.dumps({"about": about, **results.as_json()}, indent=1, sort_keys=True) + "\n"


def write_section(results: Results, about: Mapping[str, Any]) -> str:
    """The part of the page between the marks, without them."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    parts = [
        f"Measured on {about['date']}: {about['python']}, {about['system']}, "
        f"{about['processor']}, {about['cores']} cores; {about['rounds']} rounds of "
        f"{about['seconds']:g} s; medians, with the lowest and highest round in parentheses. "
        f"{versions}. {write_disturbance(results)}",
        "![Bars of each workload's main figure, by server](benchmarks.svg)",
    ]
    for workload in results.rounds:
        table = write_markdown(build_rows(results, workload))
        parts.append(f"### {WORKLOADS[workload].title} (`{workload}`)\n\n{table}")
    if results.failures:
        lines = [f"- {line}" for line in write_failures(results)]
        parts.append("### What failed\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def replace_section(page: str, section: str) -> str:
    """`page` with what is between the marks replaced.

    Raises:
        ValueError: the marks are missing or out of order.
    """
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    if end < start:
        raise ValueError("the marks of the figures are out of order")
    return f"{page[:start]}\n\n{section}\n\n{page[end:]}"


def write_docs(results: Results, about: Mapping[str, Any], page: Path = PAGE) -> None:
    """Write the page's section, and the JSON and the SVG beside it."""
    text = replace_section(page.read_text(encoding="utf-8"), write_section(results, about))
    page.write_text(text, encoding="utf-8")
    page.with_suffix(".json").write_text(write_json(results, about), encoding="utf-8")
    page.with_suffix(".svg").write_text(write_svg(results), encoding="utf-8")
