"""What rawsgi must withstand: `python -m tests.benchmarks hostile`.

Three groups: connections that move one byte at a time while a normal client is timed;
applications that never return; clients that break off. Each row is bounded in time, and a
row ends early when the server's memory passes a bound, so that a mistake in the server does
not take the machine with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks import readings
from tests.benchmarks.load.client import connect, end_client, start_client, write_request
from tests.benchmarks.load.wrk import LoadError
from tests.benchmarks.output.table import align
from tests.benchmarks.served.applications import FILE_VARIABLE, MEBIBYTE
from tests.benchmarks.servers import (
    SERVERS,
    Launch,
    Running,
    ServerError,
    choose_cores,
    find_free_port,
    raise_descriptor_limit,
    running,
)
from tests.benchmarks.workloads import APPLICATIONS

APPLICATION = f"{APPLICATIONS}:meet_strangers"
SERVER = "rawsgi"
ATTACKERS = 300
LEAVERS = 500
WAVES = 3
LATENCY_LIMIT_MS = 100.0
MEMORY_LIMIT_KIB = 3 << 20
FILE_BYTES = 64 << 20
LOST_MEMORY_LIMIT_KIB = 2048
"""Over three waves of 500 clients, 1.4 KiB each: less than a connection takes, more than an
allocator moves by itself."""

SETTLE_S = 40.0
"""A server may take its own deadlines (20 s and 30 s) to give up a client; no longer."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report."""

    what: str
    demanded: str
    measured: str
    holds: bool | None
    """`None`: told, and not demanded."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much and how long; the tests make it small."""

    attackers: int = ATTACKERS
    leavers: int = LEAVERS
    seconds: float = 15.0


@contextlib.contextmanager
def _serving(*options: str) -> Iterator[tuple[Running, Path]]:
    """rawsgi with the application for strangers, and the folder of its temporary files."""
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory(prefix="rawsgi-benchmark-") as name:
        folder = Path(name)
        file = folder / "file"
        with file.open("wb") as opened:
            for _ in range(FILE_BYTES >> 20):  # real blocks: a hole is no file to send
                opened.write(MEBIBYTE)
        temporary = folder / "temporary"
        temporary.mkdir()
        launch = Launch(APPLICATION, find_free_port(), options=options)
        environment = {FILE_VARIABLE: str(file), "TMPDIR": str(temporary)}
        with running(SERVERS[SERVER], launch, choose_cores().server, environment) as server:
            yield server, temporary


def _await_up(client: subprocess.Popen[str], timeout_s: float) -> None:
    """Wait until an attack says that all its connections have been opened."""
    assert client.stdout is not None
    readable, _, _ = select.select([client.stdout], [], [], timeout_s)
    if not readable or client.stdout.readline().strip() != "up":
        raise LoadError("the attack did not begin")


def _collect(client: subprocess.Popen[str], server: Running, timeout_s: float) -> dict[str, float]:
    """The figures that a client prints at its end; watches the server's memory meanwhile."""
    end = time.monotonic() + timeout_s
    while client.poll() is None:
        memory_kib = readings.read_pss_kib(server.tree())
        if memory_kib > MEMORY_LIMIT_KIB:
            raise LoadError(f"stopped: the server uses {memory_kib >> 10} MiB")
        if time.monotonic() > end:
            raise LoadError("a client did not end in time")
        time.sleep(0.1)
    assert client.stdout is not None
    figures: dict[str, float] = json.loads(client.stdout.read() or "{}")
    return figures


