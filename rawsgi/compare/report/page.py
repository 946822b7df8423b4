"""The result as one page that can be sent to a colleague.

The rule: one file that refers to nothing outside itself (a Content-Security-Policy in it holds
browsers to that), readable in light and dark, on paper and without its script, which only filters.
Everything that came over the wire is escaped twice: made visible, then made HTML.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby
from typing import Final

from rawsgi.compare.comparison import Comparison, Row, Score, score_server
from rawsgi.compare.report.table import ENDING_NOTES, describe_cell
from rawsgi.compare.report.transcript import list_lines, split_lines

# Long transcripts are for --diff; a page with all of them could not be mailed.
LINES_LIMIT: Final = 60

_STYLE: Final = """
:root { color-scheme: light dark; --back: #fff; --text: #1d2126; --dim: #5c6670; --line: #d9dee3;
  --soft: #f4f6f8; --bad: #b3261e; --warn: #8a5a00; --good: #1b6e3c; --badge: #fdeceb; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --text: #e4e8ec; --dim: #9aa5b0;
  --line: #333a42; --soft: #1d2227; --bad: #ff8a80; --warn: #f0b95a; --good: #7fd19b;
  --badge: #3a2020; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 78rem; background: var(--back);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h3 { font: 600 .95rem ui-monospace, monospace; margin: 1.4rem 0 .2rem; }
p { margin: .3rem 0; max-width: 48rem; } .dim { color: var(--dim); }
code, pre, .cell { font: .82rem/1.45 ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; } .wide { overflow-x: auto; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; color: var(--dim); }
.bad { color: var(--bad); } .warn { color: var(--warn); } .good { color: var(--good); }
.lead { font-size: 1.1rem; margin: 1rem 0; } ul { padding-left: 1.2rem; margin: .3rem 0; }
.filter { display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; margin: .6rem 0 1rem; }
.filter input[type=search] { font: inherit; padding: .2rem .5rem; min-width: 14rem; }
.row, .heads { display: grid; gap: .1rem .8rem; align-items: baseline;
  grid-template-columns: minmax(14rem, 2.2fr) repeat(var(--servers), minmax(6.5rem, 1fr)); }
.heads { color: var(--dim); font-weight: 600; padding: .2rem 0 .2rem 1.1rem; }
details.case { border-bottom: 1px solid var(--line); }
details.case > summary { cursor: pointer; padding: .3rem 0; }
details.case > summary .row { display: inline-grid; width: calc(100% - 1.2rem);
  vertical-align: top; }
details.case[open] > summary { background: var(--soft); }
.body { padding: .4rem 0 1.2rem 1.1rem; } .badge { background: var(--badge); color: var(--bad);
  border-radius: .6rem; padding: 0 .5rem; font-size: .75rem; white-space: nowrap; }
.sides { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); }
.sides > div { min-width: 0; } pre { background: var(--soft); padding: .6rem; margin: .3rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere; border-radius: .3rem; }
[hidden] { display: none; }
@media (max-width: 46rem) { .row { grid-template-columns: 1fr 1fr; } .heads { display: none; }
  .row > :first-child { grid-column: 1 / -1; } .cell::before { content: attr(data-server) ": ";
  color: var(--dim); } }
