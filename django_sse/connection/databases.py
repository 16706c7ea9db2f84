"""The database connections of one of our threads: when they are closed, and how long they are kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from django.db import close_old_connections, connections

logger = logging.getLogger("django_sse")


def opened() -> list[Any]:
    """Return the thread's connections that are open."""
    return [c for c in connections.all(initialized_only=True) if c.connection is not None]


def may_be_kept(connection: Any) -> bool:
    """Return whether the next request may use an open connection: it is in no transaction, and
    ``CONN_MAX_AGE`` allows it.
    """
    return connection.settings_dict["CONN_MAX_AGE"] != 0 and not connection.in_atomic_block


def is_pooled(settings: Mapping[str, Any]) -> bool:
    """Return whether a database's connections are shared in a pool: Django's own, or a back end's."""
    return bool(settings.get("OPTIONS", {}).get("pool")) or "pool" in settings.get("ENGINE", "")


def give_back() -> None:
    """Return the thread's connections of pools to their pools; log errors."""
    _close([connection for connection in opened() if is_pooled(connection.settings_dict)])


def close_due(*, after_error: bool = False) -> None:
    """Treat the thread's connections as Django does at the end of a request; log errors.

    ``after_error`` says that a call raised. Then this happens only if a connection failed, so that
    the next call opens a new one.
    """
    try:
        known = connections.all(initialized_only=True)
        if not after_error or any(connection.errors_occurred for connection in known):
            close_old_connections()
    except Exception:
        # If the error ended the thread, its streams would wait for ever.
        logger.warning("A database connection could not be closed.", exc_info=True)


def close_all() -> None:
    """Close the thread's connections, before it ends; log errors."""
    _close(opened())


def seconds_to_keep(least: float) -> float | None:
    """Return for how many seconds the thread's connections may be kept, ``least`` or more.

    ``0`` where none is open, and ``None`` for any time (``CONN_MAX_AGE = None``).
    """
    held = opened()
    if not held:
        return 0
    ends = [connection.close_at for connection in held if connection.close_at is not None]
    return max(min(ends) - time.monotonic(), least) if ends else None


def _close(held: list[Any]) -> None:
    for connection in held:
        if not connection.in_atomic_block:
            try:
                connection.close()
            except Exception:
                logger.warning("A database connection could not be closed.", exc_info=True)
