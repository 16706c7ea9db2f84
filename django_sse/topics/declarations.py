"""The declaration of a stream's or a topic's events: their names, and the types of their data."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakSet

from django.conf import settings
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.db.models import QuerySet
from rest_framework.serializers import BaseSerializer

from django_sse.conf import conf
from django_sse.exceptions import UndeclaredEvent
from django_sse.wire.serialization import (
    SerializerClass,
    find_serializer,
    is_scalar,
    look_through,
)

#: What an event may be declared as: a type, ``list[…]`` or a union of some, a serializer class, or
#: ``None`` for an event without data.
Declared = Any
Events = Mapping[str | None, Declared]

#: Events that streams send by themselves.
RESERVED = frozenset({"reset", "dropped", "revoked"})

#: The views that declare events, for the system check.
declaring: WeakSet[type] = WeakSet()
#: The declarations of topics, by name.
declared_topics: dict[str, Declaration] = {}


class Topic(str):
    """The name of a topic, with a declaration of the events that are published to it.

    ``ORDERS = Topic("orders", events={"created": Order})`` declares them once. It is a ``str``, and
    stands wherever a topic's name does. ``publish()`` to a topic of that name, and streams that
    follow it, are held to the declaration. Raises ``ImproperlyConfigured`` for a wrong declaration,
    and where the name has a different one already.
    """

    __slots__ = ("events",)

    events: Events

    def __new__(cls, name: str, *, events: Events) -> Topic:
        """Declare the events of the topic ``name``."""
        topic = super().__new__(cls, name)
        declaration = Declaration(f"Topic({name!r})", events)
        known = declared_topics.setdefault(name, declaration)
        if known.events != declaration.events:
            raise ImproperlyConfigured(
                f"Topic({name!r}) was declared already, with other events: {known.in_words()}. "
                "Declare a topic once, and import it."
            )
        topic.events = known.events
        return topic

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        """Let a topic be pickled."""
        return (str(self),), {"events": self.events}


class Declaration:
    """The events of a view or of a topic; ``owner`` is its name, for errors."""

    def __init__(self, owner: str, events: Any) -> None:
        """Check the declaration; raise ``ImproperlyConfigured`` for a wrong one."""
        if not isinstance(events, Mapping):
            raise ImproperlyConfigured(
                f"{owner}.events must be a dict of event names and types, got {events!r}. "
                'Write {"created": Order, "end": None}.'
            )
        self.owner = owner
        self.events: dict[str | None, Declared] = {}
        for name, declared in events.items():
            if not (name is None or (isinstance(name, str) and name)):
                raise ImproperlyConfigured(
                    f"{owner}.events must have names of events as its keys, or None for events "
                    f"without a name, got {name!r}."
                )
            if name in RESERVED:
                raise ImproperlyConfigured(
                    f"{owner}.events must not have {name!r}: streams send it by themselves, and it "
                    "is declared already."
                )
            for part in parts(declared):
                if not (part is None or isinstance(part, type) or typing.is_typeddict(part)):
                    raise ImproperlyConfigured(
                        f"{owner}.events[{name!r}] must be a type, a serializer class, list[…] of "
                        f"one, a union of them, or None, got {part!r}."
                    )
            self.events[_named(name)] = declared

    def in_words(self) -> str:
        """Return the names and types of the events, as errors show them."""
        return (
            ", ".join(f"{name!r} ({type_name(it)})" for name, it in self.events.items()) or "none"
        )

    def without_serializer(self, overrides: Mapping[type, SerializerClass]) -> list[str]:
        """Return the events of a type that could not be sent, as it has no serializer, in words."""
        return [
            f"{name!r} ({type_name(part)})"
            for name, declared in self.events.items()
            for part in parts(declared)
            if part is not None and not _can_be_sent(part, overrides)
        ]


def check_event(
    declarations: Iterable[Declaration],
    event: str | None,
    data: Any,
    *,
    view: type | None = None,
    topic: str | None = None,
) -> None:
    """Raise ``UndeclaredEvent`` unless one of the declarations has an event with such data."""
    if event in RESERVED or (data is None and event is None):
        return  # Also a comment, an id alone, or a reconnection time.
    name, kind = _named(event), look_through(data)[1]
    named = [it for it in declarations if name in it.events]
    if any(_fits(it.events[name], data) for it in named):
        return
    owner = view.__qualname__ if view is not None else f"Topic({topic!r})"
    if named:
        wanted = " or ".join(type_name(it.events[name]) for it in named)
        text = (
            f"{owner} declares the event {name!r} with {wanted}, got {type_name(kind)}: {data!r:.80}. "
            "Send what is declared, or correct the declaration."
        )
    else:
        known = "; ".join(it.in_words() for it in declarations)
        text = (
            f"{owner} declares no event {name!r} (sent with {type_name(kind)}). It declares "
            f"{known}. Add it to {owner}.events, or correct its name."
        )
    raise UndeclaredEvent(text, event=name, type=kind, view=view, topic=topic)


def events_are_checked() -> bool:
    """Return whether events are held to their declarations: by default with ``DEBUG``, and in tests."""
    chosen = conf.check_events
    # Django's test runners, and pytest-django, put an outbox in the place of the mail's back end.
    return bool(settings.DEBUG or hasattr(mail, "outbox")) if chosen is None else chosen


def parts(declared: Declared) -> list[Any]:
    """Return the types of which a declaration is made: of a union and of a list."""
    if is_union(declared) or is_list(declared):
        return [part for it in typing.get_args(declared) for part in parts(it)]
    return [None] if declared is types.NoneType else [declared]


def alternatives(declared: Declared) -> list[Declared]:
    """Return the types of which an event has one; ``None`` stands for no data."""
    if is_union(declared):
        return [part for it in typing.get_args(declared) for part in alternatives(it)]
    return [None] if declared is types.NoneType else [declared]


def is_union(declared: Declared) -> bool:
    """Return whether a declaration is a union of types."""
    origin: Any = typing.get_origin(declared)
    return origin is types.UnionType or origin is typing.Union


def is_list(declared: Declared) -> bool:
    """Return whether a declaration is ``list[…]`` of a type."""
    origin: Any = typing.get_origin(declared)
    return origin is list


def type_name(declared: Declared) -> str:
    """Return a declared type in words."""
    if declared is None or declared is types.NoneType:
        return "no data"
    return (
        declared.__qualname__
        if isinstance(declared, type) and not typing.get_origin(declared)
        else str(declared)
    )


def _named(event: str | None) -> str | None:
    # On the wire, both are the same.
    return None if event == "message" else event


def _fits(declared: Declared, data: Any) -> bool:
    if is_union(declared):
        return any(_fits(it, data) for it in typing.get_args(declared))
    if declared is None or declared is types.NoneType:
        # A browser dispatches an event only with data, so an empty text stands for none.
        return data is None or data == ""
    data, kind = look_through(data)
    if is_list(declared):
        [item] = typing.get_args(declared)
        if isinstance(data, QuerySet):
            return item is Any or _represents(item, data.model)
        return isinstance(data, list | tuple) and all(_fits(item, it) for it in data)
    if typing.is_typeddict(declared):
        return isinstance(data, Mapping)
    return _represents(declared, kind)


def _represents(declared: Any, kind: type) -> bool:
    if isinstance(declared, type) and issubclass(declared, BaseSerializer):
        model = getattr(getattr(declared, "Meta", None), "model", None)
        # A serializer takes objects of its model, and what it has made of one.
        return issubclass(kind, Mapping) or (
            issubclass(kind, model) if model is not None else not issubclass(kind, str)
        )
    return isinstance(declared, type) and (
        issubclass(kind, declared) or (declared is float and issubclass(kind, int))
    )


def _can_be_sent(part: Any, overrides: Mapping[type, SerializerClass]) -> bool:
    if typing.is_typeddict(part) or issubclass(part, BaseSerializer | Mapping | list | tuple):
        return True
    return is_scalar(part) or find_serializer(part, overrides) is not None
