"""What the attributes and hooks of a view may be, found out as its class is made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .backlog import OVERFLOWS
from .events import milliseconds
from .exceptions import InvalidEvent
from .heartbeat import Heartbeat
from .serialization import check_serializer


class FromSettings:
    """The value of an attribute that stands for the setting."""

    def __repr__(self) -> str:
        return "the value in DJANGO_SSE"


#: The value of an attribute for which the setting stands.
FROM_SETTINGS: Any = FromSettings()

#: The attributes that are checked.
CHECKED = (
    "heartbeat",
    "max_connections_per_user",
    "max_duration",
    "outbox_limit",
    "overflow",
    "recheck_period",
    "retry",
    "serializer_classes",
)


def check_hooks(cls: type[Any]) -> None:
    """Raise ``ImproperlyConfigured`` for a hook that is no ``async def``."""
    for name in ("stream", "snapshot", "connect", "disconnect", "get_groups", "get_topics"):
        hook = getattr(cls, name)  # Also what a mixin brings.
        may_generate = name in {"stream", "snapshot"}
        if inspect.iscoroutinefunction(hook):
            continue
        if may_generate and inspect.isasyncgenfunction(hook):
            continue
        also = " (a coroutine, or an async generator)" if may_generate else ""
        raise ImproperlyConfigured(
            f"{cls.__qualname__}.{name}() must be an `async def`{also}. Call what is synchronous "
            "in it with `await sync_to_async(…)()`."
        )


def check_attributes(name: str, attributes: Mapping[str, Any]) -> None:
    """Raise ``ImproperlyConfigured`` for a wrong value of a view's attributes."""
    for attribute, value in attributes.items():
        where = f"{name}.{attribute}"
        if isinstance(value, property):
            continue  # Known on a connection only.
        if attribute == "serializer_classes":
            for serializer_class in value.values():
                check_serializer(where, serializer_class)
        elif attribute == "heartbeat":
            if not isinstance(value, Heartbeat | FromSettings | None):
                raise ImproperlyConfigured(
                    f"{where} must be a Heartbeat or None, got {value!r}. Write "
                    "Heartbeat(period=…), in seconds."
                )
        elif attribute == "retry" and value is not None:
            try:
                milliseconds(value)
            except InvalidEvent as error:
                raise ImproperlyConfigured(f"{where}: {error}") from error
        elif attribute == "overflow" and value not in OVERFLOWS:
            raise ImproperlyConfigured(
                f"{where} must be one of {', '.join(map(repr, OVERFLOWS))}, got {value!r}."
            )
        elif attribute in ("max_duration", "recheck_period") and not _is_duration(value):
            raise ImproperlyConfigured(
                f"{where} must be a number of seconds above 0, a timedelta or None, got {value!r}."
            )
        elif attribute in ("outbox_limit", "max_connections_per_user") and not _is_count(value):
            raise ImproperlyConfigured(
                f"{where} must be a whole number above 0 or None, got {value!r}."
            )


def _is_duration(value: Any) -> bool:
    if value is None or isinstance(value, FromSettings):
        return True
    if isinstance(value, timedelta):
        value = value.total_seconds()
    # Also 0, which is off as well.
    return type(value) in (int, float) and 0 <= value < float("inf")


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and value > 0)


def seconds(duration: float | timedelta | None) -> float | None:
    """Return a duration in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration
