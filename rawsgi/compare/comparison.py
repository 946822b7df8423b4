"""Put the answers of several servers side by side: what differs, where, and who is right.

The rule: what is reported has been seen twice. An exchange whose answers differ, or are wrong, is
replayed once more before it counts; an answer that changes between the runs is decided by a third
one. What differs in many exchanges in the same way (a key that one server adds to environ, say) is
said once and not on every row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final

from rawsgi.compare.answer import (
    ABSENT,
    Answer,
    Difference,
    compare_answers,
    find_volatile,
    normalise_transcript,
)
from rawsgi.compare.client import Transcript
from rawsgi.compare.exchanges import Exchange
from rawsgi.compare.replay import WAITING_WORKERS, Replayer, repeatable
from rawsgi.compare.verdict import Verdict, judge_answer

SERVERS_AT_ONCE: Final = 3
# A difference in a field, environ or framing that is the same in this many exchanges is general.
GENERAL_LEAST: Final = 8
_GENERAL_ASPECTS: Final = ("framing", "field", "environ")
PRESENT: Final = "(present)"
OURS: Final = "rawsgi"
# What lasts longer than this mostly waits, and disturbs nobody.
SLOW_S: Final = 0.3

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
    volatile: frozenset[str] = frozenset()

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
    crashes: dict[str, int] = field(default_factory=dict)
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


def compare_servers(
    replayers: Sequence[Replayer],
    exchanges: Sequence[Exchange],
    ignored: Sequence[str],
    on_done: Callable[[], None],
    cancelled: threading.Event,
    workers: int,
) -> list[Row]:
    """Replay `exchanges` against all servers and return the rows, in the given order.

    The first replayer is the reference. workers: exchanges under way at each server; with 1
    they are sent in order, which matters to an application that has a state.
    """
    with ThreadPoolExecutor(SERVERS_AT_ONCE) as pool:
        results = list(
            pool.map(lambda replayer: replayer.replay(exchanges, on_done, workers), replayers)
        )
        rows = [Row(exchange) for exchange in exchanges]
        for replayer, transcripts in zip(replayers, results, strict=True):
            for row in rows:
                if row.exchange.id in transcripts:
                    _put(row, replayer, transcripts[row.exchange.id])
        if cancelled.is_set():
            return rows
        doubtful = [
            row
            for row in rows
            if repeatable(row.exchange)
            and (row.exchange.part == "yours" or _is_doubtful(row, replayers, ignored))
        ]
        list(pool.map(lambda replayer: _confirm(replayer, doubtful), replayers))
    for row in rows:
        _find_differences(row, [replayer.server.name for replayer in replayers], ignored)
    return rows


def _put(row: Row, replayer: Replayer, transcript: Transcript) -> None:
    name = replayer.server.name
    answer = normalise_transcript(transcript, replayer.server.address[1], row.exchange.part)
    row.transcripts[name] = transcript
    row.answers[name] = answer
    row.verdicts[name] = judge_answer(row.exchange, answer, ours=name == OURS)


def _is_doubtful(row: Row, replayers: Sequence[Replayer], ignored: Sequence[str]) -> bool:
    """Say whether the row has something to report, and so needs a second look.

    Also where a server said nothing and closed: it may have been another exchange's fault.
    """
    names = [replayer.server.name for replayer in replayers if replayer.server.name in row.answers]
    _find_differences(row, names, ignored)
    if any(not answer.responses or answer.garbage for answer in row.answers.values()):
        return True
    return row.differs() or any(
        verdict.judgement == "wrong" or verdict.policy_faults for verdict in row.verdicts.values()
    )


def _find_differences(row: Row, names: Sequence[str], ignored: Sequence[str]) -> None:
    present = [name for name in names if name in row.answers]
    if not present or names[0] not in row.answers:
        return
    reference = row.answers[names[0]]
    leave_out = [*ignored, *row.volatile]
    row.differences = {
        name: compare_answers(reference, row.answers[name], leave_out) for name in present[1:]
    }


def _confirm(replayer: Replayer, rows: Sequence[Row]) -> None:
    """Replay the rows again on one server; where the answer changes, a third run decides.

    One at a time, but for those that mostly waited.
    """
    name = replayer.server.name
    here = [row for row in rows if name in row.answers]
    slow = [row for row in here if row.transcripts[name].lasted_s() > SLOW_S]
    quick = [row for row in here if row.transcripts[name].lasted_s() <= SLOW_S]
    again = replayer.replay([row.exchange for row in quick], workers=1)
    again |= replayer.replay([row.exchange for row in slow], workers=WAITING_WORKERS, thorough=True)
    for row in here:
        if row.exchange.id in again:
            _settle(row, replayer, again[row.exchange.id])


def _settle(row: Row, replayer: Replayer, transcript: Transcript) -> None:
    name, part = replayer.server.name, row.exchange.part
    first = row.answers[name]
    second = normalise_transcript(transcript, replayer.server.address[1], part)
    if not compare_answers(first, second):
        return
    if part == "yours":
        row.volatile |= find_volatile(first, second)
        return
    # Shared state below: each server's thread touches only its own keys.
    again = replayer.replay([row.exchange], workers=1, thorough=True)
    if row.exchange.id not in again:
        return
    _put(row, replayer, again[row.exchange.id])
    third = row.answers[name]
    if compare_answers(second, third) and compare_answers(first, third):
        row.unstable.add(name)


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
        crashes=comparison.crashes.get(name, 0),
    )
