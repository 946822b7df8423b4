"""The folder that recordings go to: its limit, its modes, its failures.

The rule of this file: nothing is written over, nothing is followed, and whatever the disk says,
the server goes on.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Iterator

from rawsgi.logs import log

_SUFFIXES = ("request", "request.cut", "response", "json")
_FILE = (
    r"([0-9]{8}T[0-9]{6}\.[0-9]{6}-[0-9]+-[0-9]+-[0-9]+)\.(?:request|request\.cut|response|json)"
)
_NAME = re.compile(_FILE)
_DRAFT = re.compile(rf"\.(?:{_FILE}|probe)\.([0-9]{{1,9}})")
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
        self._close_to_others()
        self._drop_drafts()
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

    def _close_to_others(self) -> None:
        """A folder that holds nothing but recordings is made the owner's alone. Another stays as
        it is, and that is told: recordings are readable by their owner only, wherever they are."""
        mode = stat.S_IMODE(os.stat(self.path).st_mode)
        if not mode & 0o077:
            return
        try:
            if all(_NAME.fullmatch(name) or _DRAFT.fullmatch(name) for name in self._entries()):
                return os.chmod(self.path, 0o700)
        except OSError:
            pass  # somebody else's
        log.warning(
            "%s: others may look into this folder (mode %04o), not into the recordings",
            self.path, mode,
        )  # fmt: skip

    def _drop_drafts(self) -> None:
        """Remove what processes left behind that were killed while they wrote."""
        for name in list(self._entries()):
            match = _DRAFT.fullmatch(name)
            if match is not None and not _is_running(int(match[2])):
                _unlink(os.path.join(self.path, name))

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
        for suffix in _SUFFIXES:
            _unlink(os.path.join(self.path, f"{name}.{suffix}"))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it runs, and is another user's
    return process != os.getpid()


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # another process was quicker
