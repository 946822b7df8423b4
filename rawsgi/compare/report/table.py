"""The result on a terminal, in a pipe or in a file: what differs, and the summary.

The rule: no line is wider than the width that is given (80 in a pipe), nothing is said by colour
alone, and an id that is shown can be given to `--diff` as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import wrap
from typing import Final

from rawsgi.compare.judgement.comparison import Comparison, Row, score_server
from rawsgi.compare.judgement.reasons import explain_row

_CODES: Final = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}
SHORT_ENDINGS: Final = {
    "closed": "c",
    "open": "o",
    "waits": "w",
    "stuck": "s",
    "poisoned": "p",
    "endless": "e",
    "unreachable": "u",
    "crashed": "X",
    "blocked": "b",
}
ENDING_NOTES: Final = {
    "closed": "connection closed",
    "open": "stays open",
    "waits": "waits for more of the request",
    "stuck": "the next request on the connection is swallowed",
    "poisoned": "the next request is taken for something else",
    "endless": "sends without end",
    "unreachable": "cannot be reached",
    "crashed": "the server dies",
    "blocked": "answers nobody meanwhile",
}
_ASPECT_ORDER: Final = ("complete", "interim", "garbage", "content", "environ", "field", "framing")
_CELL_SHORT: Final = 11
_CELL_WIDE: Final = 20
_LABEL_LEAST: Final = 25


class Style:
    """Paints text, or does not."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def paint(self, text: str, *names: str) -> str:
        """Return `text` in the named colours."""
        if not self._colour or not text.strip():
            return text
        return f"\x1b[{';'.join(_CODES[name] for name in names)}m{text}\x1b[0m"


def show_text(text: str) -> str:
    """Make text of unknown origin harmless to a terminal: what cannot be printed is escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def render_table(
    comparison: Comparison, width: int, style: Style, verbose: bool = False
) -> Iterator[str]:
    """Yield the lines of the whole report."""
    names = [column.name for column in comparison.columns]
    for chosen in _choose_columns(names, width):
        yield from _render_rows(comparison, chosen, width, style, verbose)
    if verbose:
        yield from _render_alike(comparison, names, width, style)
    yield from _render_general(comparison, width, style)
    yield from _render_summary(comparison, width, style)
    for note in comparison.notes:
        yield from wrap(show_text(f"Note: {note}"), width, subsequent_indent="      ")
    yield ""
    yield from _render_conclusion(comparison, width, style)


def _choose_columns(names: Sequence[str], width: int) -> list[list[str]]:
    """Split the servers into tables that fit; the reference is in each."""
    fit = max(1, (width - _LABEL_LEAST) // _CELL_SHORT - 1)
    others = names[1:]
    return [[names[0], *others[i : i + fit]] for i in range(0, len(others), fit)] or [[names[0]]]


def _render_rows(
    comparison: Comparison, names: Sequence[str], width: int, style: Style, verbose: bool
) -> Iterator[str]:
    cell = min(_CELL_WIDE, max(_CELL_SHORT, (width - 36) // len(names)))
    short = cell < 18
    label = width - cell * len(names)
    rows = [row for row in comparison.rows if any(row.differences.get(name) for name in names[1:])]
    if not rows:
        return
    yield ""
    title = f"Where they differ from {names[0]}"
    heads = "".join(_fit(name, cell - 1).rjust(cell) for name in names)
    if len(title) > label:
        yield style.paint(title, "bold")
        title = ""
    yield style.paint(title.ljust(label) + heads, "bold")
    for group, members in groupby(rows, key=lambda row: row.exchange.group):
        yield style.paint(group, "bold")
        for row in members:
            name = "  " + row.exchange.id.removeprefix(group + "/")
            cells = "".join(
                _render_cell(row, names[0], other, short, style, cell) for other in names
            )
            if len(name) > label:
                yield _fit(name, width)
                name = ""
            yield name.ljust(label) + cells
            if verbose:
                yield from _render_details(row, names, width, style)
    yield ""
    yield from _render_legend(rows, names, short, width, style)


def _render_alike(
    comparison: Comparison, names: Sequence[str], width: int, style: Style
) -> Iterator[str]:
    """Yield what was sent to the user's application and answered alike, so that it is seen."""
    rows = [row for row in comparison.rows if row.exchange.part == "yours" and not row.differs()]
    if not rows:
        return
    yield ""
    yield style.paint("Your application, answered alike", "bold")
    for row in rows:
        text, colours = describe_cell(row, names[0], names[0], short=False)
        cell = text.rjust(_CELL_WIDE)
        label = width - _CELL_WIDE
        yield _fit(f"  {row.exchange.id}", label - 1).ljust(label) + style.paint(cell, *colours)
        yield style.paint(_fit(f"    {show_text(row.exchange.title)}", width), "dim")


