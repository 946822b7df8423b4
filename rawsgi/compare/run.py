"""One run of the comparison: which exchanges, which servers, and in which order all is done.

The rule: whatever happens, the servers are ended before `run` returns.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from rawsgi.compare.exchanges import Exchange, load_corpus
from rawsgi.compare.exchanges.recorded import generic_exchanges, make_exchange, read_requests
from rawsgi.compare.judgement.accepted import apply_accepted, read_accepted
from rawsgi.compare.judgement.comparison import Column, Comparison, Row, extract_general
from rawsgi.compare.replay.client import Patience, replay_exchange
from rawsgi.compare.replay.replayer import HOPELESS_LIMIT, WORKERS, Replayer, repeatable
from rawsgi.compare.replay.transcript import read_environ
from rawsgi.compare.report.progress import Progress
from rawsgi.compare.rounds import OURS, cancelled_on_error, compare_servers
from rawsgi.compare.servers.kinds import KINDS, Kind, ServerError, command_kind, install_hint
from rawsgi.compare.servers.process import (
    START_TIMEOUT_S,
    Server,
    name_servers,
    running_server,
    stop_servers,
)

PROBE: Final = "rawsgi.compare.probe:app"
YOURS: Final = "yours"
# A server that runs already has no reason to be late.
RUNNING_TIMEOUT_S: Final = 2.0


class UsageError(Exception):
    """The comparison cannot be done as asked. The message is for the user."""


class Run:
    """One run of the command, in the main thread."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.cancelled = threading.Event()
        self.notes: list[str] = []
        self.started: list[Server] = []

    def run(self) -> Comparison:
        """Do it all. Raises UsageError, and what reading files and starting servers raises."""
        arguments = self.arguments
        began_s = time.monotonic()
        accepted = read_accepted(arguments.accept) if arguments.accept else []
        probe_exchanges, own_exchanges = self._choose_exchanges()
        kinds = self._choose_kinds()
        running = [running_server(url) for url in arguments.running]
        names = name_servers([kind.name for kind in kinds])
        if len(names) + len(running) < 2:
            raise UsageError(
                "there is nothing to compare with. Name a server: --with gunicorn"
                if not arguments.peers
                else "no server is left to compare with."
            )
        try:
            named = dict(zip(names, kinds, strict=True))
            comparison = self._compare(named, running, probe_exchanges, own_exchanges)
        except BaseException:
            self.cancelled.set()
            raise
        finally:
            stop_servers(self.started)
        comparison.seconds = time.monotonic() - began_s
        columns = [column.name for column in comparison.columns]
        comparison.general = extract_general(comparison.rows, columns)
        apply_accepted(comparison, accepted)
        unused = sum(not entry.used for entry in accepted)
        if unused and not arguments.diff:
            comparison.notes.append(
                f"{unused} lines of {arguments.accept} accept nothing any more."
            )
        return comparison

    # --- what to ask, and whom ---

    def _choose_exchanges(self) -> tuple[list[Exchange], list[Exchange]]:
        """Return the exchanges for the probe application and those for the user's."""
        arguments = self.arguments
        if not 0 < arguments.timeout <= 600:
            raise UsageError("--timeout must be more than 0 and at most 600 seconds")
        if arguments.requests and not arguments.app and not arguments.running:
            raise UsageError("--requests needs APP, the application that they are meant for")
        own: list[Exchange] = []
        if arguments.requests:
            own, notes = read_requests(arguments.requests)
            self.notes += notes
        elif arguments.app:
            own = generic_exchanges()
        parts = arguments.corpus or ([YOURS] if arguments.requests else ["conformance", "wsgi"])
        if not arguments.corpus and not arguments.requests:
            parts = [*parts, YOURS]
        if arguments.diff and not arguments.corpus:
            parts = ["conformance", "wsgi", YOURS]
        probe_parts = [part for part in parts if part.split("/")[0] != YOURS]
        probe = load_corpus(*probe_parts) if probe_parts else []
        if len(probe_parts) == len(parts):
            own = []
        if arguments.diff:
            chosen = _find_ids(arguments.diff, [*probe, *own])
            probe = [exchange for exchange in probe if exchange.id in chosen]
            own = [exchange for exchange in own if exchange.id in chosen]
        if not probe and not own:
            raise UsageError("there is nothing to send: --corpus yours needs APP")
        once = sum(not repeatable(exchange) for exchange in own)
        if once:
            self.notes.append(
                f"{once} of your requests may change something: each was sent once to each "
                "server, and what the application itself varies shows there as a difference."
            )
        return probe, own

    def _choose_kinds(self) -> list[Kind]:
        kinds = [] if self.arguments.without_rawsgi else [KINDS[OURS]]
        for peer in self.arguments.peers:
            if peer in KINDS:
                kind = KINDS[peer]
                if not kind.is_installed():
                    print(f"rawsgi compare: {install_hint(kind)}", file=sys.stderr)
                    continue
            elif "{" not in peer and len(peer.split()) == 1:
                known = ", ".join(name for name in KINDS if name != OURS)
                raise UsageError(
                    f"--with {peer}: no such server. Known: {known}; any other by a command with "
                    "{app}, {host} and {port} in it."
                )
            else:
                kind = command_kind(peer)
            kinds.append(kind)
        return kinds

    # --- doing it ---

    def _compare(
        self,
        kinds: Mapping[str, Kind],
        running: Sequence[Server],
        probe_exchanges: Sequence[Exchange],
        own_exchanges: Sequence[Exchange],
    ) -> Comparison:
        probe_servers, own_servers = self._start(
            kinds, bool(probe_exchanges), bool(own_exchanges and self.arguments.app)
        )
        for server in running:
            server.wait_ready(RUNNING_TIMEOUT_S)
            if own_exchanges:
                own_servers.append(server)
            if probe_exchanges and _runs_probe(server):
                probe_servers.append(server)
            elif probe_exchanges:
                self.notes.append(
                    f"{server.name} does not run the probe application ({PROBE}): "
                    "conformance and wsgi are left out there."
                )
        exchanges = len(probe_exchanges) * len(probe_servers)
        progress = Progress(exchanges + len(own_exchanges) * len(own_servers))
        try:
            with ThreadPoolExecutor(2) as pool, cancelled_on_error(self.cancelled):
                # The user's application may be slow, so much there is waiting: side by side.
                parts = (
                    pool.submit(self._replay, probe_servers, probe_exchanges, True, progress),
                    pool.submit(self._replay, own_servers, own_exchanges, False, progress),
                )
                rows = [row for part in parts for row in part.result()]
        finally:
            progress.clear()
        if not rows:
            raise UsageError("no two servers are left to compare.")
        seen: dict[str, Server] = {}
        for server in (*probe_servers, *own_servers):
            seen.setdefault(server.name, server)
        return Comparison(
            application=self.arguments.app or "",
            columns=[
                Column(server.name, server.version, tuple(server.command))
                for server in seen.values()
            ],
            rows=rows,
            notes=self.notes,
        )

    def _start(
        self, kinds: Mapping[str, Kind], probed: bool, own: bool
    ) -> tuple[list[Server], list[Server]]:
        """Start each kind with the probe application, with the user's, or both."""
        folder = self.arguments.app_dir
        probe_servers = [
            Server(name, kind, PROBE, folder, probed=True) for name, kind in kinds.items() if probed
        ]
        own_servers = [
            Server(name, kind, self.arguments.app, folder) for name, kind in kinds.items() if own
        ]
        for server in (*probe_servers, *own_servers):
            self.started.append(server)
            server.start()
        self._drop_failed(probe_servers, own_servers)
        return probe_servers, own_servers

    def _replay(
        self,
        servers: Sequence[Server],
        exchanges: Sequence[Exchange],
        probed: bool,
        progress: Progress,
    ) -> list[Row]:
        if len(servers) < 2 or not exchanges:
            return []
        replayers = [
            Replayer(server, probed, self.arguments.timeout, self.cancelled) for server in servers
        ]
        rows = compare_servers(
            replayers,
            exchanges,
            self.arguments.ignore,
            progress.advance,
            self.cancelled,
            workers=WORKERS if probed else 1,
        )
        self.notes += [note for replayer in replayers for note in _note_trouble(replayer)]
        return rows

    def _drop_failed(self, *groups: list[Server]) -> None:
        """Wait for all to serve; one that does not is left out. Raises UsageError if too few do."""
        failed: dict[str, str] = {}
        began_s = time.monotonic()
        for server in [server for group in groups for server in group]:
            if server.name in failed:
                continue
            try:
                # They start side by side: what the first was waited for counts for all.
                server.wait_ready(max(1.0, START_TIMEOUT_S - (time.monotonic() - began_s)))
            except ServerError as error:
                failed[server.name] = str(error)
                self.notes.append(f"{error}")
                print(f"rawsgi compare: {error}", file=sys.stderr)
        if OURS in failed and not self.arguments.without_rawsgi:
            raise UsageError("rawsgi itself does not run; see above.")
        for group in groups:
            group[:] = [server for server in group if server.name not in failed]
        left = {server.name for group in groups for server in group}
        if len(left) + len(self.arguments.running) < 2:
            raise UsageError("no server is left to compare with.")


