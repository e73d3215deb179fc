"""What the kernel says of a process: read from /proc, so on Linux alone; elsewhere nothing is known."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Usage(NamedTuple):
    """What a process has used and holds."""

    cpu_s: float
    """Processor seconds, of user and system."""
    resident_bytes: int
    threads: int
    started_s: float
    """Seconds since 1970."""


def usage_of(pid: int) -> Usage | None:
    """What a process has used, also of one that has ended and was not waited for yet; None where there is none."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return Usage(
        cpu_s=(int(fields[11]) + int(fields[12])) / ticks,
        resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        threads=int(fields[17]),
        started_s=_booted_s() + int(fields[19]) / ticks,
    )


def resident_bytes() -> int:
    """What this process holds; 0 where the kernel does not say."""
    usage = usage_of(os.getpid())
    return 0 if usage is None else usage.resident_bytes


def waited_s(pid: int, thread: int) -> float:
    """How many seconds a thread has been ready to run so far while others had the processor; 0 where that is not known."""
    try:
        fields = (PROC / str(pid) / "task" / str(thread) / "schedstat").read_text(encoding="ascii").split()
        return int(fields[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def open_files_of(pid: int) -> int | None:
    """How many file descriptors a process has open; None where there is none, or where it is not ours to look at."""
    try:
        return sum(1 for _ in (PROC / str(pid) / "fd").iterdir())
    except OSError:
        return None


@cache
def _booted_s() -> int:
    """When this machine started, in seconds since 1970."""
    lines = (PROC / "stat").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime "))
