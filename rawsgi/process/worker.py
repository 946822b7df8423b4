"""One worker process: the only place where settings, sockets, protocol and application meet.

The rule of this file: it joins and it ends. A signal only leaves its number; the thread that
leads the loop decides what to do. The first one ends the worker when the requests in flight are
answered, the second one at once.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from rawsgi.config import Settings, SettingsError
from rawsgi.logs import AccessLog, log
from rawsgi.net.acceptor import Acceptor, Room
from rawsgi.net.crew import Crew
from rawsgi.net.listener import Listener
from rawsgi.net.loop import Loop
from rawsgi.net.tap import Observer
from rawsgi.protocol.head import HeadParser
from rawsgi.protocol.message import Limits
from rawsgi.protocol.response import HeadEncoder
from rawsgi.version import VERSION
from rawsgi.wire.observation import plan_observation
from rawsgi.wire.relaxations import RelaxationLog
from rawsgi.wsgi.environ import make_base
from rawsgi.wsgi.gateway import Application, Gateway

EXIT_REPLACE = 75
"""Exit status of a worker that lost too many threads to requests that never end: it asks to be
started anew (EX_TEMPFAIL of sysexits.h)."""

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Worker:
    """One process that serves one application. `run` in the main thread."""

    def __init__(
        self, settings: Settings, application: Application, listeners: Sequence[Listener]
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._exit_status = 0
        self._draining = False
        limits = Limits(
            request_line_bytes=settings.request_line_limit_bytes,
            fields=settings.field_limit,
            head_bytes=settings.head_limit_bytes,
            content_bytes=settings.content_limit_bytes,
        )
        self.loop = loop = Loop(
            settings,
            HeadParser(limits, frozenset(settings.allow)),
            HeadEncoder(settings.server_name),
            AccessLog() if settings.access_log else None,
            self._on_signal,
        )
        gateway = Gateway(application, settings.stream_request)
        loop.streams_request = gateway.streams_request
        loop.crew = Crew(loop, self._observe(gateway.run), self._on_lost_thread)
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
        settings = self._settings
        self._relaxations = RelaxationLog()
        if settings.allow and not settings.by_hand:  # where they are what was asked for
            run = self._relaxations.watch_runs(run)
        try:
            begin = plan_observation(settings)
        except OSError as error:
            raise SettingsError(f"--record {settings.record}: {error.strerror}") from None
        if begin is not None:
            self.loop.observer = Observer(begin)
            run = self.loop.observer.watch_runs(run)
        return run

    def run(self, on_ready: Callable[[], None] = lambda: None) -> int:
        """Serve until a signal ends it; return the exit status. The main thread only."""
        previous = self._catch_signals()
        gc.collect()
        gc.freeze()  # what exists now lives as long as the process: no need to look at it again
        try:
            on_ready()
            self.loop.crew.run()
        finally:
            self._restore_signals(previous)
            self.loop.close()
            self._relaxations.close()
            if self.loop.access_log is not None:
                self.loop.access_log.close()
        return self._exit_status

    # -- Signals: their numbers arrive in the loop ------------------------------------------------

    def _catch_signals(self) -> dict[int, object]:
        def ignore(number: int, frame: FrameType | None) -> None:
            """The number has been written to the loop's wake-up socket already."""

        previous: dict[int, object] = {
            -1: signal.set_wakeup_fd(self.loop.wakeup_socket.fileno(), warn_on_full_buffer=False)
        }
        for number in _ENDING_SIGNALS:
            previous[number] = signal.signal(number, ignore)
            signal.siginterrupt(number, False)
        return previous

    def _restore_signals(self, previous: dict[int, object]) -> None:
        signal.set_wakeup_fd(previous.pop(-1))  # type: ignore[arg-type]
        for number, handler in previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int) -> None:
        """The leader."""
        if number not in _ENDING_SIGNALS:
            return
        if self._draining:
            log.warning("second %s: stopping at once", signal.Signals(number).name)
            self._abandon(128 + number)
        self._drain()

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
        if count:
            log.info("stopping: %d request(s) in flight are answered first", count)
        loop.on_empty = self._finish
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
        log.warning("not all requests ended in time: stopping without them")
        self._abandon(self._exit_status)

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
        if self.loop.access_log is not None:
            self.loop.access_log.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def _on_lost_thread(self, lost: int) -> None:
        """The leader: a thread is stuck in a request that was answered with a 504."""
        if self._settings.lost_threads and lost >= self._settings.lost_threads:
            if not self._draining:
                log.error("%d threads are stuck: this process asks to be replaced", lost)
                self._exit_status = EXIT_REPLACE
                self._drain()


def run(
    settings: Settings,
    application: Application,
    listeners: Sequence[Listener],
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve `application` until a signal ends it; return the exit status.

    The listeners are closed by the caller. The main thread only, since signals arrive there.
    """
    for listener in listeners:
        assert listener.socket.type == socket.SOCK_STREAM
    return Worker(settings, application, listeners).run(on_ready)
