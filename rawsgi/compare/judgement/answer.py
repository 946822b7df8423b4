"""What counts of what a server answered: a transcript, normalised.

The rule: a difference that is reported must be one that a client or an application could notice.
So values that differ in every run (dates, ports), that only name the server, or that are the
server's own error page are normalised away here, in one place, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rawsgi.compare.replay.responses import Framing, Response
from rawsgi.compare.replay.transcript import Ending, Transcript, read_environ

# Said by what happens (`connection`) or by `framing`, or only names the server.
UNCOUNTED_FIELDS: Final = frozenset({"server", "connection", "keep-alive", "transfer-encoding"})
# Named by the server for itself, or different in each run.
UNCOUNTED_ENVIRON: Final = frozenset({"SERVER_SOFTWARE", "REMOTE_PORT"})
# Objects: their type is the server's business.
_OBJECT_KEYS: Final = frozenset({"wsgi.errors", "wsgi.file_wrapper"})
# Statuses by which a server refuses without asking the application.
_REFUSALS: Final = frozenset({408, 411, 413, 414, 417, 421, 431})


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
        if name == "allow":
            # A set of methods (RFC 9110 section 10.2.1): many frameworks give it in any order.
            value = ", ".join(sorted(method.strip() for method in value.split(",")))
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
