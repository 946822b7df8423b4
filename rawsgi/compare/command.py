"""`rawsgi compare`: the command line, and the order in which everything is done.

The rule: whatever happens, the servers are ended before `main` returns, and the exit status says
what a script must know: 0 nothing differs but what was accepted, 1 something does, 2 it could not
be done as asked, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rawsgi.compare.accepted import AcceptedError, apply_accepted, read_accepted, write_accepted
from rawsgi.compare.client import Patience, read_environ, replay_exchange
from rawsgi.compare.comparison import (
    OURS,
    Column,
    Comparison,
    Row,
    compare_servers,
    extract_general,
)
from rawsgi.compare.exchanges import CorpusError, Exchange, load_corpus
from rawsgi.compare.progress import Progress
from rawsgi.compare.recorded import (
    RecordedError,
    generic_exchanges,
    make_exchange,
    read_requests,
)
from rawsgi.compare.replay import WORKERS, Replayer, repeatable
from rawsgi.compare.report.document import make_document, render_markdown, replace_marked
from rawsgi.compare.report.page import render_page
from rawsgi.compare.report.table import Style, render_table
from rawsgi.compare.report.transcript import render_transcripts
from rawsgi.compare.servers import (
    KINDS,
    Kind,
    Server,
    ServerError,
    command_kind,
    install_hint,
    name_servers,
    running_server,
    stop_servers,
)

SAME: Final = 0
DIFFERENT: Final = 1
UNUSABLE: Final = 2
INTERRUPTED: Final = 130
PROBE: Final = "rawsgi.compare.probe:app"
YOURS: Final = "yours"
_DESCRIPTION: Final = """\
Send the same bytes to rawsgi and to other servers, and show where the answers differ and what
the specification says of it. Each server runs a probe application for the corpora "conformance"
and "wsgi", and APP for "yours": a few harmless requests, or those of --requests.
"""
_EPILOG: Final = """\
examples:
  rawsgi compare hello:app --with gunicorn
  rawsgi compare hello:app --with gunicorn --requests access.log --html report.html
  rawsgi compare --with waitress --with cheroot --corpus conformance
  rawsgi compare hello:app --with 'gunicorn -k gevent -b {host}:{port} {app}'
  rawsgi compare hello:app --with gunicorn --diff conformance/host/missing

