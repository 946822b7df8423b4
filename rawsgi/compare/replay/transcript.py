"""What one server did in one exchange, as the client saw it.

The rule: a transcript tells what happened and judges nothing. Its ending is one of a few words,
each an observation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from rawsgi.compare.replay.responses import Response

Ending = Literal[
    "open",  # the follow-up request on the same connection was answered
    "closed",  # the server ended the connection
    "waits",  # silent: it waits for more of the request
    "stuck",  # a follow-up request was swallowed: no answer, not closed
    "poisoned",  # the follow-up request was taken for something else than it is
    "endless",  # sent more, or for longer, than the tester takes
    "unreachable",  # no connection
    "crashed",  # the server died of it
    "blocked",  # not even others were answered meanwhile: nothing can be said
]
KEPT_RESPONSES: Final = 20
EventKind = Literal["sent", "received", "half-closed", "follow-up", "closed", "reset", "connected"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened on the wire. at_s: since the exchange began."""

    at_s: float
    kind: EventKind
    data: bytes = b""


@dataclass(slots=True)
class Transcript:
    """What one server did in one exchange.

    responses: all, interim ones too, over all connections, the follow-up's left out.
    late: what came only after the tester ended its sending side, having waited in vain.
    garbage: what was no response. ending: of the last connection.
    port: where the server listened, which its answers may name.
    """

    events: list[Event] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    late: list[Response] = field(default_factory=list)
    garbage: bytes = b""
    ending: Ending = "closed"
    port: int = 0

    def received(self) -> bytes:
        """All bytes that came, the follow-up's answer too."""
        return b"".join(event.data for event in self.events if event.kind == "received")

    def cut(self, limit_bytes: int) -> None:
        """Forget what came after the first `limit_bytes`, and responses past the first few."""
        kept: list[Event] = []
        room = limit_bytes
        for event in self.events:
            if event.kind == "received":
                if room > 0:
                    kept.append(replace(event, data=event.data[:room]))
                room -= len(event.data)
            else:
                kept.append(event)
        self.events = kept
        self.garbage = self.garbage[:limit_bytes]
        self.late = []
        self.responses = self.responses[:KEPT_RESPONSES]
        for response in self.responses:
            response.content = response.content[:limit_bytes]

    def lasted_s(self) -> float:
        """How long the exchange lasted, up to the last event, in seconds."""
        return self.events[-1].at_s if self.events else 0.0

    def finals(self) -> list[Response]:
        """The final responses, in order."""
        return [response for response in self.responses if not response.interim]

    def interims(self) -> list[Response]:
        """The interim responses, in order."""
        return [response for response in self.responses if response.interim]


def read_environ(response: Response) -> dict[str, str] | None:
    """Return the environ that the probe application reports, or None if this is no report."""
    if not response.content.startswith(b"{"):
        return None
    try:
        environ = json.loads(response.content)
    except ValueError:
        return None
    if not isinstance(environ, dict) or "REQUEST_METHOD" not in environ:
        return None
    return {str(key): str(value) for key, value in environ.items()}
