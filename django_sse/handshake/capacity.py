"""A warning where streams may take all connections of the server."""

from __future__ import annotations

import logging
import os

from django_sse.conf import conf
from django_sse.servers.base import Limit, Server

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger("django_sse")


_compared_in: set[int] = set()


def compare_limits(server: Server) -> None:
    """Log a warning, once for each process, where streams may take all connections of the server.

    Pages and health checks would then wait without an answer, or be refused.
    """
    if os.getpid() in _compared_in:
        return
    _compared_in.add(os.getpid())
    streams = conf.max_connections
    for limit in filter(None, (server.limit(), _files_limit())):
        if streams is None and limit.name == _FILES:
            continue  # Without MAX_CONNECTIONS, nothing is known of the number of streams.
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


def _files_limit() -> Limit | None:
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else Limit(soft, _FILES, "find no connection")