def attack(how: str, path: str, bounds: Bounds, *options: str, demanded: bool = True) -> Row:
    """A normal client's latency while slow connections are held."""
    cores = choose_cores()
    label = " ".join([f"{bounds.attackers} connections, {how}", path, *options])
    demand = f"answers under {LATENCY_LIMIT_MS:g} ms" if demanded else "(told only)"
    words = ["drip", how, str(bounds.attackers), str(bounds.seconds + 3), path]
    try:
        with _serving(*options) as (server, _):
            words.insert(1, str(server.port))
            attackers = start_client("attackers", words, cores.load)
            normal = None
            try:
                _await_up(attackers, 60)
                normal = start_client("steady", [str(server.port), str(bounds.seconds)], cores.load)
                figures = _collect(normal, server, bounds.seconds + 30)
                memory_kib = readings.read_pss_kib(server.tree())
                held = _collect(attackers, server, bounds.seconds + 30)
            finally:
                end_client(attackers)
                if normal is not None:
                    end_client(normal)
    except (LoadError, ServerError, OSError) as error:
        return Row(label, demand, str(error), False)
    measured = (
        f"p50 {figures['p50_ms']:.2f}, p99 {figures['p99_ms']:.1f}, max {figures['max_ms']:.1f} ms"
        f" of {figures['requests']:.0f}; {figures['errors']:.0f} errors;"
        f" {held['connections']:.0f} held, {held['opened']:.0f} opened;"
        f" {memory_kib / 1024:.0f} MiB"
    )
    good = figures["max_ms"] < LATENCY_LIMIT_MS and not figures["errors"]
    return Row(label, demand, measured, good if demanded else None)


def stick(path: str, bounds: Bounds) -> Row:
    """A request that never ends: others go on, 504 at 2 s, its stack in the log."""
    label = f"{path} with --request-timeout 2"
    demand = "504 at 2 s, stack in the log, others go on"
    cores = choose_cores()
    seconds = min(bounds.seconds, 6.0)
    try:
        with _serving("--request-timeout", "2", "--slow-request", "1") as (server, _):
            normal = start_client("steady", [str(server.port), str(seconds)], cores.load)
            try:
                status, waited_s = _await_status(server.port, path)
                figures = _collect(normal, server, seconds + 30)
            finally:
                end_client(normal)
            told = path in server.output(100_000) and "meet_strangers" in server.output(100_000)
    except (LoadError, ServerError, OSError) as error:
        return Row(label, demand, str(error), False)
    measured = (
        f"{status or 'nothing'} after {waited_s:.2f} s; stack {'' if told else 'not '}in the log;"
        f" others p99 {figures['p99_ms']:.1f}, max {figures['max_ms']:.1f} ms,"
        f" {figures['errors']:.0f} errors"
    )
    good = status == 504 and 1.9 <= waited_s <= 2.6 and told and not figures["errors"]
    return Row(label, demand, measured, good and figures["p99_ms"] < LATENCY_LIMIT_MS)


def _await_status(port: int, path: str) -> tuple[int, float]:
    start = time.monotonic()
    with connect(port) as client:
        client.settimeout(6)
        client.sendall(write_request(path))
        try:
            words = client.recv(4096).split(b" ", 2)
        except TimeoutError:
            words = []
    status = int(words[1]) if len(words) == 3 and words[1].isdigit() else 0
    return status, time.monotonic() - start


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a process holds."""

    descriptors: int
    threads: int
    files: int
    memory_kib: int

    def describe(self) -> str:
        return (
            f"{self.descriptors} fd, {self.threads} threads, {self.files} files,"
            f" {self.memory_kib / 1024:.1f} MiB"
        )

    def keeps(self, before: Holdings) -> bool:
        """Nothing beyond what was held before. Threads of the crew may rest."""
        return self.descriptors <= before.descriptors and self.files <= before.files


def _read_holdings(server: Running, temporary: Path) -> Holdings:
    tree = server.tree()
    return Holdings(
        readings.count_descriptors(tree),
        readings.count_threads(tree),
        len(os.listdir(temporary)),
        readings.read_pss_kib(tree),
    )


def _await_rest(server: Running, temporary: Path) -> Holdings:
    """What is held once the connection that asked whether the server is up has gone."""
    held = _read_holdings(server, temporary)
    while (now := _read_holdings_later(server, temporary)).descriptors < held.descriptors:
        held = now
    return now


def _read_holdings_later(server: Running, temporary: Path) -> Holdings:
    time.sleep(0.3)
    return _read_holdings(server, temporary)


def _break_off(server: Running, how: str, count: int) -> None:
    words = ["break", str(server.port), how, str(count)]
    client = start_client("attackers", words, choose_cores().load)
    try:
        figures = _collect(client, server, 60)
    finally:
        end_client(client)
    if figures.get("begun", 0) < count * 0.9:
        raise LoadError(f"only {figures.get('begun', 0):.0f} of {count} clients could begin")


def _settle(server: Running, temporary: Path, before: Holdings) -> tuple[Holdings, float]:
    """Wait until nothing more is held than before, within the server's own deadlines."""
    start = time.monotonic()
    now = _read_holdings(server, temporary)
    while not now.keeps(before) and time.monotonic() < start + SETTLE_S:
        time.sleep(0.1)
        now = _read_holdings(server, temporary)
    return now, time.monotonic() - start


