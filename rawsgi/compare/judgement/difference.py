"""How two answers differ.

The rule: fields and keys are compared as multisets by name, since the order of different ones has
no meaning, and the contents of two responses only where their statuses are the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rawsgi.compare.judgement.answer import Answer, SeenResponse

Aspect = Literal[
    "responses", "interim", "connection", "garbage", "complete", "framing", "field", "content",
    "environ",
]  # fmt: skip

ABSENT: Final = "(absent)"
_VALUE_LIMIT: Final = 60


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One thing in which a server's answer differs from the reference's.

    where: the field name or environ key, or "". reference, other: the two values as text.
    """

    aspect: Aspect
    where: str
    reference: str
    other: str

    def __str__(self) -> str:
        name = f"{self.aspect} {self.where}".strip()
        return f"{name}: {self.reference} / {self.other}"


def compare_answers(
    reference: Answer, other: Answer, ignored: Iterable[str] = ()
) -> list[Difference]:
    """Return all differences between two answers, those that matter most first.

    ignored: names of fields (in any case), environ keys or aspects that do not count.
    """
    leave_out = {name.lower() for name in ignored}
    found = list(_compare_outlines(reference, other))
    if reference.statuses == other.statuses:
        for mine, theirs in zip(reference.responses, other.responses, strict=True):
            found += _compare_responses(mine, theirs)
    unique = dict.fromkeys(found)
    return [
        difference
        for difference in unique
        if difference.where.lower() not in leave_out and difference.aspect not in leave_out
    ]


def _compare_outlines(reference: Answer, other: Answer) -> Iterable[Difference]:
    if reference.statuses != other.statuses:
        yield Difference("responses", "", _list(reference.statuses), _list(other.statuses))
    if reference.interim != other.interim:
        yield Difference("interim", "", _list(reference.interim), _list(other.interim))
    if reference.connection != other.connection:
        yield Difference("connection", "", reference.connection, other.connection)
    if reference.garbage != other.garbage:
        said = {True: "not HTTP", False: "HTTP"}
        yield Difference("garbage", "", said[reference.garbage], said[other.garbage])


def _compare_responses(mine: SeenResponse, theirs: SeenResponse) -> Iterable[Difference]:
    if mine.own_page or theirs.own_page:
        return
    if mine.complete != theirs.complete:
        said = {True: "whole", False: "cut off"}
        yield Difference("complete", "", said[mine.complete], said[theirs.complete])
    if mine.framing != theirs.framing:
        yield Difference("framing", "", mine.framing, theirs.framing)
    yield from _compare_pairs("field", mine.counted_fields, theirs.counted_fields)
    if mine.environ is not None and theirs.environ is not None:
        yield from _compare_pairs("environ", mine.counted_environ, theirs.counted_environ)
    elif mine.content != theirs.content:
        yield Difference("content", "", _describe_content(mine), _describe_content(theirs))


def _compare_pairs(
    aspect: Aspect, mine: Sequence[tuple[str, str]], theirs: Sequence[tuple[str, str]]
) -> Iterable[Difference]:
    """Compare as multisets of values by name: the order of different fields has no meaning."""
    only_mine = Counter(mine) - Counter(theirs)
    only_theirs = Counter(theirs) - Counter(mine)
    for name in sorted({name for name, _ in (*only_mine, *only_theirs)}):
        yield Difference(aspect, name, _values(only_mine, name), _values(only_theirs, name))


def _values(pairs: Counter[tuple[str, str]], name: str) -> str:
    values = [value for key, value in pairs.elements() if key == name]
    return ", ".join(shorten(repr(value)) for value in values) if values else ABSENT


def _describe_content(seen: SeenResponse) -> str:
    content = seen.content
    if seen.environ is not None:
        # It holds ports, which differ in each run.
        return "(a report of environ)"
    if len(content) <= 40:
        return repr(content)[1:]
    return f"{len(content)} bytes ({hashlib.sha256(content).hexdigest()[:8]})"


def shorten(text: str, limit: int = _VALUE_LIMIT) -> str:
    """Cut `text` to `limit` characters; a digest keeps two long texts apart."""
    if len(text) <= limit:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{text[: limit - 11]}...({digest})"


def _list(statuses: Sequence[int]) -> str:
    return " ".join(str(status) for status in statuses) or "none"


def find_volatile(first: Answer, second: Answer) -> frozenset[str]:
    """Return the names of what one server answered differently to the same request.

    An application that shows the time or makes a session differs from itself: what does cannot
    be compared between servers.
    """
    names = set()
    for difference in compare_answers(first, second):
        names.add(difference.where or difference.aspect)
    return frozenset(names)
