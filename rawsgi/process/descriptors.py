"""The limit of open descriptors: raised as far as this process may, and told when it is too near.

The rule of this file: it is looked at once, before anything is served. Every client is a
descriptor, and so is each file that is sent, each content in a temporary file, and whatever the
application opens. Who runs out of them refuses clients at the worst moment.
"""

from __future__ import annotations

import resource

# For the interpreter, listeners, logs, and an application with its files and database.
_RESERVE = 64
# A request at work has its connection, perhaps a temporary file or one to send, and what the
# application opens for it.
_PER_THREAD = 4
# Enough for any setting that makes sense; where "unlimited" is a thousand million, programs that
# close every possible descriptor before they start another one would take minutes.
_ENOUGH = 1 << 16


def raise_descriptor_limit(connections: int, threads: int) -> str:
    """Raise the soft limit towards the hard one; return a warning if it still is too low, or "".

    As Go, nginx and others do: the soft limit of 1024 is there for programs that use `select`.
    """
    needed = connections + _PER_THREAD * threads + _RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ""
    wanted = max(needed, _ENOUGH)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if wanted > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):  # macOS has a lower one that it does not tell
            pass
    if soft >= needed:
        return ""
    room = max(soft - _RESERVE - _PER_THREAD * threads, 1)
    return (
        f"{soft} descriptors may be open, too few for --connections {connections} and what the "
        f"application opens: raise the limit to {needed} or more (ulimit -n, LimitNOFILE= in "
        f"systemd, --ulimit nofile= in Docker), or write --connections {room}"
    )