def _render_cell(row: Row, reference: str, name: str, short: bool, style: Style, width: int) -> str:
    text, colours = describe_cell(row, reference, name, short)
    return style.paint(_fit(text, width - 1).rjust(width), *colours)


def describe_cell(row: Row, reference: str, name: str, short: bool) -> tuple[str, tuple[str, ...]]:
    """Return the text of a cell and its colours."""
    answer = row.answers.get(name)
    if answer is None:
        return "-", ("dim",)
    mark, colours = _mark(row, name)
    ending = SHORT_ENDINGS[answer.connection] if short else answer.connection
    outline = f"{'+'.join(map(str, answer.statuses)) or 'none'} {ending}"
    differences = row.differences.get(name, [])
    if name != reference and not differences:
        # What was accepted, or differs generally, is not a difference here.
        text, colours = "=", (colours or ("dim",))
    elif {difference.aspect for difference in differences} & {"responses", "connection"}:
        text = outline
    elif differences:
        aspects = {difference.aspect for difference in differences}
        first = next((aspect for aspect in _ASPECT_ORDER if aspect in aspects), "")
        statuses = "+".join(map(str, answer.statuses)) or "none"
        text = f"{statuses} {first[:4] if short else first}"
    else:
        text = outline
    unstable = "~" if name in row.unstable else ""
    return f"{text}{unstable}{mark and ' ' + mark}", colours


def _mark(row: Row, name: str) -> tuple[str, tuple[str, ...]]:
    verdict = row.verdicts[name]
    if verdict.judgement == "right":
        return "", ("green",)
    if verdict.judgement == "wrong":
        if row.exchange.security:
            return "!!", ("red", "bold")
        return ("!", ("red",)) if row.exchange.level == "MUST" else ("?", ("yellow",))
    return ("*", ("yellow",)) if verdict.policy_faults else ("", ())


def _render_details(row: Row, names: Sequence[str], width: int, style: Style) -> Iterator[str]:
    exchange = row.exchange
    kind = f"{exchange.rfc}; {exchange.level}{'; security' if exchange.security else ''}"
    if exchange.part == "yours":
        kind = ""
    title = show_text(exchange.title) + (f" ({kind})" if kind else "")
    for text in wrap(title, width - 4):
        yield style.paint("    " + text, "dim")
    reason = explain_row(row, names[0])
    for text in wrap(f"{names[0]}: {reason}", width - 6, subsequent_indent="  ") if reason else ():
        yield style.paint("      " + text, "dim")
    for name in names:
        verdict = row.verdicts.get(name)
        said = [str(difference) for difference in row.differences.get(name, ())]
        if verdict is not None and verdict.judgement == "wrong":
            said += [f"wrong: {fault}" for fault in verdict.faults]
        if verdict is not None:
            said += [f"not our policy: {fault}" for fault in verdict.policy_faults]
        for text in said:
            lines = wrap(f"{name}: {text}", width - 6, subsequent_indent="  ")
            yield from (style.paint("      " + line, "dim") for line in lines)


