"""From objects to text: find the serializer of a type, bind it once, and render its data."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db.models import QuerySet
from django.utils.functional import LazyObject, Promise
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.serializers import BaseSerializer

from django_sse.exceptions import SerializerNotFound

from .representation import representation

SerializerClass = type[BaseSerializer[Any]]
S = TypeVar("S", bound=SerializerClass)

#: How many proxies around each other ``look_through()`` follows.
MAX_PROXIES = 8

#: The project-wide registry, filled by ``@serializes``.
registry: dict[type, SerializerClass] = {}
#: For each type that was registered again, without ``replace``: the serializer class before, and
#: the one after. For the system check.
replaced: dict[type, tuple[SerializerClass, SerializerClass]] = {}

# The types that DRF's JSON encoder writes by itself. Its last resorts (objects that can be
# iterated, or have a `tolist()`) are missing on purpose: they would guess which data of an object
# clients may see.
_SCALARS = (
    str,
    int,
    float,
    bool,
    type(None),
    bytes,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
    Promise,
)
_PLAIN = frozenset(_SCALARS)
_ARRAYS = (list, tuple, set, frozenset, QuerySet)


def serializes(*types: type, replace: bool = False) -> Callable[[S], S]:
    """Register the decorated DRF serializer class for objects of ``types`` and their subclasses.

    Its module must be imported at start-up; Django imports ``serializers.py`` of each installed
    app. The last registration of a type wins. A system check warns of a type that has two, unless
    the last one says ``replace=True``. Raises ``ImproperlyConfigured`` unless types and a
    serializer class are given.
    """
    for given in types:
        if not isinstance(given, type):
            raise ImproperlyConfigured(f"@serializes() takes classes, got {given!r}.")
    if not types:
        raise ImproperlyConfigured("@serializes() needs a type, as in @serializes(Customer).")

    def register(serializer_class: S) -> S:
        check_serializer("@serializes()", serializer_class)
        for given in types:
            before = registry.get(given)
            if replace or before is None:
                replaced.pop(given, None)
            elif full_name(before) != full_name(serializer_class):
                # A class of the same name is that of a module that was loaded again.
                replaced[given] = before, serializer_class
            registry[given] = serializer_class
        return serializer_class

    return register


def full_name(kind: type) -> str:
    """Return the name of a class with that of its module."""
    return f"{kind.__module__}.{kind.__qualname__}"


def check_serializer(where: str, serializer_class: Any) -> None:
    """Raise ``ImproperlyConfigured`` unless it is a DRF serializer class."""
    if not (isinstance(serializer_class, type) and issubclass(serializer_class, BaseSerializer)):
        raise ImproperlyConfigured(
            f"{where} must name subclasses of rest_framework.serializers.BaseSerializer, "
            f"got {serializer_class!r}."
        )


class ObjectWriter:
    """Turns objects into text; one for each connection, and one for each thread that publishes.

    A serializer is bound with the owner's context when its type first occurs, and is then kept.
    That costs a tenth of making a serializer for each object, and a serializer whose fields depend
    on the request is still right.
    """

    __slots__ = ("_bound", "_context", "_encode", "_overrides", "_owner", "_renderer")

    def __init__(
        self,
        *,
        overrides: Mapping[type, SerializerClass],
        renderer: BaseRenderer,
        context: Callable[[], dict[str, Any]],
        owner: type | None,
    ) -> None:
        """Take what a view or ``publish()`` has: its own serializers, renderer and context.

        ``owner`` is the view's class, for errors; ``None`` for published events.
        """
        self._overrides = overrides
        self._renderer = renderer
        self._encode = bound_encoder(renderer)
        self._context = context
        self._owner = owner
        # For each type, how its bound serializer represents an object.
        self._bound: dict[type, Callable[[Any], Any]] = {}

    def write(self, obj: Any) -> str:
        """Return ``obj`` as text: a ``str`` as it is, anything else through the renderer.

        Raises ``SerializerNotFound`` for an object, at any depth of lists and dicts, that has no
        serializer and is nothing that JSON knows.
        """
        if type(obj) is str:
            return obj
        # A type that has a bound serializer is not a proxy's.
        represent = self._bound.get(type(obj))
        if represent is None:
            obj, kind = look_through(obj)
            if isinstance(obj, str):
                return obj
            represent = self._representation(kind)
        data = self.plain(obj) if represent is None else represent(obj)
        if self._encode is not None:
            return self._encode(data)
        return self._render(data)

    def plain(self, obj: Any) -> Any:
        """Return ``obj`` as what a renderer takes, with every registered object serialized."""
        kind = type(obj)
        if kind in _PLAIN and kind not in registry and kind not in self._overrides:
            return obj
        obj, kind = look_through(obj)
        represent = self._representation(kind)
        if represent is not None:
            return represent(obj)
        if isinstance(obj, Mapping):
            return {key: self.plain(value) for key, value in obj.items()}
        if isinstance(obj, _ARRAYS):
            return [self.plain(value) for value in obj]
        if isinstance(obj, _SCALARS):
            return obj
        raise self._not_found(kind)

    def _representation(self, kind: type) -> Callable[[Any], Any] | None:
        bound = self._bound.get(kind)
        if bound is None:
            # Do not remember that a type has none: a serializer may be registered later.
            found = find_serializer(kind, self._overrides)
            if found is not None:
                bound = self._bound[kind] = representation(found(context=self._context()))
        return bound

    def _render(self, data: Any) -> str:
        renderer = self._renderer
        text = renderer.render(data, renderer.media_type, self._context())
        return text if isinstance(text, str) else bytes(text).decode()

    def _not_found(self, kind: type) -> SerializerNotFound:
        if issubclass(kind, Coroutine):
            raise TypeError("A coroutine cannot be sent: `await` it, and send what it returns.")
        name = full_name(kind)
        if self._owner is None:
            who, where = "publish()", "pass serializer=…"
        else:
            who = self._owner.__qualname__
            where = f"name it in {who}.serializer_classes"
        hint = ""
        if not apps.is_installed("django_sse"):
            hint = ' (They are imported where "django_sse" is in INSTALLED_APPS, and it is not.)'
        return SerializerNotFound(
            f"{who} has no serializer for {name}. Register one with "
            f"@serializes({kind.__qualname__}) in an app's serializers.py, or {where}.{hint}",
            type=kind,
            view=self._owner,
        )


def is_proxy(obj: Any) -> bool:
    """Return whether an object stands for another one; evaluates nothing of Django's."""
    kind = type(obj)
    return issubclass(kind, LazyObject) or obj.__class__ is not kind


