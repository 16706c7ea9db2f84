"""Ask which users follow a topic now, over all processes."""

from __future__ import annotations

from typing import TypedDict
from weakref import WeakSet

from django.core.exceptions import ImproperlyConfigured
from django.utils.asyncio import async_unsafe

from django_sse.brokers import get_broker
from django_sse.brokers.presence import Presence
from django_sse.conf import conf

from .attendance import JOIN, LEAVE
from .declarations import Declaration
from .publishing import check_topics


class PresentUser(TypedDict):
    """The data of ``join`` and ``leave``: the primary key of a user."""

    user: str


#: The events of topics whose followers count as present.
EVENTS = Declaration("Presence", {JOIN: PresentUser, LEAVE: PresentUser})
#: The views whose streams may count as present, for the system check.
attending: WeakSet[type] = WeakSet()


def check_events_of_presence(owner: str, declaration: Declaration | None) -> None:
    """Raise ``ImproperlyConfigured`` where a view declares events that presence sends."""
    for name in EVENTS.events:
        if declaration is not None and name in declaration.events:
            raise ImproperlyConfigured(
                f"{owner}.events must not have {name!r}: `presence` sends it, and it is declared "
                "already."
            )


@async_unsafe("presence() waits for the broker: use `await apresence(…)`.")
def presence(topic: str) -> Presence:
    """Return who follows a topic now, over all processes: ``users`` and ``anonymous``.

    ``users`` are the primary keys of users as text, each once, sorted. A user is among them from
    ``join`` to ``leave``. ``anonymous`` is the number of open streams without a user. Only streams
    of views with presence count. A process that died counts for ``LEASE`` seconds at most, or for
    ``GRACE``, if that is longer.

    Raises ``InvalidTopic``, ``BrokerError`` after ``PUBLISH_TIMEOUT`` seconds, and
    ``ImproperlyConfigured`` for a broker without presence.
    """
    [name] = check_topics([topic])
    return get_broker().presence(name, timeout=conf.publish_timeout)


async def apresence(topic: str) -> Presence:
    """Do the same as ``presence()`` from a coroutine."""
    [name] = check_topics([topic])
    return await get_broker().apresence(name, timeout=conf.publish_timeout)
