"""Checks of a view's attributes and hooks, which run when the class is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
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

#: Takes the name of a view's class, an attribute and its value; raises ``ImproperlyConfigured``.
Check = Callable[[str, str, Any], None]

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
    """Raise ``ImproperlyConfigured`` for a wrong value of a view's attributes.

    ``name`` is that of the view's class.
    """
    for attribute, value in attributes.items():
        if attribute in HOOKS or attribute in RESERVED:
            raise ImproperlyConfigured(
                f"{name}.as_view() takes attributes, and {attribute} is none: define it in a subclass."
            )
        check = CHECKED.get(attribute)
        # A property has its value on a connection only.
        if check is not None and not hasattr(value, "__get__"):
            check(name, attribute, value)


def _must_be(what: str, is_right: Callable[[Any], bool], hint: str = "") -> Check:
    """Return a check whose error says what a value must be, and gives a hint."""

    def check(name: str, attribute: str, value: Any) -> None:
        if not is_right(value):
            text = f"{name}.{attribute} must be {what}, got {value!r}."
            raise ImproperlyConfigured(f"{text} {hint}" if hint else text)

    return check


def _check_depends_on(name: str, attribute: str, value: Any) -> None:
    where = f"{name}.{attribute}"
    if not isinstance(value, Mapping):
        raise ImproperlyConfigured(
            f'{where} must be a dict of models and paths, got {value!r}. Write {{Customer: "order_set"}}.'
        )
    for changed in value:
        if not (isinstance(changed, type) and issubclass(changed, Model)):
            raise ImproperlyConfigured(
                f"{where} must have models as its keys, got {changed!r}. Import the class."
            )


def _check_events(name: str, attribute: str, value: Any) -> None:
    if value is not None:
        Declaration(name, value)


def _check_groups(name: str, attribute: str, value: Any) -> None:
    if value:
        check_groups(f"{name}.{attribute}", value)


def _check_renderer_class(name: str, attribute: str, value: Any) -> None:
    if not isinstance(value, FromSettings):
        check_renderer(f"{name}.{attribute}", value)


def _check_retry(name: str, attribute: str, value: Any) -> None:
    try:
        if value is not None:
            milliseconds(value)
    except InvalidEvent as error:
        raise ImproperlyConfigured(f"{name}.{attribute}: {error}") from error


def _check_serializer_classes(name: str, attribute: str, value: Any) -> None:
    where = f"{name}.{attribute}"
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


def _check_topics(name: str, attribute: str, value: Any) -> None:
    where = f"{name}.{attribute}"
    if value:
        check_several_topics(where, value)
        try:
            check_topics(value)
        except InvalidTopic as error:
            raise ImproperlyConfigured(f"{where}: {error}") from error


def _is_duration(value: Any) -> bool:
    if value is None or isinstance(value, FromSettings):
        return True
    if isinstance(value, timedelta):
        value = value.total_seconds()
    # 0 turns it off, as None does.
    return type(value) in (int, float) and 0 <= value < float("inf")


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and value > 0)


_COUNT = _must_be("a whole number above 0 or None", _is_count)
_DURATION = _must_be("a number of seconds above 0, a timedelta or None", _is_duration)

#: The attributes that are checked, and the check of each.
CHECKED: Mapping[str, Check] = {
    "browsable": _must_be("True, False or None", lambda it: it in (None, False, True)),
    "depends_on": _check_depends_on,
    "events": _check_events,
    "groups": _check_groups,
    "heartbeat": _must_be(
        "a Heartbeat or None",
        lambda it: isinstance(it, Heartbeat | FromSettings | None),
        "Write Heartbeat(period=…), in seconds.",
    ),
    "keep": _must_be(
        "a number of seconds from 0 on, or a timedelta",
        lambda it: it is not None and _is_duration(it),
    ),
    "max_connections_per_user": _COUNT,
    "max_duration": _DURATION,
    "outbox_limit": _COUNT,
    "overflow": _must_be(f"one of {', '.join(map(repr, OVERFLOWS))}", lambda it: it in OVERFLOWS),
    "presence": _must_be(
        "True or False",
        lambda it: it in (False, True),
        "Return some of the topics in `async def get_presence(self)`.",
    ),
    "queue_timeout": _must_be(
        "a number of seconds above 0, or a timedelta",
        lambda it: bool(it) and _is_duration(it),
    ),
    "recheck_period": _DURATION,
    "renderer_class": _check_renderer_class,
    "retry": _check_retry,
    "rewind": _must_be("a whole number from 0 on", lambda it: type(it) is int and it >= 0),
    "serializer_classes": _check_serializer_classes,
    "snapshot_page": _must_be(
        "a whole number of rows above 0", lambda it: type(it) is int and it > 0
    ),
    "topics": _check_topics,
}