@media print { .filter { display: none; } body { max-width: none; } }
"""

_SCRIPT: Final = """
const rows = [...document.querySelectorAll('details.case')];
const find = document.getElementById('find');
const boxes = [...document.querySelectorAll('.filter input[type=checkbox]')];
function filter() {
  const text = find.value.toLowerCase();
  const wanted = boxes.filter(box => box.checked).map(box => box.value);
  let shown = 0;
  for (const row of rows) {
    row.hidden = !(row.dataset.text.includes(text)
      && wanted.every(kind => row.dataset.kinds.split(' ').includes(kind)));
    shown += !row.hidden;
  }
  for (const group of document.querySelectorAll('section.group'))
    group.hidden = !group.querySelector('details.case:not([hidden])');
  document.getElementById('shown').textContent = shown + ' of ' + rows.length;
}
document.querySelector('.filter').hidden = false;
find.addEventListener('input', filter);
boxes.forEach(box => box.addEventListener('change', filter));
filter();
"""


def render_page(comparison: Comparison, date: str) -> str:
    """Render the whole page. date: ISO 8601."""
    return "\n".join(_render(comparison, date)) + "\n"


def _render(comparison: Comparison, date: str) -> Iterator[str]:
    names = [column.name for column in comparison.columns]
    title = f"{names[0]} compared with {', '.join(names[1:])}"
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield (
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
    )
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>"
    yield f'<body style="--servers: {len(names)}">\n<h1>{escape(title)}</h1>'
    of = f"application {escape(comparison.application)}, " if comparison.application else ""
    yield f'<p class="dim">{of}{escape(date)}, {comparison.seconds:.0f} s</p>'
    yield from _render_lead(comparison)
    yield "<h2>Verdict</h2>"
    yield from _render_scores(comparison)
    yield from _render_general(comparison)
    yield from _render_cases(comparison)
    yield f"<script>{_SCRIPT}</script>\n</body>\n</html>"


def _render_lead(comparison: Comparison) -> Iterator[str]:
    differing, total = len(comparison.differing_rows()), len(comparison.rows)
    if comparison.is_same():
        yield f'<p class="lead good">Nothing differs in {total} exchanges.</p>'
    else:
        general = comparison.unaccepted_general()
        also = f", and {general} things alike in many of them" if general else ""
        yield f'<p class="lead">{differing} of {total} exchanges differ{also}.</p>'
    yield (
        "<p>The same bytes went to each server. Compared are status, fields, content, framing, "
        "what becomes of the connection and, where the probe application ran, "
        "<code>environ</code>. Dates, ports, server names and error pages do not count.</p>"
    )
    for note in comparison.notes:
        yield f'<p class="warn">{escape(note)}</p>'


def _render_scores(comparison: Comparison) -> Iterator[str]:
    heads = ("asked", "judged", "right", "MUST broken", "SHOULD broken", "unsafe", "differs")
    yield '<div class="wide"><table><thead><tr><th>server</th>'
    yield "".join(f"<th>{head}</th>" for head in heads) + "</tr></thead><tbody>"
    for column in comparison.columns:
        score = score_server(comparison, column.name)
        cells = "".join(
            f'<td class="{kind if number else ""}">{number}</td>'
            for number, kind in _list_numbers(score)
        )
        differs = "" if column.name == comparison.reference else str(score.differs)
        crashes = f' <span class="badge">died {score.crashes} times</span>' if score.crashes else ""
        yield (
            f"<tr><td>{escape(column.name)} {escape(column.version)}{crashes}</td>{cells}"
            f"<td>{differs}</td></tr>"
        )
    yield "</tbody></table></div>"
    yield (
        '<p class="dim">Right: as the specification demands, of the exchanges that it judges. '
        "Unsafe: a broken demand that can be exploited.</p>"
    )


def _list_numbers(score: Score) -> list[tuple[int, str]]:
    return [
        (score.exchanges, ""),
        (score.judged, ""),
        (score.right, "good"),
        (score.must, "bad"),
        (score.should, "warn"),
        (score.security, "bad"),
    ]


def _render_general(comparison: Comparison) -> Iterator[str]:
    for name, found in comparison.general.items():
        if not found:
            continue
        yield f"<h2>Alike in many exchanges: {escape(comparison.reference)} / {escape(name)}</h2>"
        yield "<ul>"
        for general in found:
            taken = general.difference in comparison.accepted_general.get(name, ())
            yield (
                f"<li><code>{escape(str(general.difference))}</code> "
                f'<span class="dim">{len(general.ids)} exchanges{", accepted" * taken}</span></li>'
            )
        yield "</ul>"


def _render_cases(comparison: Comparison) -> Iterator[str]:
    names = [column.name for column in comparison.columns]
    rows = [row for row in comparison.rows if row.differs() or _kinds(row) - {"accepted"}]
    if not rows:
        return
    yield "<h2>Exchanges that differ, or are answered wrongly</h2>"
    yield '<div class="filter" hidden><input type="search" id="find" placeholder="find">'
    labels = (("differs", "differs"), ("wrong", "somebody is wrong"), ("security", "unsafe"))
    for value, text in labels:
        checked = " checked" if value == "differs" else ""
        yield f'<label><input type="checkbox" value="{value}"{checked}> {text}</label>'
    yield '<span class="dim" id="shown"></span></div>'
    for group, members in groupby(rows, key=lambda row: row.exchange.group):
        yield f'<section class="group"><h3>{escape(group)}</h3><div class="row heads"><span></span>'
        yield "".join(f"<span>{escape(name)}</span>" for name in names) + "</div>"
        for row in members:
            yield from _render_case(row, names, group)
        yield "</section>"


def _kinds(row: Row) -> set[str]:
    wrong = any(verdict.judgement == "wrong" for verdict in row.verdicts.values())
    policy = any(verdict.policy_faults for verdict in row.verdicts.values())
    kinds = {"wrong"} if wrong or policy else set()
    if row.differs():
        kinds.add("differs")
    if wrong and row.exchange.security:
        kinds.add("security")
    return kinds


def _render_case(row: Row, names: list[str], group: str) -> Iterator[str]:
    exchange = row.exchange
    searched = escape(f"{exchange.id} {exchange.title} {exchange.rfc}".lower(), quote=True)
    kinds = " ".join(sorted(_kinds(row)))
    yield f'<details class="case" data-kinds="{kinds}" data-text="{searched}"><summary>'
    yield f'<span class="row"><span>{escape(exchange.title)}</span>'
    for name in names:
        text, colours = describe_cell(row, names[0], name, short=False)
        kind = {"red": "bad", "yellow": "warn", "green": "good"}.get((*colours, "")[0], "")
        server = escape(name, quote=True)
        yield f'<span class="cell {kind}" data-server="{server}">{escape(text)}</span>'
    yield "</span></summary>"
    yield '<div class="body">'
    yield f"<p><code>{escape(exchange.id)}</code></p>"
    if exchange.rfc:
        badge = ' <span class="badge">security</span>' if exchange.security else ""
        yield f"<p>{escape(exchange.rfc)}, {exchange.level}{badge}: {escape(exchange.demand)}</p>"
    yield from _render_said(row, names)
    yield '<div class="sides"><div><strong>Sent</strong>'
    yield f"<pre>{_show_sent(row)}</pre></div>"
    for name in names:
        if name in row.transcripts:
            yield f"<div><strong>{escape(name)}</strong>"
            yield f"<pre>{_show_received(row, name)}</pre></div>"
    yield "</div></div></details>"


def _render_said(row: Row, names: list[str]) -> Iterator[str]:
    items = []
    for name in names:
        verdict = row.verdicts.get(name)
        if verdict is None:
            continue
        who = f"<strong>{escape(name)}</strong>"
        items += [f"{who} differs: {escape(str(one))}" for one in row.differences.get(name, ())]
        items += [f"{who} is accepted: {escape(str(one))}" for one in row.accepted.get(name, ())]
        if verdict.judgement == "wrong":
            wrong = f'{who} is <span class="bad">wrong</span>'
            items += [f"{wrong}: {escape(fault)}" for fault in verdict.faults]
        items += [f"{who}, by our policy: {escape(fault)}" for fault in verdict.policy_faults]
        ending = row.answers[name].connection
        if ending not in ("open", "closed"):
            items.append(f"{who} {escape(ENDING_NOTES[ending])}")
    if items:
        yield "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _show_sent(row: Row) -> str:
    lines: list[str] = []
    for step in row.exchange.steps:
        if step.kind == "send":
            lines += [line.text for line in split_lines(step.data)]
        else:
            lines.append(f"-- {step.kind} {step.awaited}".rstrip())
    return _show(lines)


def _show_received(row: Row, name: str) -> str:
    return _show([line.text for line in list_lines(row.transcripts[name])])


def _show(lines: list[str]) -> str:
    shown = [line if len(line) <= 2000 else f"{line[:2000]} ..." for line in lines[:LINES_LIMIT]]
    if len(lines) > LINES_LIMIT:
        shown.append(f"... {len(lines) - LINES_LIMIT} more lines")
    return escape("\n".join(shown))
