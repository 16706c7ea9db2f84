"""A warning where several workers of one server run, which share no memory."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from contextvars import Context
from pathlib import Path

logger = logging.getLogger("django_sse")

#: Seconds until the first look for other workers, and from it to the second. Only workers that both
#: looks find count, because a worker that replaces another one runs beside it for a while.
LOOKS = (3.0, 6.0)

# The numbers in the command line of a worker that multiprocessing starts; they differ between
# workers.
_SPAWNED = re.compile(rb"(tracker_fd|pipe_handle|parent_pid)=\d+")
_PROCESSES = Path("/proc")

_looked_in: set[int] = set()


def warn_of_siblings() -> None:
    """Log a warning after some seconds, once for each process, where other workers of its server
    run.

    They are found on Linux. Call it on a running event loop.
    """
    if os.getpid() not in _looked_in:
        _looked_in.add(os.getpid())
        loop = asyncio.get_running_loop()
        loop.call_later(LOOKS[0], _look, loop, context=Context())


def _look(loop: asyncio.AbstractEventLoop) -> None:
    if found := siblings():
        loop.call_later(LOOKS[1], _look_again, found, context=Context())


def _look_again(before: set[int]) -> None:
    if there := before & siblings():
        logger.warning(
            "%d processes serve this application, and the MemoryBroker reaches one: most of what is "
            "published does not arrive at the clients of the others. Use "
            '"django_sse.brokers.database.DatabaseBroker" or "django_sse.brokers.redis.RedisBroker" as '
            'DJANGO_SSE["BROKER"]["BACKEND"], or one worker.',
            len(there) + 1,
        )


def siblings() -> set[int]:
    """Return the process ids of the processes that the same parent has started with the same command."""
    own, parent = _described(os.getpid()), os.getppid()
    found = set()
    for entry in _PROCESSES.glob("[0-9]*"):
        number = int(entry.name)
        alike = number != os.getpid() and _parent(number) == parent and _described(number) == own
        if alike and own is not None:
            found.add(number)
    return found


def _parent(number: int) -> int | None:
    try:
        text = (_PROCESSES / str(number) / "stat").read_bytes()
    except OSError:
        return None  # The process has ended meanwhile.
    # The state and the parent follow the name, which may have spaces and parentheses.
    state, parent = text.rpartition(b")")[2].split()[:2]
    return None if state == b"Z" else int(parent)


def _described(number: int) -> tuple[bytes, str] | None:
    """Return the command line and the working directory of a process; ``None`` if they cannot be read."""
    folder = _PROCESSES / str(number)
    try:
        command = (folder / "cmdline").read_bytes()
        return _SPAWNED.sub(rb"\1", command), str((folder / "cwd").readlink())
    except OSError:
        return None