exit status: 0 nothing differs but what was accepted, 1 something does, 2 usage
"""


class UsageError(Exception):
    """The comparison cannot be done as asked. The message is for the user."""


def main(argv: list[str]) -> int:
    """Run `rawsgi compare` with the arguments after "compare"; return the exit status."""
    parser = make_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as error:
        return int(error.code or 0)
    try:
        with _terminated_as_interrupted():
            return _Run(arguments, argv).run()
    except (UsageError, ServerError, CorpusError, RecordedError, AcceptedError) as error:
        print(f"rawsgi compare: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("rawsgi compare: interrupted; all servers are stopped.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the report has enough; Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DIFFERENT


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="rawsgi compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    known = ", ".join(name for name in KINDS if name != OURS)
    add = parser.add_argument
    add("app", nargs="?", metavar="APP", help="your application: MODULE[:ATTR] or FILE.py[:ATTR]")
    add(
        "--with", dest="peers", action="append", default=[], metavar="SERVER",
        help=f"compare with this server; repeatable. One of {known}, or a command with "
        "{app}, {host} and {port} in it",
    )  # fmt: skip
    add(
        "--against", dest="running", action="append", default=[], metavar="URL",
        help="compare with a server that runs already; repeatable",
    )  # fmt: skip
    add("--without-rawsgi", action="store_true", help="compare the others with the first of them")
    add(
        "--corpus", action="append", default=[], metavar="PART",
        help="only this part; repeatable: conformance, wsgi, yours, or a deeper one like "
        "wsgi/input or conformance/host/missing",
    )  # fmt: skip
    add(
        "--requests", type=Path, metavar="FILE",
        help="your own requests: text, a HAR export, an access log, or a folder of recordings",
    )  # fmt: skip
    add("--app-dir", default=".", metavar="DIR", help="where APP is imported from (default: .)")
    add(
        "--ignore", action="append", default=[], metavar="NAME",
        help="a field, environ key or aspect (framing, content, ...) that does not count",
    )  # fmt: skip
    add("--accept", type=Path, metavar="FILE", help="differences listed in FILE do not count")
    add("--write-accept", type=Path, metavar="FILE", help="write all that differs to FILE")
    add(
        "--diff", action="append", default=[], metavar="ID",
        help="only this exchange, with both transcripts side by side; repeatable",
    )  # fmt: skip
    add("--json", metavar="FILE", help="write the result as JSON; - is standard output")
    add("--html", type=Path, metavar="FILE", help="write one self-contained page")
    add("--markdown", type=Path, metavar="FILE", help="write the result into a Markdown page")
    add("--verbose", "-v", action="store_true", help="say of each row what differs and why")
    add(
        "--timeout", type=float, default=10.0, metavar="SECONDS",
        help="how long APP may take for one answer (default: 10)",
    )  # fmt: skip
    return parser


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the comparison as Ctrl-C does. In the main thread only."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Run:
    """One run of the command, in the main thread."""

    def __init__(self, arguments: argparse.Namespace, argv: Sequence[str]) -> None:
        self.arguments = arguments
        self.argv = argv
        self.cancelled = threading.Event()
        self.notes: list[str] = []
        self.started: list[Server] = []

    def run(self) -> int:
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
            comparison = self._compare(kinds, names, running, probe_exchanges, own_exchanges)
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
        self._report(comparison)
        return SAME if comparison.is_same() else DIFFERENT

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
        kinds: Sequence[Kind],
        names: Sequence[str],
        running: Sequence[Server],
        probe_exchanges: Sequence[Exchange],
        own_exchanges: Sequence[Exchange],
    ) -> Comparison:
        arguments = self.arguments
        probe_servers: list[Server] = []
        own_servers: list[Server] = []
        for name, kind in zip(names, kinds, strict=True):
            if probe_exchanges:
                probe_servers.append(Server(name, kind, PROBE, arguments.app_dir))
            if own_exchanges and arguments.app:
                own_servers.append(Server(name, kind, arguments.app, arguments.app_dir))
        for server in (*probe_servers, *own_servers):
            self.started.append(server)
            server.start()
        self._drop_failed(probe_servers, own_servers)
        for server in running:
            server.wait_ready(5)
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
        rows: list[Row] = []
        crashes: dict[str, int] = {}
        try:
            for servers, chosen, probed in (
                (probe_servers, probe_exchanges, True),
                (own_servers, own_exchanges, False),
            ):
                if len(servers) < 2 or not chosen:
                    continue
                replayers = [
                    Replayer(server, probed, arguments.timeout, self.cancelled)
                    for server in servers
                ]
                rows += compare_servers(
                    replayers, chosen, arguments.ignore, progress.advance, self.cancelled,
                    workers=WORKERS if probed else 1,
                )  # fmt: skip
                for replayer in replayers:
                    name = replayer.server.name
                    crashes[name] = crashes.get(name, 0) + replayer.crashes
                    if replayer.crashes:
                        self.notes.append(f"{name} died: {replayer.last_words}")
                    if replayer.overdue:
                        self.notes.append(
                            f"{name} was so slow that {replayer.overdue} exchanges were not "
                            "asked, or not a second time."
                        )
        finally:
            progress.clear()
        if not rows:
            raise UsageError("no two servers are left to compare.")
        seen: dict[str, Server] = {}
        for server in (*probe_servers, *own_servers):
            seen.setdefault(server.name, server)
        columns = [
            Column(server.name, server.version, tuple(server.command)) for server in seen.values()
        ]
        return Comparison(
            application=arguments.app or "",
            columns=columns,
            rows=rows,
            crashes=crashes,
            notes=self.notes,
        )

    def _drop_failed(self, *groups: list[Server]) -> None:
        """Wait for all to serve; one that does not is left out. Raises UsageError if too few do."""
        failed: dict[str, str] = {}
        for server in [server for group in groups for server in group]:
            if server.name in failed:
                continue
            try:
                server.wait_ready()
            except ServerError as error:
                failed[server.name] = str(error)
                print(f"rawsgi compare: {error}", file=sys.stderr)
        if OURS in failed and not self.arguments.without_rawsgi:
            raise UsageError("rawsgi itself does not run; see above.")
        for group in groups:
            group[:] = [server for server in group if server.name not in failed]
        left = {server.name for group in groups for server in group}
        if len(left) + len(self.arguments.running) < 2:
            raise UsageError("no server is left to compare with.")

    # --- saying it ---

    def _report(self, comparison: Comparison) -> None:
        arguments = self.arguments
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        document = make_document(comparison, date)
        if arguments.json and arguments.json != "-":
            _write(Path(arguments.json), json.dumps(document, indent=1) + "\n")
        if arguments.html:
            _write(arguments.html, render_page(comparison, date))
        if arguments.markdown:
            command = shlex.join(["rawsgi", "compare", *self.argv])
            part = render_markdown(comparison, date[:10], command)
            path: Path = arguments.markdown
            _write(path, replace_marked(path.read_text("utf-8") if path.exists() else "", part))
        if arguments.write_accept:
            count = write_accepted(arguments.write_accept, comparison)
            comparison.notes.append(f"{count} differences written to {arguments.write_accept}.")
        if arguments.json == "-":
            print(json.dumps(document, indent=1))
            return
        terminal = sys.stdout.isatty()
        width = max(60, shutil.get_terminal_size((80, 24)).columns) if terminal else 80
        plain = not terminal or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        style = Style(not plain)
        if arguments.diff:
            lines: Iterable[str] = (
                line
                for row in comparison.rows
                for line in (*render_transcripts(comparison, row, width, style), "")
            )
        else:
            lines = render_table(comparison, width, style, arguments.verbose)
        for line in lines:
            print(line.encode(sys.stdout.encoding or "utf-8", "replace").decode(
                sys.stdout.encoding or "utf-8"
            ))  # fmt: skip


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


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
