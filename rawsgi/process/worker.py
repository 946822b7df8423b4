"""One worker process: the only place where settings, sockets, protocol and application meet.

The rule of this file: it joins and it ends. A signal only leaves its number; the thread that
leads the loop decides what to do.

    TERM, INT   stop when the requests in flight are answered; a second one: at once
    QUIT        stop at once
    HUP         the terminal was closed: as TERM; otherwise open the log anew, and say that there
                is no reload
    USR1        open the log anew
    USR2        say that there is no upgrade

HUP, USR1 and USR2 are left to an application that has handlers of its own for them, and to
`nohup`. A stop that was asked for ends with status 0, also when requests had to be cut: they are
named in the log (docs/decisions/0008).
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from types import FrameType
from typing import Any

from rawsgi.config import Settings, SettingsError
from rawsgi.logs import AccessLog, log
from rawsgi.net.client.connection import FLUSHING, RUNNING, WAITING, Connection
from rawsgi.net.client.journal import describe, log_cut
from rawsgi.net.crew.crew import Crew
from rawsgi.net.listening.acceptor import Acceptor, Room
from rawsgi.net.listening.listener import Listener
from rawsgi.net.loop import Loop, do_nothing
from rawsgi.net.tap import Observer
from rawsgi.process.descriptors import raise_descriptor_limit
from rawsgi.process.forking import left_by_children
from rawsgi.process.replacement import Replacement
from rawsgi.protocol.head import HeadParser
from rawsgi.protocol.message import Limits
from rawsgi.protocol.response import HeadEncoder
from rawsgi.version import VERSION
from rawsgi.wire.observation import plan_observation
from rawsgi.wire.relaxations import RelaxationLog
from rawsgi.wsgi.environ import make_base
from rawsgi.wsgi.gateway import Application, Gateway
from rawsgi.wsgi.loading.patching import check_patching

EXIT_REPLACE = 75
"""Exit status of a worker that lost too many threads to requests that never end: it asks to be
started anew (EX_TEMPFAIL of sysexits.h)."""

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# An application, or whoever started us (nohup), may have other plans for these.
_OTHER_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# Who may keep its connection, as the last response said, has so long for one more request.
_LAST_REQUEST_S = 0.5
# Telling of what is cut may take so long: a disk may be slow, a lock be held for good.
_LAST_WORDS_S = 2.0
# Of the requests that are cut at the end, so many are named.
_NAMED_LIMIT = 20


class Worker:
    """One process that serves one application. `run` in the main thread."""

    def __init__(
        self, settings: Settings, application: Application, listeners: Sequence[Listener]
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._exit_status = 0
        self._draining = False
        self._signals: set[int] = {*_ENDING_SIGNALS, *_OTHER_SIGNALS}
        self._had_terminal = has_terminal()
        limits = Limits(
            request_line_bytes=settings.request_line_limit_bytes,
            fields=settings.field_limit,
            head_bytes=settings.head_limit_bytes,
            content_bytes=settings.content_limit_bytes,
        )
        # What may be refused comes first: nothing is left open then.
        observer = open_observer(settings)
        access_log = open_access_log(settings)
        try:
            self.loop = loop = Loop(
                settings,
                HeadParser(limits, frozenset(settings.allow)),
                HeadEncoder(settings.server_name),
                access_log,
                self._on_signal,
            )
        except BaseException:
            if access_log is not None:
                access_log.close()
            raise
        loop.observer = observer
        gateway = Gateway(application, settings.stream_request)
        loop.streams_request = gateway.streams_request
        self._replacement = Replacement(
            loop, settings.lost_threads, settings.lost_after_s, self._replace
        )
        loop.crew = Crew(loop, self._observe(gateway.run), lambda _: self._replacement.look())
        self._room = Room(loop, settings.connections)
        for listener in listeners:
            base = make_base(
                listener.server_name,
                listener.server_port,
                multithread=settings.threads > 1,
                multiprocess=False,
                software=f"rawsgi/{VERSION}",
            )
            self._room.acceptors.append(Acceptor(loop, listener, base, self._room))
        self.deadline = 0.0
        self.scheduled: float | None = None

    def _observe(self, run: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return the gateway's `run`, wrapped for whoever was asked to look on."""
        self._relaxations = RelaxationLog()
        if self._settings.allow and not self._settings.by_hand:  # where it is what was asked for
            run = self._relaxations.watch_runs(run)
        return run if self.loop.observer is None else self.loop.observer.watch_runs(run)

    def run(self, on_ready: Callable[[], None] = lambda: None) -> int:
        """Serve until a signal ends it; return the exit status. In another thread than the main
        one no signal is heard."""
        previous = self._catch_signals()
        gc.collect()
        frozen_by_others = gc.get_freeze_count()
        gc.freeze()  # what exists now lives as long as the server: no need to look at it again
        try:
            with left_by_children(lambda: self._leave(previous)):
                on_ready()
                self.loop.crew.run()
        finally:
            self._restore_signals(previous)
            self.loop.close()
            self._relaxations.close()
            if self.loop.access_log is not None:
                self.loop.access_log.close()
            if not frozen_by_others:
                gc.unfreeze()  # a program that goes on after `rawsgi.serve` gets this server back
        return self._exit_status

    def _leave(self, previous: dict[int, object]) -> None:
        """In a child that the application forked: it is no worker and holds no socket."""
        self._restore_signals(previous.copy())
        for listener in self._listeners:
            listener.socket.close()  # no more: the file of a Unix socket is the parent's
        self.loop.leave()
        self.loop.crew.leave()

    # -- Signals: their numbers arrive in the loop ------------------------------------------------

    def _catch_signals(self) -> dict[int, object]:
        wakeup_socket = self.loop.wakeup_socket
        ours = wakeup_socket.fileno()

        def notice(number: int, frame: FrameType | None) -> None:
            """The number has been written to the wake-up socket already, unless an application
            took the signals' descriptor away, as asyncio does in `add_signal_handler`."""
            theirs = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
            if theirs != ours:
                with contextlib.suppress(OSError):
                    wakeup_socket.send(bytes((number,)))
                if theirs != -1:
                    signal.set_wakeup_fd(theirs)

        if threading.current_thread() is not threading.main_thread():
            return {}  # Python gives signals to the main thread only
        previous: dict[int, object] = {-1: signal.set_wakeup_fd(ours, warn_on_full_buffer=False)}
        for number in sorted(self._signals):
            if number in _OTHER_SIGNALS and signal.getsignal(number) is not signal.SIG_DFL:
                self._signals.discard(number)
                continue
            previous[number] = signal.signal(number, notice)
            signal.siginterrupt(number, False)
        return previous

    def _restore_signals(self, previous: dict[int, object]) -> None:
        if previous:
            signal.set_wakeup_fd(previous.pop(-1))  # type: ignore[arg-type]
        for number, handler in previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int) -> None:
        """The leader."""
        if number not in self._signals:
            return
        name = signal.Signals(number).name
        if number == signal.SIGUSR2:
            log.warning("%s: there is no upgrade while running yet; nothing was done", name)
        elif number == signal.SIGUSR1:
            self._reopen_log(name)
        elif number == signal.SIGHUP:
            self._hang_up(name)
        elif number == signal.SIGQUIT:
            self._cut_requests(f"{name}: stopping at once")
            self._abandon(self._exit_status)
        elif self._draining:
            self._cut_requests(f"second {name}: stopping at once")
            self._abandon(128 + number)
        else:
            self._drain()

    def _hang_up(self, name: str) -> None:
        """The leader: the terminal was closed, or somebody is used to reloading servers so."""
        if self._had_terminal and not has_terminal():
            if not self._draining:  # a shell passes the signal on: it comes twice
                log.warning("%s: the terminal was closed: stopping", name)
                self._drain()
            return
        log.warning("%s: there is no reload yet: restart to run new code", name)
        self._reopen_log(name)

    def _reopen_log(self, name: str) -> None:
        access_log = self.loop.access_log
        if access_log is None:
            log.info("%s: there is no access log to open anew", name)
            return
        try:
            is_file = access_log.reopen()
        except OSError as error:
            log.error("%s: the access log cannot be opened anew: %s", name, error.strerror)
        else:
            what = "was opened anew" if is_file else "is no file: it goes to standard output"
            log.info("%s: the access log %s", name, what)

    # -- The end ---------------------------------------------------------------------------------

    def _drain(self) -> None:
        """The leader: accept no more, answer what is in flight, then end."""
        self._draining = True
        loop = self.loop
        for acceptor in self._room.acceptors:
            acceptor.admit_waiting()
        self._room.close()
        for listener in self._listeners:
            listener.close()  # who comes now is told so at once
        count = sum(connection.exchange is not None for connection in loop.connections)
        first = f": {count} request(s) in flight are answered first" if count else ""
        log.info("stopping%s", first)
        loop.on_empty = self._finish
        loop.idle_timeout_s = _LAST_REQUEST_S
        for connection in loop.connections:
            connection.protocol.shutdown()  # all of them first: a response may end just now
        for connection in list(loop.connections):
            connection.shutdown()
        self.deadline = loop.now + self._settings.graceful_timeout_s
        loop.clock.schedule(self)
        if not loop.connections:
            self._finish()

    def expire(self, now: float) -> None:
        """The clock: the time to stop gracefully is over."""
        self._cut_requests("the time to stop gracefully is over")
        self._abandon(self._exit_status)

    def _cut_requests(self, why: str) -> None:
        """Name those that get no answer, or only the beginning of one."""
        found = [text for each in self.loop.connections if (text := describe_request(each))]
        named = "".join(f"\n{text}" for text in sorted(found)[:_NAMED_LIMIT])
        if len(found) > _NAMED_LIMIT:
            named += f"\nand {len(found) - _NAMED_LIMIT} more"
        log.warning("%s; requests that are cut: %s", why, named or "none")

    def _finish(self) -> None:
        crew = self.loop.crew
        if crew.main.exchange is not None and crew.leader is not crew.main:
            self._abandon(self._exit_status)  # a request that was given up still has it
        self.loop.finished = True
        crew.stop()

    def _abandon(self, status: int) -> None:
        """Leave although threads are running: no Python code can end them."""
        for listener in self._listeners:
            listener.close()
        self.loop.on_empty = self.loop.on_release = do_nothing
        # In a thread of its own: one that is stuck may hold a lock that this needs.
        with contextlib.suppress(RuntimeError):  # the system gives no thread
            teller = threading.Thread(target=self._tell_the_end, daemon=True)
            teller.start()
            teller.join(_LAST_WORDS_S)
        if self.loop.access_log is not None:
            self.loop.access_log.close()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # its reader may be gone
                stream.flush()
        os._exit(status)

    def _tell_the_end(self) -> None:
        """For the leader, which waits: tell whoever looks on of the connections that are cut."""
        with contextlib.suppress(RuntimeError):  # a thread counts one more at this moment
            self._relaxations.close()
        observer = self.loop.observer
        connections = list(self.loop.connections)
        for connection in connections:
            connection.protocol.shutdown()  # also where it was not a graceful stop
        for connection in connections:
            with contextlib.suppress(Exception):
                if connection.state == FLUSHING:
                    connection.close()  # for the access log, too
                    continue
                if connection.state == RUNNING:
                    log_cut(connection)
                if observer is not None:
                    observer.close(connection)

    def _replace(self, lost: int) -> None:
        """The leader: too many threads are stuck in requests that were answered with a 504."""
        if not self._draining:
            log.error(
                "%d threads are stuck: this process asks to be replaced "
                "(it ends with status %d, for a supervisor to start it anew)", lost, EXIT_REPLACE,
            )  # fmt: skip
            self._exit_status = EXIT_REPLACE
            self._drain()