def _render_legend(
    rows: Sequence[Row], names: Sequence[str], short: bool, width: int, style: Style
) -> Iterator[str]:
    endings = dict.fromkeys(
        row.answers[name].connection for row in rows for name in names if name in row.answers
    )
    texts = [
        f"{SHORT_ENDINGS[ending] if short else ending} {ENDING_NOTES[ending]}"
        for ending in ENDING_NOTES
        if ending in endings
    ]
    marks = (
        f"= as {names[0]}; !! breaks the specification and can be exploited; ! breaks a MUST; "
        "? breaks a SHOULD; no mark: right, or left open; ~ changes from run to run"
    )
    if any(verdict.policy_faults for row in rows for verdict in row.verdicts.values()):
        marks += "; * not as rawsgi's own policy has it"
    for text in wrap("; ".join(texts) + ".", width) + wrap(marks + ".", width):
        yield style.paint(text, "dim")


def _render_general(comparison: Comparison, width: int, style: Style) -> Iterator[str]:
    for name, found in comparison.general.items():
        accepted = comparison.accepted_general.get(name, ())
        shown = [general for general in found if general.difference not in accepted]
        if not shown:
            continue
        yield ""
        yield style.paint(f"In many exchanges alike: {comparison.reference} / {name}", "bold")
        for general in shown:
            count = f" ({len(general.ids)})"
            lines = wrap(str(general.difference), width - 2 - len(count), subsequent_indent="  ")
            lines[-1] += count
            yield from ("  " + line for line in lines)


def _render_summary(comparison: Comparison, width: int, style: Style) -> Iterator[str]:
    names = [column.name for column in comparison.columns]
    heads = ["asked", "judged", "right", "MUST", "SHOULD", "unsafe", "differs", "crashes"]
    if width < 16 + 8 * len(heads):
        heads = ["right", "MUST", "SHOULD", "unsafe"]
    yield ""
    label = max(16, width - 8 * len(heads))
    yield (
        style.paint("Verdict".ljust(label)[: label - 1], "bold")
        + " "
        + style.paint("".join(head.rjust(8) for head in heads), "bold")
    )
    for column in comparison.columns:
        score = score_server(comparison, column.name)
        differs = score.differs if column.name != names[0] else None
        numbers: dict[str, tuple[int | None, str]] = {
            "asked": (score.exchanges, ""),
            "judged": (score.judged, ""),
            "right": (score.right, "green"),
            "MUST": (score.must, "red"),
            "SHOULD": (score.should, "yellow"),
            "unsafe": (score.security, "red"),
            "differs": (differs, ""),
            "crashes": (score.crashes, "red"),
        }
        cells = ""
        for number, colour in (numbers[head] for head in heads):
            text = ("-" if number is None else str(number)).rjust(8)
            cells += style.paint(text, colour) if colour and number else text
        title = _fit(f"{column.name} {column.version}".strip(), label - 1)
        yield title.ljust(label) + cells
    text = (
        "right: as the specification demands, of those judged. MUST, SHOULD: broken demands; "
        "unsafe: those of them that can be exploited. differs: from "
        f"{comparison.reference}, nothing accepted counted."
    )
    yield from (style.paint(line, "dim") for line in wrap(text, width))
    ours = {name: score_server(comparison, name).policy for name in names}
    for name, policy in ours.items():
        if policy:
            yield f"{name}: {policy} exchanges are not as its own corpus says."


def _render_conclusion(comparison: Comparison, width: int, style: Style) -> Iterator[str]:
    rows, general = len(comparison.differing_rows()), comparison.unaccepted_general()
    accepted = sum(any(row.accepted.values()) for row in comparison.rows)
    tail = f" {accepted} exchanges differ as accepted." if accepted else ""
    seconds = f" {comparison.seconds:.0f} s."
    if comparison.is_same():
        total = len(comparison.rows)
        text = f"Nothing differs in {total} exchange{'s' * (total > 1)}.{tail}{seconds}"
        yield from (style.paint(line, "green") for line in wrap(text, width))
        return
    text = f"{rows} of {len(comparison.rows)} exchanges differ"
    if general:
        text += f", and {general} things everywhere or in many"
    first = next((row.exchange.id for row in comparison.differing_rows()), "")
    hint = f" See one with --diff {first}" if first else ""
    yield from wrap(f"{text}.{tail}{seconds}{hint}", width, break_on_hyphens=False)


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "~"
