"""New connections: accepted in batches, within the connection limit and the descriptors.

The rule of this file: when there is no room, the connection that has been doing nothing for
longest makes room; when nobody can be asked to leave, nobody is accepted. Never a busy wait.
Only the thread that leads the loop calls.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from rawsgi.logs import log
from rawsgi.net.client.connection import FLUSHING, READ, RUNNING, WAITING, WRITE, Connection
from rawsgi.net.client.patience import count_unsent, find_pause, reads_on
from rawsgi.net.loop import do_nothing
from rawsgi.protocol.http1 import HEAD

if TYPE_CHECKING:
    from rawsgi.net.listening.listener import Listener
    from rawsgi.net.loop import Loop

_ACCEPTS_IN_A_ROW = 64
_OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# A connection that was used so lately is not closed to make room, nor one that is in the middle of
# something and paused so lately.
_MOMENT_S = 0.01
_QUIET_S = 3.0
# So many are looked at for one whose last response has left, and whose next request has not come.
_LOOKS_LIMIT = 64
# So long whoever was cut may take to be given back.
_LEAVING_S = 1.0
# How long accepting rests when there is no room and nobody can be asked to leave.
_PAUSE_S = 0.1
# So much of a response may wait in the kernel for one client. Without a bound some hundred slow
# readers fill the kernel's memory for all of TCP, and everybody waits (measured: 10 s).
_UNSENT_BYTES = 1 << 18
# Accepted sockets have these options of their listener (tcp(7) says so for Linux only).
_OPTIONS_INHERITED = sys.platform == "linux"


class Acceptor:
    """One listening socket in the loop."""

    __slots__ = ("_listener", "_loop", "_tcp", "base", "deadline", "paused", "room", "scheduled",
                 "socket")  # fmt: skip

    def __init__(self, loop: Loop, listener: Listener, base: dict[str, Any], room: Room) -> None:
        self._loop = loop
        self._listener = listener
        self._tcp = not listener.is_unix
        self.socket = listener.socket
        self.base = base
        """The environ of every request that comes this way, to be copied."""
        self.room = room
        if self._tcp:
            set_options(self.socket)
        self.paused = True
        self.deadline = 0.0
        self.scheduled: float | None = None
        self.resume()

    def on_event(self, events: int) -> None:
        """Clients are waiting."""
        loop = self._loop
        for _ in range(_ACCEPTS_IN_A_ROW):
            try:
                sock, address = self.socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS and not self.room.find_descriptor(error):
                    return
                continue  # the client left before it was accepted, or there is room now
            if len(loop.connections) >= self.room.limit:
                # Only now is it known that somebody waits. Who finds no room is let in as the
                # last one: accepting stops until there is some.
                self.room.make()  # pauses this acceptor where it fails
            connection = self._admit(sock, address)
            if connection is not None:
                try:
                    connection.on_event(READ)  # what has come already
                except Exception as error:  # here, or nobody would know whose failure it was
                    loop.contain(connection, error)
            if self.paused:
                return

    def _admit(self, sock: socket.socket, address: Any) -> Connection | None:
        loop = self._loop
        try:
            sock.setblocking(False)
            if self._tcp:
                if not _OPTIONS_INHERITED:
                    set_options(sock)
                remote = address[0], str(address[1])
            else:
                remote = "", ""
        except OSError:
            sock.close()
            return None
        if loop.observer is not None:
            sock = loop.observer.wrap(sock, remote, self.base)
        connection = Connection(loop, self, sock, remote)
        loop.connections.add(connection)
        return connection

    def admit_waiting(self) -> None:
        """The worker is stopping: who has connected already is still answered."""
        for _ in range(self._loop.settings.backlog):
            try:
                sock, address = self.socket.accept()
            except OSError:
                return
            connection = self._admit(sock, address)
            if connection is not None:
                try:
                    connection.arm(READ)
                except OSError as error:
                    self._loop.contain(connection, error)

    def pause(self) -> None:
        """Stop watching: clients wait in the kernel's backlog."""
        if not self.paused:
            self.paused = True
            fd = self.socket.fileno()
            del self._loop.handlers[fd]
            try:
                self._loop.poller.unregister(fd)
            except OSError as error:  # it is not watched, which is what is wanted
                log.error("a listener could not be unregistered: %s", error)

    def resume(self) -> None:
        """Raises `OSError` when it cannot be watched, and then it is paused as before."""
        if self.paused:
            fd = self.socket.fileno()
            self._loop.poller.register(fd, READ)
            self._loop.handlers[fd] = self
            self.paused = False

    def close(self) -> None:
        """Stop accepting for good; the listener is closed by whoever opened it."""
        self.pause()


