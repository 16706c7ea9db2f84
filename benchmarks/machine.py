"""What the machine tells: processor time, memory, and which core a process runs on."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path


@cache
def cores() -> tuple[int, int]:
    """Return the core of the servers and the core of the clients; the same one if there is one.

    They are those of the first call: ``pin()`` leaves a process only one.
    """
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def pin(core: int) -> None:
    """Keep this process, and those it starts, on one core."""
    os.sched_setaffinity(0, {core})


@contextmanager
def on(core: int) -> Iterator[None]:
    """Let the processes that the block starts run on a core; this one stays on that of the clients."""
    pin(core)
    try:
        yield
    finally:
        pin(cores()[1])


def allow_many_connections() -> None:
    """Raise the limit of open files as far as it may be raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, ended threads included, to the nanosecond.

    The clock's number is what the C library's ``clock_getcpuclockid()`` returns on Linux.
    """
    return time.clock_gettime((~pid << 3) | 2)


def children(pid: int) -> list[int]:
    """Return the processes that a process's main thread has started, the oldest first."""
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def memory_kb(pid: int) -> tuple[int, int]:
    """Return the private (USS) and the resident memory of a process, in kB."""
    private = resident = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in {"Private_Clean", "Private_Dirty"}:
            private += int(rest.split()[0])
        elif name == "Rss":
            resident = int(rest.split()[0])
    return private, resident


def kernel_kb() -> int:
    """Return what the kernel of the machine holds in its slabs, sockets among others, in kB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            return int(line.split()[1])
    raise RuntimeError("/proc/meminfo has no Slab.")


def threads(pid: int) -> int:
    """Return how many threads a process has at the moment."""
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
