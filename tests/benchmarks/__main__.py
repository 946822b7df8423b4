"""`python -m tests.benchmarks`: measure, check, or profile."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.check import check
from tests.benchmarks.hostile import hostile
from tests.benchmarks.load.wrk import LoadError, find_wrk
from tests.benchmarks.output.page import describe_run, write_docs, write_json
from tests.benchmarks.output.plot import write_svg
from tests.benchmarks.output.table import write_text
from tests.benchmarks.profile import profile
from tests.benchmarks.rounds import Plan, run_rounds
from tests.benchmarks.servers import SERVERS, Server, ServerError
from tests.benchmarks.workloads import WORKLOADS


def show_progress(text: str) -> None:
    """One line that is written over, at a terminal; nothing in a log."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def end_progress() -> None:
    show_progress("")


def choose_servers(names: Sequence[str]) -> tuple[list[Server], list[str]]:
    """rawsgi and the named servers (all when none is named); and what is not installed."""
    wanted = [name for name in SERVERS if not names or name in names or name == "rawsgi"]
    missing = [
        f"{name} is not installed: pip install {SERVERS[name].distribution}"
        for name in wanted
        if SERVERS[name].version() is None
    ]
    return [SERVERS[name] for name in wanted if SERVERS[name].version() is not None], missing


COMMANDS = {"check": check, "hostile": hostile, "profile": profile}


def measure(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure rawsgi beside every installed server, in interleaved rounds. "
        f"Further commands: {', '.join(COMMANDS)}.",
    )
    parser.add_argument(
        "--workload",
        action="append",
        choices=list(WORKLOADS),
        metavar="NAME",
        help=f"only this one (repeatable): {', '.join(WORKLOADS)}",
    )
    parser.add_argument(
        "--with",
        action="append",
        choices=list(SERVERS),
        metavar="NAME",
        dest="others",
        help=f"only this server (repeatable): {', '.join(SERVERS)}",
    )
    parser.add_argument("--without-rawsgi", action="store_true", help="measure the others only")
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    parser.add_argument("--seconds", type=float, default=Plan().seconds, help="of load, per round")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE")
    parser.add_argument("--write-docs", action="store_true", help="docs/benchmarks.*")
    arguments = parser.parse_args(argv)
    servers, missing = choose_servers(arguments.others or [])
    if arguments.without_rawsgi:
        servers = [server for server in servers if server.name != "rawsgi"]
    for line in missing:
        print(line, file=sys.stderr)
    workloads = [WORKLOADS[name] for name in arguments.workload or WORKLOADS]
    plan = Plan(rounds=arguments.rounds, seconds=arguments.seconds)
    results = run_rounds(servers, workloads, plan, show_progress)
    end_progress()
    about = describe_run(plan.rounds, plan.seconds)
    print(write_text(results))
    if arguments.json:
        arguments.json.write_text(write_json(results, about), encoding="utf-8")
    if arguments.svg:
        arguments.svg.write_text(write_svg(results), encoding="utf-8")
    if results.interrupted:
        return 130
    if arguments.write_docs:
        write_docs(results, about)
    return 1 if any(failure["server"] == "rawsgi" for failure in results.failures) else 0


def main(argv: Sequence[str]) -> int:
    try:
        find_wrk()
        if argv and argv[0] in COMMANDS:
            return COMMANDS[argv[0]](argv[1:], show_progress)
        return measure(argv)
    except (LoadError, ServerError) as error:
        end_progress()
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        end_progress()
        return 130


def end_orderly(number: int, frame: object) -> None:
    """SIGTERM: leave through every `with`, so that no server or file is left behind."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end_orderly)
    sys.exit(main(sys.argv[1:]))