def _note_trouble(replayer: Replayer) -> Iterator[str]:
    name = replayer.server.name
    if replayer.crashes:
        yield f"{name} died and was started again; it last said: {replayer.last_words}"
    if replayer.is_given_up:
        yield (
            f"{name} answered nobody, {HOPELESS_LIMIT} times in a row, and was given up: "
            f"{replayer.overdue} exchanges were not asked, or not a second time."
        )
    elif replayer.overdue:
        yield (
            f"{name} was so slow that {replayer.overdue} exchanges were not asked, or not a "
            "second time."
        )


def _find_ids(wanted: Iterable[str], exchanges: Sequence[Exchange]) -> set[str]:
    """Find exchanges by id, or by the end of it where that is unambiguous."""
    found = set()
    ids = [exchange.id for exchange in exchanges]
    for name in wanted:
        fitting = [id_ for id_ in ids if id_ == name] or [
            id_ for id_ in ids if id_.endswith("/" + name)
        ]
        if len(fitting) != 1:
            what = "is ambiguous: " + ", ".join(fitting) if fitting else "is no exchange"
            raise UsageError(f"--diff {name}: {what}")
        found.add(fitting[0])
    return found


def _runs_probe(server: Server) -> bool:
    raw = b"GET /?rawsgi-compare HTTP/1.1\r\nHost: localhost\r\n\r\n"
    transcript = replay_exchange(
        make_exchange("probe", "", raw), server.address, Patience(silence_s=5), None, probed=False
    )
    finals = transcript.finals()
    environ: dict[str, Any] | None = read_environ(finals[0]) if finals else None
    return environ is not None and environ.get("QUERY_STRING") == "rawsgi-compare"
