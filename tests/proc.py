"""What /proc tells about a process: threads, descriptors, time, memory.

Its rule: a figure of one instant. Whoever waits for one polls.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

needs_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="there is no /proc here"
)

_TICKS = os.sysconf("SC_CLK_TCK")


def count_threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def list_descriptors(pid: int) -> list[str]:
    """What each descriptor of the process is: a path, or "socket:[...]"."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


def count_descriptors(pid: int) -> int:
    return len(list_descriptors(pid))


def read_cpu_s(pid: int) -> float:
    """User and system time of the process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def count_switches(pid: int) -> int:
    """How often its threads went to sleep or were made to, so far."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        for line in Path(f"/proc/{pid}/task/{thread}/status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[1])
    return total


def read_memory_bytes(pid: int) -> int:
    """Resident memory that is the process's own."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")
