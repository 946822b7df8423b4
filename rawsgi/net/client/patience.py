"""How long a client may take: until its content has come, and until it has its response.

The rule of this file: a pause is bounded, and so is the average rate; what a client has taken is
what its side has acknowledged. Only the leader calls.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rawsgi.config import Settings
    from rawsgi.net.client.connection import Connection

_NOTHING = bytes(4)
# What fits between the two ends leaves at once. Only after so long what is not taken waits for the
# client, and the first look is worth its system call.
_SETTLED_S = 1.0


def await_content(connection: Connection, received_bytes: int) -> None:
    """WAITING for content: set the deadline."""
    now = connection.loop.now
    settings = connection.loop.settings
    connection.deadline = bound(
        now, connection.phase_since, settings.content_timeout_s, received_bytes,
        settings.content_rate_bytes,
    )  # fmt: skip


def await_reader(connection: Connection, sent_bytes: int) -> None:
    """The socket takes no more of a response just now: set the deadline, if it took something."""
    now = connection.loop.now
    settings = connection.loop.settings
    if connection.progress < 0:
        connection.phase_since = now
    if connection.progress != sent_bytes:
        connection.progress = sent_bytes
        connection.taken = None
        connection.deadline = now + _settle_s(settings)
        if settings.write_rate_bytes:
            latest = connection.phase_since + settings.write_timeout_s
            latest += sent_bytes / settings.write_rate_bytes
            connection.deadline = min(connection.deadline, latest)


def reads_on(connection: Connection) -> bool:
    """The deadline has passed, and the socket has not asked for more, which it does when the
    kernel has lost a good part of what it holds. True: the client has taken some of that since
    the last look, or this is the first one, and there is a new deadline."""
    outbox = connection.outbox
    if outbox is None:
        return False
    now = connection.loop.now
    settings = connection.loop.settings
    before = connection.taken
    taken = connection.taken = outbox.sent_bytes - count_unsent(connection.socket)
    if before is None:
        now -= _settle_s(settings)
    elif taken <= before:
        return False
    connection.deadline = bound(
        now, connection.phase_since, settings.write_timeout_s, taken, settings.write_rate_bytes
    )
    return connection.deadline > connection.loop.now


def find_pause(connection: Connection) -> float:
    """Since when a client that is to take more of a response has not been seen to."""
    settings = connection.loop.settings
    pause_s = _settle_s(settings) if connection.taken is None else settings.write_timeout_s
    return connection.deadline - pause_s


def _settle_s(settings: Settings) -> float:
    return min(_SETTLED_S, settings.write_timeout_s / 2)


def bound(now: float, since: float, pause_s: float, count: int, rate: int) -> float:
    """The instant until which a client may pause, having sent or taken `count` bytes since an
    instant. `rate` in bytes per second; 0: any."""
    deadline = now + pause_s
    if rate:
        deadline = min(deadline, since + pause_s + count / rate)
    return deadline


def count_unsent(sock: socket.socket) -> int:
    """How much of what was sent the other side has not acknowledged yet; 0 where nobody knows."""
    try:
        found: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, _NOTHING))[0]
    except (OSError, ValueError):
        return 0
    return found
