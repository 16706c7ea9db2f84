"""Checks of a view's attributes and hooks, which run when the class is made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model

from django_sse.conf import FromSettings
from django_sse.connection.stream import defines
from django_sse.exceptions import InvalidEvent, InvalidTopic
from django_sse.streams.following import check_several_topics
from django_sse.streams.groups import check_groups
from django_sse.topics.backlog import OVERFLOWS
from django_sse.topics.declarations import Declaration
from django_sse.topics.publishing import check_topics
from django_sse.topics.rendering import check_renderer
from django_sse.wire.events import milliseconds
from django_sse.wire.heartbeat import Heartbeat
from django_sse.wire.serialization import check_serializer

#: The attributes that are checked. A new one also gets a branch in ``check_attributes()``.
CHECKED = (
    "browsable",
    "depends_on",
    "events",
    "groups",
    "heartbeat",
    "keep",
    "max_connections_per_user",
    "max_duration",
    "outbox_limit",
    "overflow",
    "presence",
    "queue_timeout",
    "recheck_period",
    "renderer_class",
    "retry",
    "rewind",
    "serializer_classes",
    "snapshot_page",
    "topics",
)


#: The methods that a view defines as an ``async def``.
HOOKS = (
    *("stream", "snapshot", "connect", "disconnect"),
    *("get_groups", "get_presence", "get_rewind", "get_topics"),
)

#: Names that a view needs for its own working. A subclass's handler or attribute of such a name
#: would break it.
RESERVED = (
    "abandon",
    "adopt",
    "announce",
    "bytes_taken",
    "clean_up",
    "close_reason",
    "declarations",
    "describe",
    "end",
    "event_loop",
    "followed_topics",
    "has_to_clean_up",
    "live",
    "newest_id",
    "notice_loss",
    "on_round",
    "opened_at",
    "prepare",
    "resumed",
    "revoke",
    "shut_down",
    "stall",
    "stream_id",
    "subscribed",
    "wind_up",
    "wire",
)


def check_hooks(cls: type[Any], base: type[Any]) -> None:
    """Raise ``ImproperlyConfigured`` for a hook that is no ``async def``, and for a reserved name."""
    for name in RESERVED:
        if defines(cls, base, name):
            raise ImproperlyConfigured(
                f"{cls.__qualname__}.{name} takes the place of what {base.__qualname__} needs for "
                "its own working. Give it another name."
            )
    if iscoroutinefunction(cls.serialize):
        raise ImproperlyConfigured(
            f"{cls.__qualname__}.serialize() must be a plain `def` that returns text. Where it "
            "waits for the database, set serialize_in_thread = True."
        )
    for name in HOOKS:
        hook = getattr(cls, name)  # A mixin may define it, too.
        may_generate = name in {"stream", "snapshot"}
        if iscoroutinefunction(hook) or not defines(cls, base, name):
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
        if attribute in HOOKS or attribute in RESERVED:
            raise ImproperlyConfigured(
                f"{name}.as_view() takes attributes, and {attribute} is none: define it in a subclass."
            )
        if hasattr(value, "__get__"):
            continue  # A property has its value on a connection only.
        if attribute == "serializer_classes":
            if not isinstance(value, Mapping):
                raise ImproperlyConfigured(
                    f"{where} must be a dict of types and serializer classes, got {value!r}. "
                    "Write {Order: OrderSerializer}."
                )
            for given, serializer_class in value.items():
                if not isinstance(given, type):
                    raise ImproperlyConfigured(
                        f"{where} must have types as its keys, got {given!r}. Import the class."
                    )
                check_serializer(where, serializer_class)
        elif attribute == "renderer_class":
            if not isinstance(value, FromSettings):
                check_renderer(where, value)
        elif attribute == "depends_on":
            if not isinstance(value, Mapping):
                raise ImproperlyConfigured(
                    f"{where} must be a dict of models and paths, got {value!r}. Write "
                    '{Customer: "order_set"}.'
                )
            for changed in value:
                if not (isinstance(changed, type) and issubclass(changed, Model)):
                    raise ImproperlyConfigured(
                        f"{where} must have models as its keys, got {changed!r}. Import the class."
                    )
        elif attribute == "snapshot_page" and not (type(value) is int and value > 0):
            raise ImproperlyConfigured(
                f"{where} must be a whole number of rows above 0, got {value!r}."
            )
        elif attribute == "browsable" and value not in (None, False, True):
            raise ImproperlyConfigured(f"{where} must be True, False or None, got {value!r}.")
        elif attribute == "events" and value is not None:
            Declaration(name, value)
        elif attribute == "groups" and value:
            check_groups(where, value)
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
        elif attribute == "topics" and value:
            check_several_topics(where, value)
            try:
                check_topics(value)
            except InvalidTopic as error:
                raise ImproperlyConfigured(f"{where}: {error}") from error
        elif attribute == "overflow" and value not in OVERFLOWS:
            raise ImproperlyConfigured(
                f"{where} must be one of {', '.join(map(repr, OVERFLOWS))}, got {value!r}."
            )
        elif attribute == "presence" and value not in (False, True):
            raise ImproperlyConfigured(
                f"{where} must be True or False, got {value!r}. Return some of the topics in "
                "`async def get_presence(self)`."
            )
        elif attribute == "rewind" and not (type(value) is int and value >= 0):
            raise ImproperlyConfigured(f"{where} must be a whole number from 0 on, got {value!r}.")
        elif attribute in ("max_duration", "recheck_period") and not _is_duration(value):
            raise ImproperlyConfigured(
                f"{where} must be a number of seconds above 0, a timedelta or None, got {value!r}."
            )
        elif attribute == "keep" and (value is None or not _is_duration(value)):
            raise ImproperlyConfigured(
                f"{where} must be a number of seconds from 0 on, or a timedelta, got {value!r}."
            )
        elif attribute == "queue_timeout" and not (value and _is_duration(value)):
            raise ImproperlyConfigured(
                f"{where} must be a number of seconds above 0, or a timedelta, got {value!r}."
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
    # 0 turns it off, as None does.
    return type(value) in (int, float) and 0 <= value < float("inf")


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and value > 0)
