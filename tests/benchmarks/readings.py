"""Read from the kernel what processes cost: CPU time, memory, threads, context switches.

Rule: a server is its whole process tree, never only the process that was started. CPU time
comes from each process's own CPU clock (POSIX `clock_getcpuclockid`), which counts in
nanoseconds and keeps the time of threads that have ended; `/proc/PID/stat` counts in ticks
of 10 ms, so it only tells user from system time here.

Linux only. Readings of a process that has ended are zero or absent, not errors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CPUCLOCK_SCHED = 2
"""The kernel's number for the scheduler's clock, the low bits of a process's clock id."""


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of `/proc/PID/stat` that are used here; times in ticks."""

    parent: int
    user_ticks: int
    system_ticks: int


def parse_stat(text: str) -> Stat:
    """Parse `/proc/PID/stat` (proc_pid_stat(5)).

    The second field is the name in parentheses and may hold spaces and parentheses itself,
    so the fields are counted from the last closing one.
    """
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(int(fields[1]), int(fields[11]), int(fields[12]))


def parse_switches(text: str) -> int:
    """Context switches of one thread, of both kinds, from its `status` file."""
    return sum(
        int(line.partition(":")[2])
        for line in text.splitlines()
        if line.startswith(("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"))
    )


def parse_pss_kib(text: str) -> int:
    """The proportional set size in KiB from `smaps_rollup`."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def parse_core_busy(text: str, cores: Collection[int]) -> float:
    """Seconds that the given cores have been at work, by `/proc/stat`; waiting is no work."""
    ticks = 0
    for line in text.splitlines():
        name, *fields = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _, _, interrupt, soft_interrupt = map(int, fields[:7])
            ticks += user + nice + system + interrupt + soft_interrupt
    return ticks / TICKS_PER_S


def read_core_busy_s(cores: Collection[int]) -> float:
    return parse_core_busy(_read(PROC / "stat"), cores)


def list_tree(root: int) -> list[int]:
    """`root` and all its living descendants, in order of their numbers."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            text = _read(entry / "stat")
            if text:
                children.setdefault(parse_stat(text).parent, []).append(int(entry.name))
    found = [root]
    for process in found:
        found.extend(children.get(process, ()))
    return sorted(found)


def read_cpu_s(processes: Iterable[int]) -> dict[int, float]:
    """CPU seconds of each process, user and system, all its threads, living and ended."""
    seconds = {}
    for process in processes:
        try:
            seconds[process] = time.clock_gettime((~process << 3) | CPUCLOCK_SCHED)
        except OSError:
            continue
    return seconds


def spent_cpu_s(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Seconds between two readings; a process that is new counts whole."""
    return sum(seconds - before.get(process, 0.0) for process, seconds in after.items())


def read_system_share(before: Mapping[int, Stat], after: Mapping[int, Stat]) -> float:
    """The kernel's share (0 to 1) of the ticks between two readings."""
    user = system = 0
    for process, stat in after.items():
        start = before.get(process, Stat(0, 0, 0))
        user += stat.user_ticks - start.user_ticks
        system += stat.system_ticks - start.system_ticks
    return system / (user + system) if user + system else 0.0


def read_stats(processes: Iterable[int]) -> dict[int, Stat]:
    texts = {process: _read(PROC / str(process) / "stat") for process in processes}
    return {process: parse_stat(text) for process, text in texts.items() if text}


def read_pss_kib(processes: Iterable[int]) -> int:
    """Memory of the processes together in KiB; pages shared among them count once."""
    return sum(parse_pss_kib(_read(PROC / str(process) / "smaps_rollup")) for process in processes)


def read_switches(processes: Iterable[int]) -> dict[int, int]:
    """Context switches so far of each living thread, by its number."""
    return {
        int(task.name): parse_switches(_read(task / "status"))
        for process in processes
        for task in _list(PROC / str(process) / "task")
    }


def spent_switches(before: Mapping[int, int], after: Mapping[int, int]) -> int:
    """Switches between two readings; a thread that ended in between counts as one."""
    ended = len(before.keys() - after.keys())
    return ended + sum(count - before.get(thread, 0) for thread, count in after.items())


def count_threads(processes: Iterable[int]) -> int:
    return sum(len(_list(PROC / str(process) / "task")) for process in processes)


def count_descriptors(processes: Iterable[int]) -> int:
    """Open descriptors; a temporary file without a name counts here too."""
    return sum(len(_list(PROC / str(process) / "fd")) for process in processes)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _list(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
