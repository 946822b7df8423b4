"""Why rawsgi answers as it does, where it does not answer as most servers do.

The texts are written by hand in `reasons.toml`, by exchange or by a pattern of exchanges, after
somebody has looked at the bytes. The rule: a difference that is rawsgi's own is either explained
there, or demanded by the specification of which the others fall short, or reported as not
explained: `--markdown` then fails.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Final

from rawsgi.compare.judgement.comparison import Comparison, Row
from rawsgi.compare.judgement.difference import Difference

REASONS_FILE: Final = Path(__file__).parent / "reasons.toml"
NOT_EXPLAINED: Final = "not explained yet"
OURS: Final = "rawsgi"


@dataclass(frozen=True, slots=True)
class Reasons:
    """The texts. exchanges: by pattern of ids. general: by aspect and name ("environ RAW_URI")."""

    exchanges: Mapping[str, str]
    general: Mapping[str, str]

    def find(self, id_: str) -> str:
        """Return the text for an exchange, by its most special pattern, or ""."""
        fitting = [pattern for pattern in self.exchanges if fnmatchcase(id_, pattern)]
        return self.exchanges[max(fitting, key=len)] if fitting else ""

    def find_general(self, difference: Difference) -> str:
        """Return the text for a difference that is alike in many exchanges, or ""."""
        return self.general.get(f"{difference.aspect} {difference.where}".strip(), "")


@cache
def load_reasons() -> Reasons:
    """Read the file that is shipped."""
    table = tomllib.loads(REASONS_FILE.read_text("utf-8"))
    return Reasons(table["exchanges"], table["general"])


def is_own(row: Row, reference: str) -> bool:
    """Say whether rawsgi stands alone in a row, or with the fewer of those that were asked."""
    if reference != OURS or not row.differs():
        return False
    agreeing = sum(not differences for differences in row.differences.values())
    return agreeing * 2 < len(row.differences)


def explain_row(row: Row, reference: str) -> str:
    """Return why rawsgi answers as it does; "" where it is not alone or nobody has said it."""
    if not is_own(row, reference) or row.exchange.part == "yours":
        return ""
    return load_reasons().find(row.exchange.id) or _quote_demand(row)


def _quote_demand(row: Row) -> str:
    """The demand, where all who differ from it are wrong: then it is the reason."""
    differing = [name for name, differences in row.differences.items() if differences]
    wrong = all(row.verdicts[name].judgement == "wrong" for name in differing)
    return row.exchange.demand if wrong else ""


def list_unexplained(comparison: Comparison) -> list[str]:
    """Return the ids of exchanges, and general differences, that nobody has explained."""
    reference = comparison.reference
    rows = [
        row.exchange.id
        for row in comparison.rows
        if row.exchange.part != "yours"
        and is_own(row, reference)
        and not explain_row(row, reference)
    ]
    if reference != OURS:
        return rows
    return rows + sorted(set(_list_unexplained_general(comparison)))


def _list_unexplained_general(comparison: Comparison) -> Iterable[str]:
    for found in comparison.general.values():
        for general in found:
            if not load_reasons().find_general(general.difference):
                yield f"{general.difference.aspect} {general.difference.where}".strip()
