"""One connection's exchanges as files.

The rule of this file: what is kept in memory of an exchange is what will be on the disk, and that
is bounded.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

from rawsgi.wire.facts import Facts, Link
from rawsgi.wire.recording.folder import Folder
from rawsgi.wire.scanner import Part


class Recorder:
    """One connection's exchanges as files. A `Sink`: one call at a time."""

    def __init__(self, folder: Folder, size_limit_bytes: int, errors_only: bool) -> None:
        self._folder = folder
        self._size_limit_bytes = size_limit_bytes
        self._errors_only = errors_only
        self._request = bytearray()
        self._response = bytearray()

    def accept(self, link: Link) -> None: ...

    def take_request_part(self, facts: Facts, part: Part) -> None:
        self._append(self._request, part[1])

    def take_response_part(self, facts: Facts, part: Part) -> None:
        self._append(self._response, part[1])

    def _append(self, kept: bytearray, data: bytes) -> None:
        room = self._size_limit_bytes - len(kept)
        if room > 0:
            kept += data[:room]

    def pause(self, facts: Facts) -> None: ...

    def end(self, facts: Facts) -> None:
        request, response = bytes(self._request), bytes(self._response)
        self._request.clear()
        self._response.clear()
        if self._errors_only and not is_server_error(facts):
            return
        whole = len(request) == facts.received_bytes and (facts.complete or facts.error)
        # The request last: where it is, the rest is, too.
        files = {
            "response": response,
            "json": (json.dumps(self._describe(facts), indent=1) + "\n").encode(),
            "request" if whole else "request.cut": request,
        }
        self._folder.keep(make_name(facts), files)

    def _describe(self, facts: Facts) -> dict[str, Any]:
        moment = datetime.fromtimestamp(facts.time, UTC)
        return {
            "time": moment.isoformat(timespec="microseconds"),
            "remote": list(facts.link.remote),
            "server": list(facts.link.server),
            "method": facts.scanner.method,
            "target": facts.scanner.target,
            "status": facts.code or None,
            "error": str(facts.error) if facts.error else facts.aborted or None,
            "duration_s": round(facts.ended - facts.began, 6),
            "request_bytes": facts.received_bytes,
            "response_bytes": facts.sent_bytes,
            "reason_to_close": facts.reason_to_close or None,
            "secrets_masked": facts.scanner.masked,
        }

    def close(self, link: Link, reason: str) -> None: ...


def is_server_error(facts: Facts) -> bool:
    """A 5xx, a timeout, or a response that was broken off."""
    return facts.code >= 500 or facts.code == 408 or bool(facts.aborted)


def make_name(facts: Facts) -> str:
    """The name of a recording, without its suffix."""
    moment = datetime.fromtimestamp(facts.time, UTC)
    return f"{moment:%Y%m%dT%H%M%S.%f}-{os.getpid()}-{facts.link.number}-{facts.number}"
