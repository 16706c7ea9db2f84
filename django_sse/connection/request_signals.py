"""Django's signals of a request without a trip to its thread, where only Django itself listens.

Django's own receivers look after the database connections and caches of the request's thread. A
request that has not used its thread has nothing for them to do, and another one can call them in a
trip that it makes anyway. Where a project or a package listens, too, and where Django is not as
expected, nothing here changes what Django does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from django.core.cache import caches, close_caches
from django.core.cache.backends.base import BaseCache
from django.core.handlers.base import reset_urlconf
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, reset_queries
from django.dispatch import Signal, dispatcher

from .databases import close_due

Receiver = Callable[..., Any]

_AT_START: tuple[Receiver, ...] = (close_old_connections, reset_queries)
# The receivers at the end that have to be called in the request's thread, and all of Django's.
_IN_THREAD: tuple[Receiver, ...] = (close_old_connections, close_caches)
_AT_END = (*_IN_THREAD, reset_urlconf)


def postpone_start(sender: type) -> tuple[Callable[[], Any], ...]:
    """Keep ``request_started`` from calling its receivers, and return them to be called later.

    That can wait until the thread is first needed, so a request that needs no thread waits for
    none. Where there are other receivers than Django's own, this returns nothing and changes nothing.
    """
    try:
        known = len(request_started.receivers)
        receivers = _receivers(request_started, sender, _AT_START)
        # connect() holds the lock. A receiver that another thread has connected meanwhile is called.
        with request_started.lock:
            if receivers is None or len(request_started.receivers) != known:
                return ()
            # Django's own mark, which connect() and disconnect() take away.
            request_started.sender_receivers_cache[sender] = dispatcher.NO_RECEIVERS
    except (AttributeError, TypeError):
        return ()
    return tuple(partial(each, signal=request_started, sender=sender) for each in receivers)


def stop_postponing(sender: type) -> None:
    """Let ``request_started`` call its receivers again."""
    with suppress(AttributeError):
        request_started.sender_receivers_cache.pop(sender, None)


def end_in_thread(sender: type) -> bool:
    """Do in the request's thread what Django's receivers of ``request_finished`` do there.

    Returns False, and does nothing, where others listen. After True, ``tell_end()`` does the rest.
    """
    if _receivers(request_finished, sender, _AT_END) is None:
        return False
    close_due()
    close_caches()
    return True


def needs_no_thread(sender: type) -> bool:
    """Return whether the end of a request that has not used its thread does nothing there."""
    return _receivers(request_finished, sender, _AT_END) is not None and all(
        type(cache).close is BaseCache.close for cache in caches.all(initialized_only=True)
    )


def tell_end(sender: type | None) -> None:
    """Call the receivers of ``request_finished`` that need not be called in the request's thread."""
    for each in request_finished._live_receivers(sender)[0]:
        if each not in _IN_THREAD:
            each(signal=request_finished, sender=sender)


def _receivers(signal: Signal, sender: type, known: tuple[Receiver, ...]) -> list[Receiver] | None:
    """Return a signal's receivers, or ``None`` where there is another one than those that are known."""
    try:
        receivers, asynchronous = signal._live_receivers(sender)
    except (AttributeError, TypeError, ValueError):
        return None
    if asynchronous or any(each not in known for each in receivers):
        return None
    return list(receivers)