def set_options(sock: socket.socket) -> None:
    """Small blocks leave at once; large ones do not pile up in the kernel. Raises `OSError`."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


class Room:
    """How many connections there may be, and who makes room for the next."""

    __slots__ = ("_idle", "_leaving", "_leaving_until", "_loop", "_quiet", "_search_again",
                 "_warned", "acceptors", "deadline", "limit", "scheduled")  # fmt: skip

    def __init__(self, loop: Loop, limit: int) -> None:
        self._loop = loop
        self._idle = Candidates(find_idle_since)
        self._quiet = Candidates(find_quiet_since)
        self._search_again = 0.0
        """Until then a search for who is quiet would find as little as the last one."""
        self._leaving: Connection | None = None
        self._leaving_until = 0.0
        self._warned: set[str] = set()
        self.limit = limit
        self.acceptors: list[Acceptor] = []
        self.deadline = 0.0
        self.scheduled: float | None = None

    def make(self) -> bool:
        """Close the connection that has done nothing for longest; False: there is none yet."""
        if self._is_leaving():
            self._rest()
            return False
        leaver = self._find_idle() or self._find_quiet()
        if leaver is None:
            self._warn("all connections are busy: new ones have to wait")
            self._rest()
            return False
        if len(self._loop.connections) >= self._loop.settings.connections:
            self._warn("connection limit reached: the longest idle one made room")
        if leaver.state == RUNNING:
            leaver.cut()  # it goes when its thread has given it back
            self._leaving = leaver
            self._leaving_until = self._loop.now + _LEAVING_S
            self._rest()
            return False
        leaver.close()
        return True

    def _is_leaving(self) -> bool:
        """Somebody was cut, whose thread will give the place back: nobody else has to go."""
        leaving = self._leaving
        if leaving is None or leaving.state != RUNNING or self._loop.now >= self._leaving_until:
            self._leaving = None
            return False
        return True

    def _find_idle(self) -> Connection | None:
        """Whoever has waited longest for a head. For a moment only: perhaps it has sent a request
        that is not here yet."""
        seen: set[Connection] = set()
        slow = None
        while len(seen) < _LOOKS_LIMIT:
            connection = self._idle.take(self._loop, _MOMENT_S)
            if connection is None or connection in seen:
                break
            seen.add(connection)
            if has_unread(connection):
                continue
            if not count_unsent(connection.socket):
                return connection
            slow = slow or connection  # it still receives, and goes only if there is no other
        return slow

    def _find_quiet(self) -> Connection | None:
        """Whoever has neither sent nor read anything for longest, though it was its turn."""
        now = self._loop.now
        if now < self._search_again:
            return None
        seen: set[Connection] = set()
        while len(seen) < _LOOKS_LIMIT:
            connection = self._quiet.take(self._loop, _QUIET_S)
            if connection is None or connection in seen:
                break
            seen.add(connection)
            receives = connection.outbox is not None
            if not (reads_on(connection) if receives else has_unread(connection)):
                return connection
        self._search_again = now + _PAUSE_S
        return None

    def find_descriptor(self, error: OSError) -> bool:
        """Out of descriptors or memory: an idle connection leaves; False: there is none, and
        accepting rests a while."""
        self._warn(f"no more connections can be accepted for now: {error.strerror}")
        return self.make()

    def _rest(self) -> None:
        for acceptor in self.acceptors:
            acceptor.pause()
        self._loop.on_release = self._look_for_room
        self._schedule()

    def _look_for_room(self) -> None:
        """Resting, and a connection has closed."""
        if len(self._loop.connections) <= self.limit:
            self._loop.clock.forget(self)
            self.expire(self._loop.now)

    def _schedule(self) -> None:
        self.deadline = self._loop.now + _PAUSE_S
        self._loop.clock.schedule(self)

    def expire(self, now: float) -> None:
        """The clock: accepting has rested long enough."""
        self._loop.on_release = do_nothing
        if len(self._loop.connections) > self.limit and not self.make():
            return  # the last one was let in above the limit: it rests on
        for acceptor in self.acceptors:
            try:
                acceptor.resume()
            except OSError as error:
                self._warn(f"accepting cannot go on yet: {error.strerror}")
                self._schedule()

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning("%s (said once; see --connections and the descriptor limit)", message)

    def close(self) -> None:
        for acceptor in self.acceptors:
            acceptor.close()
        self.acceptors.clear()
        self._loop.clock.forget(self)


class Candidates:
    """Connections that may have to leave, those that have done nothing for longest first.

    Sorted once and used up before they are sorted again, so that a flood of connections costs
    little for each.
    """

    __slots__ = ("_find_since", "_sorted")

    def __init__(self, find_since: Callable[[Connection], float]) -> None:
        self._find_since = find_since
        self._sorted: deque[tuple[float, Connection]] = deque()

    def take(self, loop: Loop, for_s: float) -> Connection | None:
        """Return one that has done nothing for so long; None: there is none."""
        latest = loop.now - for_s
        for sorted_anew in (False, True):
            if sorted_anew and not self._sorted:
                known = [(self._find_since(each), each) for each in loop.connections]
                known.sort(key=lambda entry: entry[0])
                self._sorted.extend(entry for entry in known if entry[0] != inf)
            while self._sorted and self._sorted[0][0] <= latest:
                since, connection = self._sorted.popleft()
                if self._find_since(connection) == since:
                    return connection
        return None


def find_idle_since(connection: Connection) -> float:
    """Since when it waits for a head, of which a part may have come; inf: it does not."""
    waits = connection.state == WAITING and connection.protocol.state == HEAD
    # Resuming: the next request is here already.
    return connection.since if waits and not connection.resuming else inf


def find_quiet_since(connection: Connection) -> float:
    """Since when its client, in the middle of a request or a response, has done nothing, as far
    as is known; inf: it is not the client's turn."""
    state = connection.state
    settings = connection.loop.settings
    if state == WAITING and connection.protocol.state != HEAD:
        return connection.deadline - settings.content_timeout_s
    if state == FLUSHING or (state == RUNNING and connection.mask & WRITE):
        return find_pause(connection)
    if state == RUNNING and connection.upload is not None and connection.upload.mask:
        return connection.upload.late_at - settings.content_timeout_s
    return inf


def has_unread(connection: Connection) -> bool:
    """Its request has come this very turn: closing now would be a reset in place of an answer."""
    try:
        return bool(connection.socket.recv(1, socket.MSG_PEEK))
    except OSError:
        return False
