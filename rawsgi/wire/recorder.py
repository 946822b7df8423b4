"""Exchanges kept as files: `--record DIR`.

    20261121T090000.123456-4711-12-1.request     the bytes of the request, secrets masked
    20261121T090000.123456-4711-12-1.response    the bytes of the response
    20261121T090000.123456-4711-12-1.json        when, who, what came of it

Time (UTC), process, connection, exchange: the names sort by time. A request of which not all was
kept is `.request.cut`, so that nobody replays half of it unawares.

The rule of this file: a file is there whole or not at all, for the owner's eyes only, and what
was asked for bounds the folder: the oldest exchange makes room for the newest.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from rawsgi.logs import log
from rawsgi.wire.conversation import Facts, Link
from rawsgi.wire.scanner import Part

_NAME = re.compile(
    r"([0-9]{8}T[0-9]{6}\.[0-9]{6}-[0-9]+-[0-9]+-[0-9]+)\.(?:request|request\.cut|response|json)"
)
# The folder may be shared by several processes: each looks again after so many of its own.
_LOOK_AGAIN = 64


class Folder:
    """Where the recordings go. One per process; any thread."""

    def __init__(self, path: str, limit: int) -> None:
        """Make the folder if it is not there. `limit`: how many exchanges are kept.

        Raises OSError when it cannot be written to.
        """
        self.path = os.path.abspath(path)
        self._limit = limit
        self._lock = threading.Lock()
        self._since_look = 0
        self._failing = False
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        self._write("probe", b"")
        _unlink(os.path.join(self.path, "probe"))
        self._names = self._look()

    def keep(self, name: str, files: dict[str, bytes]) -> None:
        """Write the files NAME.SUFFIX. A full disk costs the recording and is told once."""
        with self._lock:
            try:
                for suffix, data in files.items():
                    self._write(f"{name}.{suffix}", data)
                self._failing = False
            except OSError as error:
                if not self._failing:
                    self._failing = True
                    log.error("%s: exchanges cannot be recorded: %s", self.path, error.strerror)
                self._remove(name)
                return
            self._names.append(name)
            self._since_look += 1
            if self._since_look >= _LOOK_AGAIN:
                self._names = self._look()
            while len(self._names) > self._limit:
                self._remove(self._names.pop(0))

    def _write(self, name: str, data: bytes) -> None:
        path = os.path.join(self.path, name)
        draft = os.path.join(self.path, f".{name}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(draft, flags, 0o600), "wb") as file:
                file.write(data)
            os.rename(draft, path)
        except OSError:
            _unlink(draft)
            raise

    def _look(self) -> list[str]:
        """The names of all recordings there are, the oldest first."""
        self._since_look = 0
        found = {match[1] for entry in self._entries() if (match := _NAME.fullmatch(entry))}
        return sorted(found)

    def _entries(self) -> Iterator[str]:
        with os.scandir(self.path) as entries:
            for entry in entries:
                yield entry.name

    def _remove(self, name: str) -> None:
        for suffix in ("request", "request.cut", "response", "json"):
            _unlink(os.path.join(self.path, f"{name}.{suffix}"))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # another process was quicker


class Recorder:
    """One connection's exchanges as files. A `Sink`: one call at a time."""

    def __init__(
        self, folder: Folder, size_limit_bytes: int, errors_only: bool, masked: bool
    ) -> None:
        self._folder = folder
        self._size_limit_bytes = size_limit_bytes
        self._errors_only = errors_only
        self._masked = masked
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
            "secrets_masked": self._masked,
        }

    def close(self, link: Link, reason: str) -> None: ...


def is_server_error(facts: Facts) -> bool:
    """A 5xx, a timeout, or a response that was broken off."""
    return facts.code >= 500 or facts.code == 408 or bool(facts.aborted)


def make_name(facts: Facts) -> str:
    """The name of a recording, without its suffix."""
    moment = datetime.fromtimestamp(facts.time, UTC)
    return f"{moment:%Y%m%dT%H%M%S.%f}-{os.getpid()}-{facts.link.number}-{facts.number}"
