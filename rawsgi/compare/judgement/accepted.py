"""The differences that somebody has looked at and accepted: a text file, one a line.

`ID SERVER DIFFERENCE`, for example

    conformance/host/missing gunicorn responses: 400 / 200
    * gunicorn environ RAW_URI: (absent) / (present)

`*` stands for any exchange, any server or any difference; `#` begins a comment. The rule: a line
accepts exactly what it names, so that the same exchange differing in another way is news.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rawsgi.compare.judgement.comparison import Comparison, generalise_difference
from rawsgi.compare.judgement.difference import Difference

_HEADER = """\
# Differences accepted for rawsgi compare: ID SERVER DIFFERENCE, the values as {reference} / SERVER.
# `*` stands for any exchange, any server or any difference.
"""


class AcceptedError(Exception):
    """The file cannot be read. The message is one line for the user."""


@dataclass(slots=True)
class Entry:
    """One line of the file. used: whether it accepted something in this run."""

    id: str
    server: str
    difference: str
    used: bool = field(default=False, compare=False)

    def accepts(self, id_: str, server: str, differences: Sequence[str]) -> bool:
        """Say whether it accepts a difference, given as it stands and as it is generalised."""
        fits = (
            self.id in ("*", id_)
            and self.server in ("*", server)
            and (self.difference == "*" or self.difference in differences)
        )
        self.used = self.used or fits
        return fits


def read_accepted(path: Path) -> list[Entry]:
    """Read the file. Raises AcceptedError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise AcceptedError(f"{path}: {reason}") from error
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.strip().split(None, 2)
        if len(words) < 3:
            raise AcceptedError(f"{path}:{number}: not ID SERVER DIFFERENCE: {line.strip()!r}")
        entries.append(Entry(words[0], words[1], words[2]))
    return entries


def apply_accepted(comparison: Comparison, entries: Sequence[Entry]) -> None:
    """Move what the entries accept out of the comparison's differences."""
    for row in comparison.rows:
        for server, differences in row.differences.items():
            taken = [d for d in differences if _is_accepted(entries, row.exchange.id, server, d)]
            row.accepted[server] = taken
            row.differences[server] = [d for d in differences if d not in taken]
    for server, found in comparison.general.items():
        comparison.accepted_general[server] = [
            general.difference
            for general in found
            if _is_accepted(entries, "*", server, general.difference)
        ]


def _is_accepted(entries: Sequence[Entry], id_: str, server: str, difference: Difference) -> bool:
    texts = [str(difference), str(generalise_difference(difference))]
    # Not any(): every entry that fits is in use.
    return bool([entry for entry in entries if entry.accepts(id_, server, texts)])


def write_accepted(path: Path, comparison: Comparison) -> int:
    """Write all that differs, or was accepted, to the file; return the number of lines.

    Raises AcceptedError.
    """
    lines = list(_list_lines(comparison))
    text = _HEADER.format(reference=comparison.reference) + "".join(f"{line}\n" for line in lines)
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise AcceptedError(f"{path}: {error.strerror}") from error
    return len(lines)


def _list_lines(comparison: Comparison) -> Iterator[str]:
    for server, found in comparison.general.items():
        for general in found:
            yield f"* {server} {general.difference}"
    for row in comparison.rows:
        for server, differences in row.differences.items():
            for difference in sorted([*differences, *row.accepted.get(server, ())]):
                yield f"{row.exchange.id} {server} {difference}"
