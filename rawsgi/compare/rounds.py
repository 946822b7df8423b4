"""Ask all servers the same, and ask again what is to be reported.

The rule: what is reported has been seen twice. An exchange whose answers differ, or are wrong, is
replayed once more before it counts; where the answer changes, three more looks decide, and where
these are not all alike the server's answer is said to be unstable.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from rawsgi.compare.exchanges import Exchange
from rawsgi.compare.judgement.answer import Answer, normalise_transcript
from rawsgi.compare.judgement.comparison import Row
from rawsgi.compare.judgement.difference import compare_answers, find_volatile
from rawsgi.compare.judgement.verdict import judge_answer
from rawsgi.compare.replay.replayer import WAITING_WORKERS, Replayer, repeatable
from rawsgi.compare.replay.transcript import Transcript

OURS: Final = "rawsgi"
SERVERS_AT_ONCE: Final = 6
DECIDING_LOOKS: Final = 3
# What lasts longer than this mostly waits, and disturbs nobody.
SLOW_S: Final = 0.3


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
    with ThreadPoolExecutor(SERVERS_AT_ONCE) as pool, cancelled_on_error(cancelled):
        results = list(
            pool.map(lambda replayer: replayer.replay(exchanges, on_done, workers), replayers)
        )
        rows = [Row(exchange) for exchange in exchanges]
        for replayer, transcripts in zip(replayers, results, strict=True):
            for row in rows:
                if row.exchange.id in transcripts:
                    _put(row, replayer.server.name, transcripts[row.exchange.id])
        if cancelled.is_set():
            return rows
        names = [replayer.server.name for replayer in replayers]
        for row in rows:
            _find_differences(row, names, ignored)
        again = [row for row in rows if repeatable(row.exchange)]
        list(pool.map(lambda replayer: _confirm(replayer, again), replayers))
    for row in rows:
        _find_differences(row, names, ignored)
    return rows


@contextlib.contextmanager
def cancelled_on_error(cancelled: threading.Event) -> Iterator[None]:
    """Tell the threads to stop before their pool waits for them, on Ctrl-C above all."""
    try:
        yield
    except BaseException:
        cancelled.set()
        raise


def _put(row: Row, name: str, transcript: Transcript) -> None:
    answer = _normalise(row, transcript)
    row.transcripts[name] = transcript
    row.answers[name] = answer
    row.verdicts[name] = judge_answer(row.exchange, answer, ours=name == OURS)


def _normalise(row: Row, transcript: Transcript) -> Answer:
    return normalise_transcript(transcript, transcript.port, row.exchange.part)


def _is_doubtful(row: Row, name: str) -> bool:
    """Say whether there is something to report of this server, and so a second look is needed.

    Of the reference, wherever another one differs from it. Also where a server said nothing: it may
    have been another exchange's fault. What is the user's is always asked twice, to find out what
    the application itself varies.
    """
    answer, verdict = row.answers[name], row.verdicts[name]
    if row.exchange.part == "yours" or not answer.responses or answer.garbage:
        return True
    if verdict.judgement == "wrong" or verdict.policy_faults:
        return True
    return bool(row.differences[name]) if name in row.differences else row.differs()


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
    """Replay the rows again on one server; where the answer changes, further looks decide."""
    name = replayer.server.name
    here = [row for row in rows if name in row.answers and _is_doubtful(row, name)]
    again = _replay_again(replayer, here)
    changed = [
        row
        for row in here
        if row.exchange.id in again and not _is_same(row, name, again[row.exchange.id])
    ]
    deciding = [row for row in changed if row.exchange.part != "yours"]
    looks = [_replay_again(replayer, deciding) for _ in range(DECIDING_LOOKS)]
    for row in changed:
        id_ = row.exchange.id
        _settle(row, name, again[id_], [look[id_] for look in looks if id_ in look])


def _replay_again(replayer: Replayer, rows: Sequence[Row]) -> dict[str, Transcript]:
    """Replay one at a time, but together what mostly waited."""
    name = replayer.server.name
    slow = [row.exchange for row in rows if row.transcripts[name].lasted_s() > SLOW_S]
    quick = [row.exchange for row in rows if row.transcripts[name].lasted_s() <= SLOW_S]
    again = replayer.replay(quick, workers=1)
    return again | replayer.replay(slow, workers=WAITING_WORKERS, thorough=True)


def _is_same(row: Row, name: str, transcript: Transcript) -> bool:
    return not compare_answers(row.answers[name], _normalise(row, transcript))


def _settle(row: Row, name: str, second: Transcript, looks: Sequence[Transcript]) -> None:
    """Decide where two answers differ: by further looks, or as what the application varies.

    Further looks that are all alike are believed: the first two were disturbed, by a crash say.
    """
    if row.exchange.part == "yours":
        row.volatile.update(find_volatile(row.answers[name], _normalise(row, second)))
        return
    answers = [_normalise(row, look) for look in looks]
    # Each server's thread touches only its own keys of the row.
    if answers:
        _put(row, name, looks[-1])
    if len(answers) < DECIDING_LOOKS or any(compare_answers(answers[0], one) for one in answers):
        row.unstable.add(name)
