"""`rawsgi compare`: the command line, and the order in which everything is done.

The rule: whatever happens, the servers are ended before `main` returns, and the exit status says
what a script must know: 0 nothing differs but what was accepted, 1 something does, 2 it could not
be done as asked, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import errno
import json
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from rawsgi.compare.exchanges import CorpusError
from rawsgi.compare.exchanges.recorded import RecordedError
from rawsgi.compare.judgement.accepted import AcceptedError, write_accepted
from rawsgi.compare.judgement.comparison import Comparison
from rawsgi.compare.judgement.reasons import list_unexplained
from rawsgi.compare.report.document import make_document, render_markdown, replace_marked
from rawsgi.compare.report.page import render_page
from rawsgi.compare.report.table import Style, render_table
from rawsgi.compare.report.transcript import render_transcripts
from rawsgi.compare.rounds import OURS
from rawsgi.compare.run import Run, UsageError
from rawsgi.compare.servers.kinds import KINDS, ServerError

SAME: Final = 0
DIFFERENT: Final = 1
UNUSABLE: Final = 2
INTERRUPTED: Final = 130
_DESCRIPTION: Final = """\
Send the same bytes to rawsgi and to other servers, and show where the answers differ and what
the specification says of it. Each server runs a probe application for the corpora "conformance"
and "wsgi", and APP for "yours": a few harmless requests, or those of --requests. The settings in
pyproject.toml and RAWSGI_* hold where rawsgi runs APP; log files and recordings are never written.
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


def main(argv: list[str]) -> int:
    """Run `rawsgi compare` with the arguments after "compare"; return the exit status."""
    parser = make_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as error:
        return int(error.code or 0)
    try:
        _check_outputs(arguments)
        with _terminated_as_interrupted():
            comparison = Run(arguments).run()
        _report(comparison, arguments, argv)
        return SAME if comparison.is_same() else DIFFERENT
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


def _report(comparison: Comparison, arguments: argparse.Namespace, argv: Sequence[str]) -> None:
    """Write and print all that was asked for."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    document = make_document(comparison, date)
    if arguments.json and arguments.json != "-":
        _write(Path(arguments.json), json.dumps(document, indent=1) + "\n")
    if arguments.html:
        _write(arguments.html, render_page(comparison, date))
    if arguments.markdown:
        command = shlex.join(["rawsgi", "compare", *argv])
        part = render_markdown(comparison, date[:10], command)
        path: Path = arguments.markdown
        _write(path, replace_marked(_read_page(path), part))
        unexplained = list_unexplained(comparison)
        if unexplained:
            raise UsageError(
                f"{path}: {len(unexplained)} differences of {OURS}'s own have no explanation in "
                f"judgement/reasons.toml: {', '.join(unexplained)}"
            )
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


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse at once what could not be written in the end. Raises UsageError."""
    json_path = Path(arguments.json) if arguments.json and arguments.json != "-" else None
    for path in (json_path, arguments.html, arguments.markdown, arguments.write_accept):
        if path is not None and os.path.isdir(path):
            raise UsageError(f"{path}: {os.strerror(errno.EISDIR)}")
        if path is not None and not os.path.isdir(path.parent):
            raise UsageError(f"{path}: there is no such folder")
    if arguments.markdown:
        _read_page(arguments.markdown)


def _read_page(path: Path) -> str:
    """Return what the Markdown page holds, "" where there is none yet. Raises UsageError."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{path}: {reason}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
