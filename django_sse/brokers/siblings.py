"""Other processes that serve the same application: workers of one server, which share no memory."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from contextvars import Context
from pathlib import Path

logger = logging.getLogger("django_sse")

#: Seconds until the first look for other workers, and from it to the second. A worker that replaces
#: another one meets it for a while: only those that stay count.
LOOKS = (3.0, 6.0)

# How multiprocessing starts a worker: with numbers of its own in each.
_SPAWNED = re.compile(rb"(tracker_fd|pipe_handle|parent_pid)=\d+")
_PROCESSES = Path("/proc")

_looked_in: set[int] = set()


def warn_of_siblings() -> None:
    """Say in a while, once for each process, where other workers of its server run beside it.

    Known on Linux. Belongs to a running event loop.
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
            '"django_sse.brokers.redis.RedisBroker" as DJANGO_SSE["BROKER"]["BACKEND"], or one worker.',
            len(there) + 1,
        )


def siblings() -> set[int]:
    """Return the numbers of the processes that the same parent has started in the same way."""
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
        return None  # It has ended meanwhile.
    # After the name, which may have spaces and parentheses: the state, and the parent.
    state, parent = text.rpartition(b")")[2].split()[:2]
    return None if state == b"Z" else int(parent)


def _described(number: int) -> tuple[bytes, str] | None:
    """Return a process's command and folder; ``None`` where they cannot be known."""
    folder = _PROCESSES / str(number)
    try:
        command = (folder / "cmdline").read_bytes()
        return _SPAWNED.sub(rb"\1", command), str((folder / "cwd").readlink())
    except OSError:
        return None
