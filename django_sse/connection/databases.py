"""The database connections of one of our threads: when they are closed, and how long they are kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from django.core.signals import request_started
from django.db import close_old_connections, connections, reset_queries
from django.dispatch import dispatcher

logger = logging.getLogger("django_sse")

#: Django's own receivers of ``request_started``.
_OWN = (close_old_connections, reset_queries)


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


def postpone_start(sender: type) -> tuple[Callable[[], Any], ...]:
    """Keep ``request_started`` from calling its receivers, and return them to be called later.

    Django's own receivers look after the thread's database connections. That can wait until the
    thread is first needed, so a request that needs no thread waits for none. Where there are other
    receivers, or Django is not as expected, this returns nothing and changes nothing.
    """
    try:
        known = len(request_started.receivers)
        receivers, asynchronous = request_started._live_receivers(sender)
        if asynchronous or any(each not in _OWN for each in receivers):
            return ()
        # connect() holds the lock. A receiver that another thread has connected meanwhile is called.
        with request_started.lock:
            if len(request_started.receivers) != known:
                return ()
            # Django's own mark, which connect() and disconnect() take away.
            request_started.sender_receivers_cache[sender] = dispatcher.NO_RECEIVERS
    except (AttributeError, TypeError, ValueError):
        return ()
    return tuple(partial(each, signal=request_started, sender=sender) for each in receivers)


def stop_postponing(sender: type) -> None:
    """Let ``request_started`` call its receivers again."""
    with suppress(AttributeError):
        request_started.sender_receivers_cache.pop(sender, None)


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
