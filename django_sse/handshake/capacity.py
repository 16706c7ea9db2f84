"""How many connections the server takes, beside how many of them streams may take."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from django_sse.conf import conf
from django_sse.servers.flow_control import Send, is_granians, limit_of_uvicorn

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger("django_sse")


class Limit(NamedTuple):
    """A number of connections, whose it is, and what happens to those beyond it."""

    connections: int
    name: str
    beyond: str


_compared_in: set[int] = set()


def compare_limits(send: Send) -> None:
    """Say once for each process where streams may take all connections of the server.

    Pages and health checks would then wait without an answer, or be refused.
    """
    if os.getpid() in _compared_in:
        return
    _compared_in.add(os.getpid())
    streams = conf.max_connections
    for limit in filter(None, (_servers_limit(send), _files_limit())):
        if streams is None and limit.name == _FILES:
            continue  # Where nothing is said of the streams' number, nothing is known.
        if streams is None or streams >= limit.connections:
            logger.warning(
                "Streams may take all connections of this process: %s is %d, and "
                'DJANGO_SSE["MAX_CONNECTIONS"] is %s. Pages beyond that %s. Set MAX_CONNECTIONS '
                "below it, or raise it.",
                limit.name,
                limit.connections,
                streams,
                limit.beyond,
            )


_FILES = "the limit of open files (ulimit -n)"


def _servers_limit(send: Send) -> Limit | None:
    if (concurrency := limit_of_uvicorn(send)) is not None:
        return Limit(concurrency, "Uvicorn's --limit-concurrency", "are answered with 503")
    if is_granians(send):
        number = granians_backpressure(sys.argv, os.environ)
        if number is not None:
            name = "what Granian takes for each worker (--backpressure, or --backlog / --workers)"
            return Limit(number, name, "wait without an answer")
    return None


def _files_limit() -> Limit | None:
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else Limit(soft, _FILES, "find no connection")


def granians_backpressure(arguments: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """Return how many connections each of Granian's workers takes, by how it was started.

    ``None`` where Granian's command did not start the process, which then knows no number.
    """
    if "granian" not in Path(arguments[0]).parts[-2:] and Path(arguments[0]).name != "granian":
        return None
    found = {"backpressure": "", "backlog": "1024", "workers": "1"}
    for name, default in list(found.items()):
        found[name] = environment.get(f"GRANIAN_{name.upper()}", default)
        for option, following in zip(arguments, [*arguments[1:], ""], strict=True):
            if option == f"--{name}":
                found[name] = following
            elif option.startswith(f"--{name}="):
                found[name] = option.partition("=")[2]
    try:
        if found["backpressure"]:
            return int(found["backpressure"])
        return max(1, int(found["backlog"]) // int(found["workers"]))
    except (ValueError, ZeroDivisionError):
        return None
