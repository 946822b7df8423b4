"""The headline figure of each workload as one SVG: bars, one panel per workload.

Written by hand and self-contained. The panel has its own background, and all colours follow
the reader's scheme, so that it reads on a light and on a dark page.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from tests.benchmarks.output.figures import HIGHER_IS_BETTER, METRICS, REFERENCE, Results
from tests.benchmarks.workloads import WORKLOADS

WIDTH = 860
COLUMNS = 2
GAP = 28
ROW = 20
NAME_WIDTH = 118
LABEL_WIDTH = 96
HEAD = 46

STYLE = """\
.page { fill: #ffffff; } text { fill: #1f2328; font: 12px system-ui, sans-serif; }
.title { font-weight: 600; font-size: 13px; } .note { fill: #59636e; font-size: 11px; }
.bar { fill: #8c959f; } .ours { fill: #0969da; } .floor { fill: #d0d7de; }
.spread { stroke: #59636e; stroke-width: 1; } .name { text-anchor: end; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; } text { fill: #e6edf3; } .note { fill: #9198a1; }
  .bar { fill: #656c76; } .ours { fill: #4493f8; } .floor { fill: #3d444d; }
  .spread { stroke: #c9d1d9; }
}
"""


def write_svg(results: Results) -> str:
    """The whole picture; workloads without any headline figure are left out."""
    panels = [
        (workload, rows) for workload in results.rounds if (rows := _gather(results, workload))
    ]
    column_width = (WIDTH - GAP * (COLUMNS + 1)) // COLUMNS
    parts, top = [], GAP
    for start in range(0, len(panels), COLUMNS):
        line = panels[start : start + COLUMNS]
        for column, (workload, rows) in enumerate(line):
            left = GAP + column * (column_width + GAP)
            parts.append(_draw_panel(workload, rows, left, top, column_width))
        top += HEAD + ROW * max(len(rows) for _, rows in line) + GAP
    title = "rawsgi beside other WSGI servers"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" '
        f'width="{WIDTH}" height="{top}" role="img" aria-label="{title}">\n'
        f"<title>{title}</title>\n<style>\n{STYLE}</style>\n"
        f'<rect class="page" width="{WIDTH}" height="{top}" rx="8"/>\n'
        + "".join(parts)
        + "</svg>\n"
    )


Row = tuple[str, float, float, float]
"""Server, median, lowest, highest."""


def _gather(results: Results, workload: str) -> list[Row]:
    """The best first."""
    key = WORKLOADS[workload].headline
    rows = [
        (server, found.median, found.low, found.high)
        for server in results.servers(workload)
        if (found := results.spread(workload, server, key)) is not None
    ]
    return sorted(rows, key=lambda row: row[1], reverse=key in HIGHER_IS_BETTER)


def _draw_panel(workload: str, rows: list[Row], left: int, top: int, width: int) -> str:
    key = WORKLOADS[workload].headline
    metric = METRICS[key]
    better = "more is better" if key in HIGHER_IS_BETTER else "less is better"
    reference = next((row[1] for row in rows if row[0] == REFERENCE), 0.0)
    scale = (width - NAME_WIDTH - LABEL_WIDTH) / (max(row[3] for row in rows) or 1.0)
    title = escape(WORKLOADS[workload].title)
    parts = [
        f'<text class="title" x="{left}" y="{top + 12}">{title}</text>\n'
        f'<text class="note" x="{left}" y="{top + 28}">{escape(metric.title)}, {better}</text>\n'
    ]
    for number, (server, median, low, high) in enumerate(rows):
        middle = top + HEAD + ROW * number
        start = left + NAME_WIDTH
        kind = {"rawsgi": "ours", "floor": "floor"}.get(server, "bar")
        length = max(1.0, median * scale)
        label = metric.write(median)
        if server != REFERENCE and reference and key == "cpu_us":
            label += f" ({median / reference:.2f}x)"
        ends = [start + value * scale for value in (low, high)]
        parts.append(
            f'<text class="name" x="{start - 6}" y="{middle + 4}">{escape(server)}</text>'
            f'<rect class="{kind}" x="{start}" y="{middle - 6}" width="{length:.1f}" height="12"/>'
            f'<line class="spread" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" '
            f'y1="{middle}" y2="{middle}"/>'
            f'<text class="note" x="{max(start + length, ends[1]) + 6:.1f}" y="{middle + 4}">'
            f"{escape(label)}</text>\n"
        )
    return "".join(parts)
