"""The declaration of a heartbeat, which keeps proxies from closing a quiet stream and finds lost clients."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_sse.exceptions import SSEError

from .events import ServerSentEvent

logger = logging.getLogger("django_sse")

EventProvider = Callable[[], ServerSentEvent | Awaitable[ServerSentEvent]]


@dataclass(frozen=True, slots=True, init=False)
class Heartbeat:
    """How often a stream sends a heartbeat, and which event it sends.

    ``period`` is in seconds, or a ``timedelta``; ``None`` and ``0`` turn heartbeats off. ``event``
    is a ``ServerSentEvent``, a dict of its fields, a callable that returns a ``ServerSentEvent``,
    or the callable's dotted path. The callable may be async; a synchronous one must not block. By
    default the event is the comment ``heartbeat``, which browsers ignore.

    Raises ``ImproperlyConfigured`` for anything else, and for an event that cannot be sent.
    """

    period: float
    event: ServerSentEvent | EventProvider | str
    encoded: bytes | None = field(repr=False, compare=False)

    def __init__(
        self,
        period: float | timedelta | None,
        event: ServerSentEvent | Mapping[str, Any] | EventProvider | str | None = None,
    ) -> None:
        """Check the period and the event; raise ``ImproperlyConfigured`` for wrong ones."""
        object.__setattr__(self, "period", check_period("A heartbeat's period", period))
        object.__setattr__(self, "event", check_event("A heartbeat's event", event))
        # Encode the event once for all beats of all streams. Only an object needs the view's
        # serializer.
        object.__setattr__(self, "encoded", _encoded(self.event))

    def __bool__(self) -> bool:
        """Return whether the heartbeat is on."""
        return self.period > 0

    def provider(self) -> EventProvider:
        """Return a callable that returns the event of a beat.

        Imports a dotted path; raises ``ImproperlyConfigured`` if that fails.
        """
        event = self.event
        if isinstance(event, ServerSentEvent):
            return functools.partial(_same, event)
        if isinstance(event, str):
            return _imported(event)
        return event


def check_period(name: str, period: Any) -> float:
    """Return a period in seconds; raise ``ImproperlyConfigured``, by that name, for a wrong one."""
    if period is None:
        return 0.0
    number = period.total_seconds() if isinstance(period, timedelta) else period
    if isinstance(number, bool) or not isinstance(number, int | float):
        number = -1
    if not 0 <= number <= sys.float_info.max:
        raise ImproperlyConfigured(
            f"{name} must be a number of seconds, a timedelta or None (0 and None turn it off), got "
            f"{period!r}."
        )
    return float(number)


def _encoded(event: ServerSentEvent | EventProvider | str) -> bytes | None:
    if not isinstance(event, ServerSentEvent):
        return None
    return event.encode() if event.data is None or isinstance(event.data, str) else None


def _same(event: ServerSentEvent) -> ServerSentEvent:
    return event


def check_event(name: str, event: Any) -> ServerSentEvent | EventProvider | str:
    """Return a beat's event; raise ``ImproperlyConfigured``, by that name, for a wrong one."""
    if event is None:
        return ServerSentEvent(comments="heartbeat")
    if isinstance(event, Mapping):
        try:
            return ServerSentEvent(**event)
        except (TypeError, SSEError) as error:
            raise ImproperlyConfigured(
                f"{name} {dict(event)!r} is not one that can be sent: {error}"
            ) from error
    accepted: ServerSentEvent | EventProvider | str = event
    if isinstance(event, ServerSentEvent) or callable(event) or _is_dotted(event):
        return accepted
    raise ImproperlyConfigured(
        f"{name} must be a ServerSentEvent, a dict of its fields, a callable or the dotted path of "
        f"one, got {event!r}."
    )


def _is_dotted(event: object) -> bool:
    if not isinstance(event, str):
        return False
    parts = event.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def _imported(path: str) -> EventProvider:
    try:
        provider = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"A heartbeat's event {path!r} cannot be imported: {error}"
        ) from error
    if not callable(provider):
        raise ImproperlyConfigured(
            f"A heartbeat's event {path!r} must be a callable that returns a ServerSentEvent, "
            f"it is {provider!r}."
        )
    return provider  # type: ignore[no-any-return]
