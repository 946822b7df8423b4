"""Judge an answer: is it what the specification, or our own policy, demands?

The rule: only what the exchange's expectation says is judged, and a server other than rawsgi is
judged by `rfc_expect` alone: a policy of ours binds nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rawsgi.compare.exchanges import Alternatives, Exchange, Expectation
from rawsgi.compare.judgement.answer import Answer, SeenResponse
from rawsgi.compare.judgement.difference import shorten

# "open": the specification leaves it open, or nothing was demanded.
Judgement = Literal["right", "wrong", "open"]

_ENDINGS = {
    "open": "the connection stays open",
    "closed": "the connection is closed",
    "waits": "it waits for more of the request",
    "stuck": "the next request on the connection gets no answer",
    "poisoned": "the next request on the connection is taken for something else",
    "endless": "it sends without end",
    "unreachable": "it cannot be reached",
    "crashed": "it crashes",
    "blocked": "it answers nobody meanwhile",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """judgement: by the specification. faults: what is wrong, in words.

    policy_faults: where rawsgi does not do what its own policy says; empty for other servers.
    """

    judgement: Judgement
    faults: tuple[str, ...] = ()
    policy_faults: tuple[str, ...] = ()


def judge_answer(exchange: Exchange, answer: Answer, ours: bool) -> Verdict:
    """Judge one answer. ours: whether rawsgi gave it."""
    policy_faults = tuple(find_faults(exchange.expect, answer)) if ours else ()
    if exchange.part == "yours" or exchange.rfc_expect is None:
        return Verdict("open", (), policy_faults if exchange.part != "yours" else ())
    faults = tuple(find_faults(exchange.rfc_expect, answer))
    return Verdict("wrong" if faults else "right", faults, policy_faults)


def find_faults(expected: Expectation, answer: Answer) -> Iterable[str]:
    """Yield what in the answer is not as expected, in words."""
    if answer.connection in ("endless", "unreachable", "crashed", "blocked"):
        yield _ENDINGS[answer.connection]
        return
    closed = answer.connection == "closed"
    allowed = expected.allows_responses(answer.statuses, closed=closed)
    if not allowed:
        yield f"{_say_statuses(answer)}, not {_say_expected(expected.responses)}"
    if not expected.allows_interim(answer.interim):
        got = " ".join(map(str, answer.interim)) or "none"
        yield f"interim responses {got}, not {_say_expected(expected.interim or ())}"
    if expected.connection == "closed" and answer.connection != "closed":
        yield f"{_ENDINGS[answer.connection]}; it must be closed"
    if expected.connection == "open" and answer.connection not in ("open", "waits"):
        yield f"{_ENDINGS[answer.connection]}; it must stay open"
    if answer.garbage:
        yield "sends bytes that are no response"
    # With a response missing, the last that came is not the one that the details speak of.
    if allowed and answer.responses and len(answer.responses) == len(expected.responses):
        last = answer.responses[-1]
        if _details_hold(expected, last.status):
            yield from _find_detail_faults(expected, last)


def _details_hold(expected: Expectation, status: int) -> bool:
    """Say whether the details speak of this response: they do of the first alternative."""
    return bool(expected.responses) and expected.responses[-1][:1] == (status,)


def _find_detail_faults(expected: Expectation, last: SeenResponse) -> Iterable[str]:
    if expected.complete != last.complete:
        yield "the response is cut off" if expected.complete else "the loss cannot be noticed"
    if expected.reason is not None and expected.reason != last.reason:
        yield f"reason phrase {last.reason!r}, not {expected.reason!r}"
    if expected.content is not None and expected.content != last.content:
        yield f"content {_say(last.content)}, not {_say(expected.content)}"
    for name, values in expected.fields.items():
        if not _same_values(name, last.values(name), values):
            # The date of an answer is another one in each run.
            values_seen = ["(another date)"] if name == "date" else list(last.values(name))
            yield f"field {name}: {values_seen}, not {list(values)}"
    for name in sorted(expected.present_fields):
        if not last.values(name):
            yield f"field {name} is missing"
    for name in sorted(expected.absent_fields):
        if last.values(name):
            yield f"field {name} must not be there"
    if not (expected.environ or expected.absent_environ):
        return
    environ = last.environ
    if environ is None:
        yield "the application's report is missing"
        return
    for key, values in expected.environ.items():
        got = environ.get(key)
        if got not in values:
            shown = "absent" if got is None else shorten(repr(got))
            wanted = " or ".join(shorten(repr(value)) for value in values)
            yield f"environ {key}: {shown}, not {wanted}"
    for key in sorted(expected.absent_environ & set(environ)):
        yield f"environ {key} must not be there: {shorten(repr(environ[key]))}"


def _same_values(name: str, got: Sequence[str], wanted: Sequence[str]) -> bool:
    if name == "connection":
        # Connection options are case-insensitive: RFC 9110 section 7.6.1.
        return [value.lower() for value in got] == [value.lower() for value in wanted]
    return list(got) == list(wanted)


def _say(content: bytes) -> str:
    return shorten(repr(content)[1:])


def _say_statuses(answer: Answer) -> str:
    got = " ".join(map(str, answer.statuses)) or "no response"
    return f"{got} ({_ENDINGS[answer.connection]})" if answer.connection == "waits" else got


def _say_expected(expected: tuple[Alternatives, ...]) -> str:
    texts = []
    for alternatives in expected:
        names = ["nothing" if status == 0 else str(status) for status in alternatives]
        texts.append(" or ".join(names) or "any")
    return ", then ".join(texts) or "none"
