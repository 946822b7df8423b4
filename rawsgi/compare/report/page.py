"""The result as one page that can be sent to a colleague.

The rule: one file that refers to nothing outside itself (a Content-Security-Policy in it holds
browsers to that), readable in light and dark, on paper and without its script, which only filters.
Everything that came over the wire is escaped twice: made visible, then made HTML.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby
from os.path import commonprefix
from pathlib import Path
from typing import Final

from rawsgi.compare.judgement.comparison import Comparison, Row, Score, score_server
from rawsgi.compare.judgement.difference import Difference
from rawsgi.compare.judgement.reasons import OURS, explain_row, is_own, load_reasons
from rawsgi.compare.replay.transcript import Transcript
from rawsgi.compare.report.table import ENDING_NOTES, describe_cell
from rawsgi.compare.report.transcript import list_lines, pair_lines, split_lines

# Long transcripts are for --diff; a page with all of them could not be mailed.
LINES_LIMIT: Final = 60
LINE_LIMIT: Final = 600

_FOLDER: Final = Path(__file__).parent
_OTHER_CONTROLS: Final = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160)), "�")


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
    yield f"<title>{escape(title)}</title>\n<style>{_read_part('page.css')}</style>\n</head>"
    yield f'<body style="--servers: {len(names)}">\n<h1>{escape(title)}</h1>'
    of = f"application {escape(comparison.application)}, " if comparison.application else ""
    yield f'<p class="dim">{of}{escape(date)}, {comparison.seconds:.0f} s</p>'
    yield from _render_lead(comparison)
    yield "<h2>Verdict</h2>"
    yield from _render_scores(comparison)
    yield from _render_general(comparison)
    yield from _render_cases(comparison)
    yield f"<script>{_read_part('page.js')}</script>\n</body>\n</html>"


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
        yield f'<p class="warn">{_escape(note)}</p>'


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
        crashes = f' <span class="badge">killed by {score.crashes}</span>' if score.crashes else ""
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
    found: dict[Difference, list[str]] = {}
    for name, several in comparison.general.items():
        for general in several:
            taken = general.difference in comparison.accepted_general.get(name, ())
            text = f"{name} ({len(general.ids)}{', accepted' * taken})"
            found.setdefault(general.difference, []).append(text)
    if not found:
        return
    ours = comparison.reference == OURS
    reference = escape(comparison.reference)
    yield f'<details class="general"><summary>Alike in many exchanges ({len(found)})</summary>'
    yield '<div class="wide"><table><thead><tr>'
    yield f"<th>difference: {reference} / the other</th><th>servers (exchanges)</th>"
    yield f"{'<th>why</th>' * ours}</tr></thead><tbody>"
    for difference in sorted(found):
        why = f"<td>{escape(load_reasons().find_general(difference))}</td>" if ours else ""
        servers = escape(", ".join(found[difference]))
        yield f"<tr><td><code>{_escape(str(difference))}</code></td><td>{servers}</td>{why}</tr>"
    yield "</tbody></table></div></details>"


def _render_cases(comparison: Comparison) -> Iterator[str]:
    names = [column.name for column in comparison.columns]
    rows = [row for row in comparison.rows if row.differs() or _kinds(row, names[0])]
    if not rows:
        return
    yield "<h2>Exchanges that differ, or are answered wrongly</h2>"
    yield from _render_filter(names, list(dict.fromkeys(row.exchange.part for row in rows)))
    for group, members in groupby(rows, key=lambda row: row.exchange.group):
        yield f'<section class="group"><h3>{escape(group)}</h3><div class="row heads"><span></span>'
        yield "".join(f"<span>{escape(name)}</span>" for name in names) + "</div>"
        for row in members:
            yield from _render_case(row, names)
        yield "</section>"
    yield '<p class="none" id="nothing" hidden>No exchange is of this kind.</p>'


def _render_filter(names: list[str], parts: list[str]) -> Iterator[str]:
    yield '<div class="filter" hidden>'
    yield '<input type="search" id="find" placeholder="find" aria-label="find">'
    for id_, every, values in (
        ("corpus", "every corpus", parts),
        ("server", "every server", names[1:]),
    ):
        options = "".join(f"<option>{escape(value)}</option>" for value in values)
        yield f'<select id="{id_}" aria-label="{id_}"><option value="">{every}</option>{options}'
        yield "</select>"
    labels = [
        ("differs", "differs"),
        ("wrong", "somebody is wrong"),
        ("security", "unsafe"),
        *([("own", f"{names[0]} stands alone")] if names[0] == OURS else []),
    ]
    for value, text in labels:
        checked = " checked" if value == "differs" else ""
        yield f'<label><input type="checkbox" value="{value}"{checked}> {escape(text)}</label>'
    yield '<span class="dim" id="shown"></span></div>'


def _kinds(row: Row, reference: str) -> set[str]:
    wrong = any(verdict.judgement == "wrong" for verdict in row.verdicts.values())
    policy = any(verdict.policy_faults for verdict in row.verdicts.values())
    kinds = {"wrong"} if wrong or policy else set()
    if row.differs():
        kinds.add("differs")
    if wrong and row.exchange.security:
        kinds.add("security")
    if is_own(row, reference):
        kinds.add("own")
    return kinds


def _render_case(row: Row, names: list[str]) -> Iterator[str]:
    exchange = row.exchange
    searched = _escape(f"{exchange.id} {exchange.title} {exchange.rfc}".lower())
    kinds = " ".join(sorted(_kinds(row, names[0])))
    servers = _escape(" ".join(name for name in names if row.differences.get(name)))
    yield (
        f'<details class="case" data-corpus="{exchange.part}" data-kinds="{kinds}" '
        f'data-servers="{servers}" data-text="{searched}"><summary>'
    )
    yield f'<span class="row"><span>{_escape(exchange.title)}</span>'
    for name in names:
        text, colours = describe_cell(row, names[0], name, short=False)
        kind = {"red": "bad", "yellow": "warn", "green": "good"}.get((*colours, "")[0], "")
        server = escape(name, quote=True)
        yield f'<span class="cell {kind}" data-server="{server}">{escape(text)}</span>'
    yield "</span></summary>"
    yield '<div class="body">'
    yield f"<p><code>{_escape(exchange.id)}</code></p>"
    if exchange.rfc:
        badge = ' <span class="badge">security</span>' if exchange.security else ""
        yield f"<p>{escape(exchange.rfc)}, {exchange.level}{badge}: {escape(exchange.demand)}</p>"
    reason = explain_row(row, names[0])
    if reason and reason != exchange.demand:
        yield f'<p class="own">Why {escape(names[0])} does so: {escape(reason)}</p>'
    yield from _render_said(row, names)
    yield '<div class="sides"><div><strong>Sent</strong>'
    yield f"<pre>{_show_sent(row)}</pre></div>"
    reference = row.transcripts.get(names[0])
    for name in names:
        if name in row.transcripts:
            against = reference if name != names[0] else None
            yield f"<div><strong>{escape(name)}</strong>"
            yield f"<pre>{_show_received(row.transcripts[name], against)}</pre></div>"
    yield "</div></div></details>"


def _render_said(row: Row, names: list[str]) -> Iterator[str]:
    items = []
    for name in names:
        verdict = row.verdicts.get(name)
        if verdict is None:
            continue
        who = f"<strong>{escape(name)}</strong>"
        items += [f"{who} differs: {_escape(str(one))}" for one in row.differences.get(name, ())]
        items += [f"{who} is accepted: {_escape(str(one))}" for one in row.accepted.get(name, ())]
        if verdict.judgement == "wrong":
            wrong = f'{who} is <span class="bad">wrong</span>'
            items += [f"{wrong}: {_escape(fault)}" for fault in verdict.faults]
        items += [f"{who}, by our policy: {_escape(fault)}" for fault in verdict.policy_faults]
        ending = row.answers[name].connection
        if ending not in ("open", "closed"):
            items.append(f"{who} {escape(ENDING_NOTES[ending])}")
    if items:
        yield "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _show_sent(row: Row) -> str:
    lines: list[str] = []
    for step in row.exchange.steps:
        if step.kind == "send":
            lines += [escape(_cut(line.text)) for line in split_lines(step.data)]
        else:
            lines.append(escape(f"-- {step.kind} {step.awaited}".rstrip()))
    return _join(lines)


def _show_received(transcript: Transcript, reference: Transcript | None) -> str:
    """Show what came; what the reference sent otherwise is marked, byte by byte."""
    lines = list_lines(transcript)
    if reference is None:
        return _join([escape(_cut(line.text)) for line in lines])
    shown = []
    # What is past the limit is not shown, and would take its time.
    theirs_shown, mine_shown = lines[: 2 * LINES_LIMIT], list_lines(reference)[: 2 * LINES_LIMIT]
    for mine, theirs, same in pair_lines(mine_shown, theirs_shown):
        if theirs is None:
            continue
        text = _cut(theirs.text)
        if same or theirs.offset is None:
            shown.append(escape(text))
        else:
            shown.append(_mark_other(_cut(mine.text) if mine is not None else "", text))
    return _join(shown)


def _mark_other(mine: str, theirs: str) -> str:
    """Mark what is left of a line without the beginning and the end that both have."""
    start = len(commonprefix([mine, theirs]))
    limit = min(len(mine), len(theirs)) - start
    end = min(limit, len(commonprefix([mine[::-1], theirs[::-1]])))
    stop = len(theirs) - end
    marked = f"<mark>{escape(theirs[start:stop])}</mark>" if start < stop else ""
    return escape(theirs[:start]) + marked + escape(theirs[stop:])


def _cut(text: str) -> str:
    return text if len(text) <= LINE_LIMIT else f"{text[:LINE_LIMIT]} ..."


def _join(lines: list[str]) -> str:
    shown = lines[:LINES_LIMIT]
    if len(lines) > LINES_LIMIT:
        shown.append(f"... {len(lines) - LINES_LIMIT} more lines")
    return "\n".join(shown)


def _escape(text: str) -> str:
    """Escape for content and attributes; a control character of a file's name is none of ours."""
    return escape(text.translate(_OTHER_CONTROLS), quote=True)


def _read_part(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")
