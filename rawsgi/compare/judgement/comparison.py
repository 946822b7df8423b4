"""The whole result of a comparison: the servers, a row for each exchange, and the scores.

The rule: what differs in many exchanges in the same way (a key that one server adds to environ,
say) is said once and not on every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from rawsgi.compare.exchanges import Exchange
from rawsgi.compare.judgement.answer import Answer
from rawsgi.compare.judgement.difference import ABSENT, Difference
from rawsgi.compare.judgement.verdict import Verdict
from rawsgi.compare.replay.transcript import Transcript

# A difference in a field, environ or framing that is the same in this many exchanges is general.
GENERAL_LEAST: Final = 8
_GENERAL_ASPECTS: Final = ("framing", "field", "environ")
PRESENT: Final = "(present)"

Answers = dict[str, Answer]
Transcripts = dict[str, Transcript]


@dataclass(slots=True)
class Row:
    """One exchange and what each server made of it; the dictionaries are by server name.

    differences: from the reference, without those that are general. accepted: those of them that
    the user has accepted. unstable: servers whose answer changed from run to run.
    volatile: what the application itself changes at each request, so that it is not compared.
    """

    exchange: Exchange
    answers: Answers = field(default_factory=dict)
    transcripts: Transcripts = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    differences: dict[str, list[Difference]] = field(default_factory=dict)
    accepted: dict[str, list[Difference]] = field(default_factory=dict)
    unstable: set[str] = field(default_factory=set)
    volatile: set[str] = field(default_factory=set)

    def differs(self) -> bool:
        """Say whether a server differs here from the reference in what was not accepted."""
        return any(self.differences.values())


@dataclass(frozen=True, slots=True)
class Column:
    """A server in the comparison."""

    name: str
    version: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class General:
    """A difference that is the same in many exchanges, and their ids."""

    difference: Difference
    ids: tuple[str, ...]


@dataclass(slots=True)
class Comparison:
    """The whole result. The first column is the reference.

    general: by server, the differences that are the same in many exchanges.
    accepted_general: those of them that the user has accepted. notes: what the user must know.
    """

    application: str
    columns: list[Column]
    rows: list[Row] = field(default_factory=list)
    general: dict[str, list[General]] = field(default_factory=dict)
    accepted_general: dict[str, list[Difference]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def reference(self) -> str:
        """The name of the server that the others are compared with."""
        return self.columns[0].name

    def differing_rows(self) -> list[Row]:
        """The rows with a difference that was not accepted."""
        return [row for row in self.rows if row.differs()]

    def unaccepted_general(self) -> int:
        """How many general differences were not accepted."""
        return sum(
            general.difference not in self.accepted_general.get(name, ())
            for name, found in self.general.items()
            for general in found
        )

    def is_same(self) -> bool:
        """Say whether nothing differs but what was accepted."""
        return not self.differing_rows() and not self.unaccepted_general()


def extract_general(rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[General]]:
    """Take the differences that are the same in many rows out of them; return them by server.

    A field or key that only one of two servers has is counted whatever its values are.
    """
    general: dict[str, list[General]] = {}
    for name in names[1:]:
        where: dict[Difference, list[str]] = {}
        here = [row for row in rows if name in row.differences]
        for row in here:
            for alike in {generalise_difference(one) for one in row.differences[name]}:
                where.setdefault(alike, []).append(row.exchange.id)
        general[name] = [
            General(difference, tuple(ids))
            for difference, ids in sorted(where.items())
            if len(ids) >= GENERAL_LEAST and difference.aspect in _GENERAL_ASPECTS
        ]
        known = {found.difference for found in general[name]}
        for row in here:
            row.differences[name] = [
                difference
                for difference in row.differences[name]
                if generalise_difference(difference) not in known
            ]
    return general


def generalise_difference(difference: Difference) -> Difference:
    """Leave out the values of a field or key that only one of two servers has."""
    if difference.reference == ABSENT:
        return replace(difference, other=PRESENT)
    if difference.other == ABSENT:
        return replace(difference, reference=PRESENT)
    return difference


@dataclass(frozen=True, slots=True)
class Score:
    """How one server did: numbers of exchanges.

    judged: those where the specification decides. right: of these, answered as it demands.
    must, should: broken demands by level; security: those of them that can be exploited.
    policy: where rawsgi does not do what its own corpus says. differs: from the reference, in
    what was not accepted.
    """

    exchanges: int
    judged: int
    right: int
    must: int
    should: int
    security: int
    policy: int
    differs: int
    unstable: int
    crashes: int


def score_server(comparison: Comparison, name: str) -> Score:
    """Count how one server did over all rows."""
    rows = [row for row in comparison.rows if name in row.verdicts]
    wrong = [row for row in rows if row.verdicts[name].judgement == "wrong"]
    judged = [row for row in rows if row.verdicts[name].judgement != "open"]
    return Score(
        exchanges=len(rows),
        judged=len(judged),
        right=len(judged) - len(wrong),
        must=sum(row.exchange.level == "MUST" for row in wrong),
        should=sum(row.exchange.level == "SHOULD" for row in wrong),
        security=sum(row.exchange.security for row in wrong),
        policy=sum(bool(row.verdicts[name].policy_faults) for row in rows),
        differs=sum(bool(row.differences.get(name)) for row in rows),
        unstable=sum(name in row.unstable for row in rows),
        crashes=sum(row.answers[name].connection == "crashed" for row in rows),
    )