def look_through(obj: Any) -> tuple[Any, type]:
    """Return the object that a proxy stands for, and its class; any other object as it is.

    It knows Django's ``LazyObject`` and ``SimpleLazyObject``, which it evaluates, and proxies whose
    ``__wrapped__`` is their object, as wrapt's. For other proxies that claim the class of their
    object, as ``weakref.proxy`` does, it returns the proxy and that class.
    """
    for _ in range(MAX_PROXIES):
        kind = type(obj)
        if issubclass(kind, LazyObject):
            obj.__class__  # noqa: B018 - evaluates it
            obj = obj._wrapped
            continue
        claimed = obj.__class__
        if claimed is kind or not isinstance(claimed, type):
            return obj, kind
        wrapped = getattr(obj, "__wrapped__", obj)
        if wrapped is obj or wrapped.__class__ is not claimed:
            return obj, claimed
        obj = wrapped
    return obj, obj.__class__


def is_scalar(kind: type) -> bool:
    """Return whether DRF's encoder writes objects of a type by itself, without a serializer."""
    return issubclass(kind, _SCALARS)


def evaluated(rows: QuerySet[Any]) -> list[Any]:
    """Return the objects of a ``QuerySet``. This queries the database; run it in a thread."""
    return list(rows)


def find_serializer(
    kind: type, overrides: Mapping[type, SerializerClass]
) -> SerializerClass | None:
    """Return the serializer class for ``kind``: the nearest class of its MRO that has one.

    For the same class, ``overrides`` (a view's ``serializer_classes``) take precedence over the
    registry.
    """
    for base in kind.__mro__:
        found = overrides.get(base) or registry.get(base)
        if found is not None:
            return found
    return None


def bound_encoder(renderer: BaseRenderer) -> Callable[[Any], str] | None:
    """Return a function that writes the same text as DRF's ``JSONRenderer``, with one encoder for
    all calls.

    DRF makes an encoder for each call. ``None`` for a renderer that overrides ``render()`` or
    ``get_indent()``.
    """
    if (
        not isinstance(renderer, JSONRenderer)
        or type(renderer).render is not JSONRenderer.render
        or type(renderer).get_indent is not JSONRenderer.get_indent
        or renderer.get_indent(renderer.media_type, {})
    ):
        return None
    separators = (",", ":") if renderer.compact else (", ", ": ")
    encode = renderer.encoder_class(
        ensure_ascii=renderer.ensure_ascii,
        allow_nan=not renderer.strict,
        separators=separators,
    ).encode

    def write(data: Any) -> str:
        # DRF escapes these two characters, which JSON allows in strings and JavaScript did not
        # before 2019.
        return encode(data).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")

    return write
