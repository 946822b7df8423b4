"""The result for programs (JSON) and for the documentation (Markdown).

The rule: the JSON has a version number in `rawsgi_compare`; a key once there keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, Final

from rawsgi.compare.judgement.answer import Answer
from rawsgi.compare.judgement.comparison import Comparison, Row, score_server
from rawsgi.compare.judgement.difference import Difference
from rawsgi.compare.judgement.reasons import NOT_EXPLAINED, OURS, explain_row, is_own, load_reasons
from rawsgi.compare.report.table import describe_cell

FORMAT_VERSION: Final = 1
BEGIN_MARK: Final = "<!-- rawsgi compare: begin -->"
END_MARK: Final = "<!-- rawsgi compare: end -->"


def make_document(comparison: Comparison, date: str) -> dict[str, Any]:
    """Make the JSON document. date: ISO 8601."""
    return {
        "rawsgi_compare": FORMAT_VERSION,
        "date": date,
        "application": comparison.application,
        "seconds": round(comparison.seconds, 1),
        "same": comparison.is_same(),
        "reference": comparison.reference,
        "servers": [
            {
                "name": column.name,
                "version": column.version,
                "command": list(column.command),
                "score": asdict(score_server(comparison, column.name)),
            }
            for column in comparison.columns
        ],
        "general": {
            name: [
                {
                    **_difference(general.difference),
                    "exchanges": list(general.ids),
                    "accepted": general.difference in comparison.accepted_general.get(name, ()),
                }
                for general in found
            ]
            for name, found in comparison.general.items()
        },
        "exchanges": [_exchange(row, comparison.reference) for row in comparison.rows],
        "notes": list(comparison.notes),
    }


def _exchange(row: Row, reference: str) -> dict[str, Any]:
    exchange = row.exchange
    return {
        "id": exchange.id,
        "title": exchange.title,
        "rfc": exchange.rfc,
        "demand": exchange.demand,
        "level": exchange.level,
        "security": exchange.security,
        "differs": row.differs(),
        "reason": explain_row(row, reference),
        "volatile": sorted(row.volatile),
        "servers": {
            name: {
                **_answer(answer),
                "verdict": row.verdicts[name].judgement,
                "faults": list(row.verdicts[name].faults),
                "policy_faults": list(row.verdicts[name].policy_faults),
                "unstable": name in row.unstable,
                "differences": [_difference(d) for d in row.differences.get(name, ())],
                "accepted": [_difference(d) for d in row.accepted.get(name, ())],
            }
            for name, answer in row.answers.items()
        },
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "statuses": list(answer.statuses),
        "interim": list(answer.interim),
        "connection": answer.connection,
        "framing": [response.framing for response in answer.responses],
        "garbage": answer.garbage,
        "irregularities": list(answer.faults),
    }


def _difference(difference: Difference) -> dict[str, str]:
    return asdict(difference)


# --- Markdown ---


def render_markdown(comparison: Comparison, date: str, command: str) -> str:
    """Render the part of a Markdown page between the two marks, marks included."""
    lines = [
        BEGIN_MARK,
        f"Made on {date} by `{command}`. Do not edit: run it again.",
        "",
        *_render_scores(comparison),
        "",
        *_render_general(comparison),
        *_render_differences(comparison),
        END_MARK,
    ]
    return "\n".join(lines) + "\n"


def replace_marked(page: str, part: str) -> str:
    """Put `part` in the place of what is between the marks of `page`, or at its end."""
    begin, end = page.find(BEGIN_MARK), page.find(END_MARK)
    if begin < 0 or end < begin:
        return f"{page.rstrip()}\n\n{part}" if page.strip() else part
    after = page[end + len(END_MARK) :].removeprefix("\n")
    return page[:begin] + part + after


def _render_scores(comparison: Comparison) -> Iterator[str]:
    yield "| server | asked | judged | right | MUST broken | SHOULD broken | unsafe | differs |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for column in comparison.columns:
        score = score_server(comparison, column.name)
        differs = "" if column.name == comparison.reference else str(score.differs)
        yield (
            f"| {column.name} {column.version} | {score.exchanges} | {score.judged} "
            f"| {score.right} | {score.must} | {score.should} | {score.security} | {differs} |"
        )


def _render_general(comparison: Comparison) -> Iterator[str]:
    found = [
        (general.difference, name, len(general.ids))
        for name, several in comparison.general.items()
        for general in several
    ]
    if not found:
        return
    yield f"Alike in many exchanges ({comparison.reference} / the other):"
    yield ""
    yield "| difference | servers (exchanges) | why |"
    yield "|---|---|---|"
    for difference in sorted({difference for difference, _, _ in found}):
        servers = ", ".join(f"{name} ({count})" for one, name, count in found if one == difference)
        why = load_reasons().find_general(difference) if comparison.reference == OURS else ""
        if comparison.reference == OURS and not why:
            why = f"**{NOT_EXPLAINED}**"
        said = _escape_cell(_escape_code(str(difference)))
        yield f"| `{said}` | {servers} | {_escape_cell(why)} |"
    yield ""


def _render_differences(comparison: Comparison) -> Iterator[str]:
    names = [column.name for column in comparison.columns]
    for group, rows in groupby(comparison.differing_rows(), key=lambda row: row.exchange.group):
        yield f"### {group}"
        yield ""
        members = list(rows)
        yield "| exchange | demanded by | " + " | ".join(names) + " |"
        yield "|---|---|" + "---|" * len(names)
        for row in members:
            exchange = row.exchange
            kind = f"{exchange.rfc}, {exchange.level}" if exchange.rfc else ""
            if exchange.security:
                kind += ", security"
            cells = [describe_cell(row, names[0], name, short=False)[0] for name in names]
            title = f"{exchange.title} (`{exchange.id.removeprefix(group + '/')}`)"
            yield f"| {_escape_cell(title)} | {kind} | " + " | ".join(cells) + " |"
        yield ""
        yield from _render_reasons(members, group, names[0])


def _render_reasons(rows: Sequence[Row], group: str, reference: str) -> Iterator[str]:
    """Say why, where rawsgi stands alone or with the fewer; rows with one reason share a line."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if row.exchange.part != "yours" and is_own(row, reference):
            reason = explain_row(row, reference) or f"**{NOT_EXPLAINED}**"
            by_reason.setdefault(reason, []).append(row.exchange.id.removeprefix(group + "/"))
    if not by_reason:
        return
    yield f"Where {reference} is alone or with the fewer:"
    yield ""
    for reason, names in by_reason.items():
        yield f"- {', '.join(f'`{name}`' for name in names)}: {_escape_cell(reason)}"
    yield ""


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _escape_code(text: str) -> str:
    return text.replace("`", "'")
