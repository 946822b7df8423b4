"""One exchange: the steps that a client does, and what must come back.

The rule: an exchange is a value. It holds demands in the words of the specification and nothing of
how they are written in a file (`files`) or asked of a server (`rawsgi.compare.replay`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Level: TypeAlias = Literal["MUST", "SHOULD", "MAY", "OUR"]
Connection: TypeAlias = Literal["closed", "open", "any"]
StepKind: TypeAlias = Literal["send", "half-close", "await", "reconnect"]
# The statuses of one response: any of them is right. 0 means that the response may be missing.
Alternatives: TypeAlias = tuple[int, ...]

NO_RESPONSE: Final = 0
LEVELS: Final[tuple[Level, ...]] = ("MUST", "SHOULD", "MAY", "OUR")
CONNECTIONS: Final[tuple[Connection, ...]] = ("closed", "open", "any")
RELAXATIONS: Final = ("bare-lf", "missing-host", "obs-fold", "underscores")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the client does. Steps are done in order.

    kind "send": write `data`. "half-close": end the sending side, go on reading.
    "await": go on once `awaited` has come, an interim status ("100") or "response", one further
    complete final response; if it does not come in the tester's time, go on nevertheless.
    "reconnect": read until nothing more comes, close, and go on with a new connection.
    """

    kind: StepKind
    data: bytes = b""
    awaited: str = ""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must come back. `None` or an empty mapping: not looked at.

    responses: the final statuses in order, each a tuple of alternatives.
    interim: the 1xx statuses in order, each a tuple of alternatives.
    connection: after the last response.
    complete: whether the last response ended as its own framing says; False demands that the
    client can notice a loss (a missing last chunk, fewer bytes than the Content-Length).
    reason: the reason phrase of the last response.
    content: the content of the last response, its transfer coding removed.
    fields: of the last response; a name in lower case, then all values of that name in order.
    environ: what the probe application saw in the last request; any of the texts is right.
    reason, content, complete, fields and environ are looked at only if no response is missing and
    the last has the first of its alternatives: in `responses = [[200, 400]]` they speak of the 200.
    early_close: the server may close after any of the responses and leave out those that follow.
    """

    responses: tuple[Alternatives, ...]
    interim: tuple[Alternatives, ...] | None
    connection: Connection
    complete: bool
    reason: str | None
    content: bytes | None
    fields: Mapping[str, tuple[str, ...]]
    present_fields: frozenset[str]
    absent_fields: frozenset[str]
    environ: Mapping[str, tuple[str, ...]]
    absent_environ: frozenset[str]
    early_close: bool = False

    def allows_responses(self, statuses: Sequence[int], *, closed: bool = False) -> bool:
        """Say whether these final statuses, in order, are among the expected ones.

        closed: whether the server closed the connection after the last of them.
        """
        if self.early_close and closed and 0 < len(statuses) < len(self.responses):
            return match_statuses(self.responses[: len(statuses)], statuses)
        return match_statuses(self.responses, statuses)

    def allows_interim(self, statuses: Sequence[int]) -> bool:
        """Say whether these 1xx statuses, in order, are among the expected ones."""
        return self.interim is None or match_statuses(self.interim, statuses)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One case of the corpus.

    id: the path below the corpus folder without its suffix, e.g. "conformance/framing/both".
    rfc: where the demand stands; demand: what it is, in our words.
    level: of the demand; "OUR" is rawsgi's own policy, to which no other server is held.
    security: whether a wrong answer can be exploited (smuggling, injection, exhaustion).
    heads: the positions (from 0) of the responses that answer a HEAD request, and so have no
    content whatever their fields say.
    expect: what rawsgi answers. rfc_expect: what any server must answer; None where the
    specification leaves it open. allow_expect: what rawsgi answers under `--allow {allow}`.
    """

    id: str
    title: str
    rfc: str
    demand: str
    level: Level
    security: bool
    steps: tuple[Step, ...]
    heads: frozenset[int]
    expect: Expectation
    rfc_expect: Expectation | None
    allow: str | None
    allow_expect: Expectation | None

    @property
    def part(self) -> str:
        """The first folder: "conformance" or "wsgi"."""
        return self.id.partition("/")[0]

    @property
    def group(self) -> str:
        """The folder of the file, e.g. "conformance/framing"."""
        return self.id.rpartition("/")[0]

    @property
    def judges_others(self) -> bool:
        """Whether a server other than rawsgi can be wrong here."""
        return self.rfc_expect is not None

    def sent(self) -> bytes:
        """All bytes that the client sends, over all steps (and connections)."""
        return b"".join(step.data for step in self.steps)


def match_statuses(expected: Sequence[Alternatives], statuses: Sequence[int]) -> bool:
    """Say whether `statuses` fit, in order; an alternative 0 lets the response be missing."""
    if not expected:
        return not statuses
    first, rest = expected[0], expected[1:]
    if statuses and statuses[0] in first and match_statuses(rest, statuses[1:]):
        return True
    return NO_RESPONSE in first and match_statuses(rest, statuses)