def _break_off_in_waves(
    server: Running, temporary: Path, how: str, bounds: Bounds, start: Holdings
) -> tuple[Holdings, float]:
    """What is held in the end, and how long the last wave took to be forgotten."""
    for _ in range(WAVES):
        _break_off(server, how, bounds.leavers)
        held, waited_s = _settle(server, temporary, start)
    return held, waited_s


def leave(how: str, bounds: Bounds) -> Row:
    """Clients that break off: what the process holds before and after.

    The first waves are not counted: they bring the threads, the pools of the allocator and the
    caches to their size, which all later ones must not enlarge.
    """
    label = f"{bounds.leavers} clients break off, {how}"
    demand = f"no descriptor, thread or file lost; memory within {LOST_MEMORY_LIMIT_KIB >> 10} MiB"
    try:
        with _serving() as (server, temporary):
            start = _await_rest(server, temporary)
            before, _ = _break_off_in_waves(server, temporary, how, bounds, start)
            after, waited_s = _break_off_in_waves(server, temporary, how, bounds, start)
    except (LoadError, ServerError, OSError) as error:
        return Row(label, demand, str(error), False)
    good = (
        after.keeps(start)
        and after.threads <= max(before.threads, start.threads)
        and after.memory_kib - before.memory_kib <= LOST_MEMORY_LIMIT_KIB
    )
    measured = (
        f"at start {start.describe()}; after {WAVES} waves {before.describe()};"
        f" after {2 * WAVES} {after.describe()} ({waited_s:.1f} s)"
    )
    return Row(label, demand, measured, good)


ATTACKS = (("head", "/"), ("content", "/upload"), ("read", "/download"), ("read", "/file"))
STUCK = ("/sleep", "/loop", "/block")
LEAVING = ("upload", "chunked", "download", "generated")
GROUPS = ("slow", "stuck", "leave")


def build_tasks(groups: Sequence[str], bounds: Bounds) -> list[Callable[[], Row]]:
    """The rows to measure, in order."""
    tasks: list[Callable[[], Row]] = []
    if "slow" in groups:
        for options in ((), ("--threads", "2")):
            tasks += [partial(attack, how, path, bounds, *options) for how, path in ATTACKS]
        # A generator holds a thread while its client is slow: 300 of them can hold them all.
        tasks.append(partial(attack, "read", "/generated", bounds, demanded=False))
    if "stuck" in groups:
        tasks += [partial(stick, path, bounds) for path in STUCK]
    if "leave" in groups:
        tasks += [partial(leave, how, bounds) for how in LEAVING]
    return tasks


def hostile(argv: Sequence[str], progress: Callable[[str], None]) -> int:
    """The command. Returns 0 when every demand holds, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks hostile",
        description="Attack rawsgi on this machine and say whether it withstands.",
    )
    parser.add_argument("--group", action="append", choices=GROUPS, metavar="NAME",
                        help=f"only this one (repeatable): {', '.join(GROUPS)}")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=Bounds().seconds)
    arguments = parser.parse_args(argv)
    tasks = build_tasks(arguments.group or GROUPS, Bounds(seconds=arguments.seconds))
    rows = []
    for number, task in enumerate(tasks):
        progress(f"{number + 1} of {len(tasks)}")
        rows.append(task())
    progress("")
    words = {True: "holds", False: "DOES NOT HOLD", None: "-"}
    table = [["what", "demanded", "measured", "holds"]]
    table += [[row.what, row.demanded, row.measured, words[row.holds]] for row in rows]
    print(align(table, left=4))
    return 0 if all(row.holds is not False for row in rows) else 1
