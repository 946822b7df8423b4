"""What counts when two servers' answers are compared, and how two answers differ.

The rule: a difference that is reported must be one that a client or an application could notice.
So values that differ in every run (dates, ports), that only name the server, or that are the
server's own error page are normalised away here, in one place, and nowhere else.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rawsgi.compare.client import Ending, Transcript, read_environ
from rawsgi.compare.responses import Framing, Response

Aspect = Literal[
    "responses", "interim", "connection", "garbage", "complete", "framing", "field", "content",
    "environ",
]  # fmt: skip

ABSENT: Final = "(absent)"
# Said by what happens (`connection`) or by `framing`, or only names the server.
UNCOUNTED_FIELDS: Final = frozenset({"server", "connection", "keep-alive", "transfer-encoding"})
# Named by the server for itself, or different in each run.
UNCOUNTED_ENVIRON: Final = frozenset({"SERVER_SOFTWARE", "REMOTE_PORT"})
# Objects: their type is the server's business.
_OBJECT_KEYS: Final = frozenset({"wsgi.errors", "wsgi.file_wrapper"})
# Statuses by which a server refuses without asking the application.
_REFUSALS: Final = frozenset({408, 411, 413, 414, 417, 421, 431})
_VALUE_LIMIT: Final = 60


@dataclass(frozen=True, slots=True)
class SeenResponse:
    """One final response, as sent and as it counts.

    fields: as sent, names in lower case. counted_fields: normalised, sorted.
    environ: what the probe application reported, or None. counted_environ: normalised, sorted.
    own_page: the server wrote it itself, so that only its status counts.
    """

    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    counted_fields: tuple[tuple[str, str], ...]
    framing: Framing
    content: bytes
    complete: bool
    environ: Mapping[str, str] | None
    counted_environ: tuple[tuple[str, str], ...]
    own_page: bool

    def values(self, name: str) -> tuple[str, ...]:
        """Return the values of the field called `name` (in lower case), as sent."""
        return tuple(value for key, value in self.fields if key == name)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one server answered in one exchange, normalised.

    faults: what its responses have that RFC 9112 does not allow, in words.
    """

    interim: tuple[int, ...]
    responses: tuple[SeenResponse, ...]
    connection: Ending
    garbage: bool
    faults: tuple[str, ...] = ()

    @property
    def statuses(self) -> tuple[int, ...]:
        """The final statuses, in order."""
        return tuple(response.status for response in self.responses)


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


def normalise_transcript(transcript: Transcript, port: int, part: str) -> Answer:
    """Make an Answer of a Transcript of the server that listens at `port`.

    part: "conformance" and "wsgi" ran the probe application, "yours" another one.
    """
    if transcript.ending in ("crashed", "unreachable"):
        # How much came before the end is chance.
        return Answer((), (), transcript.ending, garbage=False)
    faults = {fault for response in transcript.responses for fault in response.faults}
    return Answer(
        interim=tuple(response.status for response in transcript.interims()),
        responses=tuple(_see(response, port, part) for response in transcript.finals()),
        connection=transcript.ending,
        garbage=bool(transcript.garbage),
        faults=tuple(sorted(faults)),
    )


def _see(response: Response, port: int, part: str) -> SeenResponse:
    environ = read_environ(response) if part != "yours" else None
    port_pattern = re.compile(rf"(?<=:){port}\b")
    fields = tuple((name.lower(), value) for name, value in response.fields)
    counted = []
    for name, value in fields:
        if name in UNCOUNTED_FIELDS or (name == "content-length" and response.framing != "none"):
            continue
        counted.append((name, "(date)" if name == "date" else port_pattern.sub("PORT", value)))
    return SeenResponse(
        status=response.status,
        reason=response.reason,
        fields=fields,
        counted_fields=tuple(sorted(counted)),
        framing=response.framing,
        content=response.content,
        complete=response.complete,
        environ=environ,
        counted_environ=_normalise_environ(environ or {}, port),
        own_page=_is_own_page(response.status, part),
    )


def _normalise_environ(environ: dict[str, str], port: int) -> tuple[tuple[str, str], ...]:
    normal = {}
    for key, value in environ.items():
        if key in UNCOUNTED_ENVIRON:
            continue
        if key in _OBJECT_KEYS:
            value = "(object)"
        elif value == str(port):
            value = "(port)"
        normal[key] = value
    return tuple(sorted(normal.items()))


def _is_own_page(status: int, part: str) -> bool:
    """Say whether the server, not the application, wrote a response with this status.

    The probe application answers 200 to all of `conformance`; elsewhere an application may
    answer 400 or 404 itself, and its content counts.
    """
    if part == "conformance":
        return status >= 400
    return status >= 500 or status in _REFUSALS or (part == "wsgi" and status == 400)


# --- differences ---


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
