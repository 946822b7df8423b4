"""Who holds a port or a socket file: the answer to "address already in use".

Reads /proc, where there is one, and only after a bind failed. Best effort: other users' processes
and other systems are not seen, and then the answer is "".
"""

from __future__ import annotations

import os
from collections.abc import Iterator

COMMAND_LIMIT = 80
_LISTEN = "0A"  # TCP_LISTEN of the kernel's tcp_states.h


def find_tcp_owner(port: int) -> str:
    """`process 1234 (python -m http.server 3000)`, for whoever listens at `port`; or ""."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for columns in _read_table(table):
            if len(columns) > 9 and columns[3] == _LISTEN:
                _, _, local_port = columns[1].rpartition(":")
                if int(local_port, 16) == port:
                    inodes.add(columns[9])
    return _find_holder(inodes)


def find_unix_owner(path: str) -> str:
    """The same for whoever is bound to the socket file `path`."""
    path = os.path.abspath(path)
    inodes = set()
    for columns in _read_table("/proc/net/unix"):
        if len(columns) > 7 and os.path.abspath(" ".join(columns[7:])) == path:
            inodes.add(columns[6])
    return _find_holder(inodes)


def _read_table(path: str) -> Iterator[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as table:
            next(table, None)
            for line in table:
                yield line.split()
    except OSError:
        return


def _find_holder(inodes: set[str]) -> str:
    """The process with the lowest id that has one of the sockets open: parents before workers."""
    links = {f"socket:[{inode}]" for inode in inodes}
    if not links:
        return ""
    try:
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    except OSError:
        return ""
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        try:
            descriptors = os.listdir(folder)
        except OSError:  # not ours to see, or gone
            continue
        for descriptor in descriptors:
            try:
                if os.readlink(f"{folder}/{descriptor}") in links:
                    return f"process {pid}{_read_command(pid)}"
            except OSError:
                continue
    return ""


def _read_command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            raw = file.read(4096)
    except OSError:
        return ""
    text = raw.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    # The command line is another program's text: it must not steer this terminal.
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) > COMMAND_LIMIT:
        text = text[:COMMAND_LIMIT] + "..."
    return f" ({text})" if text else ""