def has_terminal() -> bool:
    """Is there a controlling terminal, one that is still connected?"""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def open_access_log(settings: Settings) -> AccessLog | None:
    """The access log that was asked for. Raises `SettingsError`."""
    path = settings.access_log_file
    if path is None:
        return AccessLog() if settings.access_log else None
    try:
        return AccessLog(path=path)
    except OSError as error:
        raise SettingsError(f"--access-log-file {path}: {error.strerror}") from None


def open_observer(settings: Settings) -> Observer | None:
    """Who looks on, if that was asked for. Raises `SettingsError`."""
    try:
        begin = plan_observation(settings)
    except OSError as error:
        raise SettingsError(f"--record {settings.record}: {error.strerror}") from None
    return None if begin is None else Observer(begin)


def describe_request(connection: Connection) -> str:
    """What a connection is busy with, for the log; "" if nothing is lost with it. The leader."""
    exchange = connection.exchange
    request = connection.protocol.request
    if request is None:
        return ""
    what = describe(request)
    if exchange is not None:
        does = "running" if exchange.member is not None else "waiting for a thread"
        return f"{what}, {does} for {monotonic() - exchange.started:.1f} s"
    if connection.state == FLUSHING:
        return f"{what}, answered, but its client has not read it all"
    if connection.state == WAITING:
        return f"{what}, of which not all of the content has come"
    return ""


def run(
    settings: Settings,
    application: Application,
    listeners: Sequence[Listener],
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve `application` until a signal ends it; return the exit status.

    The listeners are closed by the caller. The main thread only, since signals arrive there.
    """
    check_patching()
    for listener in listeners:
        assert listener.socket.type == socket.SOCK_STREAM
    if warning := raise_descriptor_limit(settings.connections, settings.threads):
        log.warning("%s", warning)
    return Worker(settings, application, listeners).run(on_ready)
