"""Files beneath one folder, opened so that no name leads out of it.

Why it exists: to check a path and then to open it leaves a moment in which somebody can put a
symbolic link in the place of a component. So nothing here opens a path: each component is
opened by itself, in the descriptor of the folder before it, and never through a link.
Its rule: a link is read and its target walked in the same way. It may lead anywhere inside the
folder; one that leaves the folder is not found, even if it would come back. Only regular files
and folders are opened: a FIFO, a socket or a device never is.

A platform without `dir_fd` (Windows) takes the fallback, ResolvedFolder: the path is resolved,
checked to lie beneath the folder and opened, and what was opened is compared with what was
checked. A moment remains in which a folder can be exchanged for a link, so on such a platform
only trusted people should be able to write there.

A hard link is the file itself and cannot be told from it.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

DESCRIPTORS_SUPPORTED = (
    {os.open, os.stat, os.readlink} <= os.supports_dir_fd
    and os.listdir in os.supports_fd
    and hasattr(os, "O_NOFOLLOW")
    and hasattr(os, "O_DIRECTORY")
)

# As Linux: more links than this on the way are taken for a loop (path_resolution(7)).
LINK_LIMIT = 40

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
# O_NONBLOCK: a FIFO that takes the file's place after the check must not block the open.
_READ_FILE = (
    _READ
    | _NO_FOLLOW
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_NOINHERIT", 0)
)
_READ_FOLDER = _READ | getattr(os, "O_DIRECTORY", 0)
# O_PATH needs the right to pass through a folder; O_RDONLY needs the right to list it as well.
_PASS_FOLDER = _READ_FOLDER | getattr(os, "O_PATH", 0)

# What no name holds. On Windows a colon names a drive or a stream of the file.
_NEVER_IN_NAMES = tuple(
    os.fsencode(mark)
    for mark in ("\0", os.sep, os.altsep, ":" if os.name == "nt" else None)
    if mark
)


class Entry(NamedTuple):
    """One line of a listing."""

    name: bytes
    is_folder: bool
    size: int
    """In bytes; without meaning for a folder."""
    modified_s: float
    """In seconds since the epoch."""


class WalkedFolder:
    """A folder whose files are opened component by component, in descriptors.

    Any thread may call. It holds no descriptor: the folder itself is opened at each call (by
    its path, links followed), so that a deployment may replace it as a whole.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Note the path; nothing is opened, and it need not exist yet."""
        absolute = os.path.abspath(path)
        self._path = os.fsencode(absolute)

    def open_file(self, names: Sequence[bytes]) -> io.FileIO:
        """Return the regular file at `names` (one per component), open for reading.

        Raises FileNotFoundError, NotADirectoryError or another OSError where there is none,
        IsADirectoryError for a folder, PermissionError for what may not be read and for a
        special file.
        """
        descriptor, status = self._walk(names)
        if stat.S_ISDIR(status.st_mode):
            os.close(descriptor)
            raise IsADirectoryError(errno.EISDIR, "a folder")
        return io.FileIO(descriptor)

    def list_entries(self, names: Sequence[bytes]) -> list[Entry]:
        """Return what the folder at `names` holds, in no order.

        Left out are special files, links that lead nowhere or out, and what vanishes
        meanwhile. Raises NotADirectoryError for a file, otherwise as `open_file` does.
        """
        descriptor, status = self._walk(names)
        try:
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "a file")
            listed = os.open(b".", _READ_FOLDER, dir_fd=descriptor)
            try:
                found = [os.fsencode(name) for name in os.listdir(listed)]
            finally:
                os.close(listed)

            def look_at(name: bytes) -> os.stat_result:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    target, status = self._walk([*names, name])
                    os.close(target)
                return status

            return _describe(found, look_at)
        finally:
            os.close(descriptor)

    def _walk(self, names: Sequence[bytes]) -> tuple[int, os.stat_result]:
        """Return a descriptor of what is at `names`, and its status. The caller closes it."""
        _check_names(names)
        trail = [os.open(self._path, _PASS_FOLDER)]
        pending = list(reversed(names))
        links = 0
        try:
            while pending:
                name = pending.pop()
                if name in (b"", b"."):  # only in a link's target
                    continue
                if name == b"..":
                    if len(trail) == 1:
                        raise FileNotFoundError(errno.ENOENT, "a link out of the folder")
                    os.close(trail.pop())
                    continue
                status = os.stat(name, dir_fd=trail[-1], follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    flags = _PASS_FOLDER | _NO_FOLLOW
                    trail.append(os.open(name, flags, dir_fd=trail[-1]))
                elif stat.S_ISLNK(status.st_mode):
                    links += 1
                    if links > LINK_LIMIT:
                        raise OSError(errno.ELOOP, "too many links")
                    target = os.readlink(name, dir_fd=trail[-1])
                    if target.startswith(b"/"):
                        target = self._cut_path(target)
                        while len(trail) > 1:
                            os.close(trail.pop())
                    pending += reversed(target.split(b"/"))
                elif pending:
                    raise NotADirectoryError(errno.ENOTDIR, "a file on the way")
                else:
                    _check_regular(status)
                    return _open_regular(name, trail[-1])
            descriptor = trail.pop()
            try:
                return descriptor, os.fstat(descriptor)
            except OSError:
                os.close(descriptor)
                raise
        finally:
            for descriptor in trail:
                os.close(descriptor)

    def _cut_path(self, target: bytes) -> bytes:
        """Return the part of an absolute link target beneath the folder, however it is spelt."""
        for path in (self._path, os.path.realpath(self._path)):
            prefix = path.rstrip(b"/") + b"/"
            if (target + b"/").startswith(prefix):
                return target[len(prefix) :]
        raise FileNotFoundError(errno.ENOENT, "a link out of the folder")


class ResolvedFolder:
    """The fallback: the same two methods, by paths that are resolved and checked first."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Note the path; nothing is opened, and it need not exist yet."""
        absolute = os.path.abspath(path)
        self._path = os.fsencode(absolute)

    def open_file(self, names: Sequence[bytes]) -> io.FileIO:
        """Return the regular file at `names`; raises as WalkedFolder does."""
        path, status = self._resolve(names)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "a folder")
        descriptor, opened = _open_regular(path, None)
        if (opened.st_dev, opened.st_ino) != (status.st_dev, status.st_ino):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "replaced while it was opened")
        return io.FileIO(descriptor)

    def list_entries(self, names: Sequence[bytes]) -> list[Entry]:
        """Return what the folder at `names` holds; as WalkedFolder does."""
        path, status = self._resolve(names)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "a file")
        return _describe(os.listdir(path), lambda name: self._resolve([*names, name])[1])

    def _resolve(self, names: Sequence[bytes]) -> tuple[bytes, os.stat_result]:
        _check_names(names)
        root = os.path.realpath(self._path, strict=True)
        path = os.path.realpath(os.path.join(root, *names), strict=True)
        separator = os.fsencode(os.sep)
        if path != root and not path.startswith(root.rstrip(separator) + separator):
            raise FileNotFoundError(errno.ENOENT, "out of the folder")
        status = os.stat(path, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            _check_regular(status)
        return path, status


Folder = WalkedFolder | ResolvedFolder


def choose_folder(path: str | os.PathLike[str]) -> Folder:
    """Return the folder at `path`, as safe as the platform allows."""
    return WalkedFolder(path) if DESCRIPTORS_SUPPORTED else ResolvedFolder(path)


def _check_names(names: Sequence[bytes]) -> None:
    """Raise FileNotFoundError unless each name is the name of one component."""
    for name in names:
        if name in (b"", b".", b"..") or any(mark in name for mark in _NEVER_IN_NAMES):
            raise FileNotFoundError(errno.ENOENT, "not a name")


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PermissionError(errno.EACCES, "neither a file nor a folder")


def _open_regular(path: bytes, folder: int | None) -> tuple[int, os.stat_result]:
    """Open a file that was regular a moment ago; close it again if it no longer is."""
    descriptor = os.open(path, _READ_FILE, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        _check_regular(status)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, status


def _describe(names: Sequence[bytes], look_at: Callable[[bytes], os.stat_result]) -> list[Entry]:
    entries = []
    for name in names:
        try:
            status = look_at(name)
        except OSError:
            continue
        is_folder = stat.S_ISDIR(status.st_mode)
        if is_folder or stat.S_ISREG(status.st_mode):
            entries.append(Entry(name, is_folder, status.st_size, status.st_mtime))
    return entries
