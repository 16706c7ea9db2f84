"""The events of a ``ModelSSEView``, the same for all of them."""

from __future__ import annotations

import copy
import functools
from typing import Any, ClassVar, TypedDict

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model
from rest_framework import serializers

from django_sse.topics.rendering import default_context
from django_sse.wire.serialization import SerializerClass

from .plan import key_name

#: The id of the beginning of a snapshot. A client that disconnects in the middle cannot resume.
UNFINISHED = "snapshot"


class Begin(TypedDict):
    """The data of ``begin``: the name of the field by which clients know a row."""

    key: str


class RowEvents(dict[str | None, Any]):
    """The declaration that a view gets by itself."""


def events_of(
    serializer_class: SerializerClass, model: type[Model] | None = None, lookup: str = "pk"
) -> RowEvents:
    """Return the declaration of the events of a model's rows with this serializer."""
    row: Any = serializer_class
    model = model or getattr(getattr(serializer_class, "Meta", None), "model", None)
    gone: Any = dict if model is None else _key_of(row, model, lookup)
    return RowEvents(begin=Begin, created=row, changed=row, deleted=gone, end=dict)


class KeySerializer(serializers.Serializer[Any]):
    """The data of ``deleted``: the field of a row by which clients know it, and no other."""

    of: ClassVar[tuple[SerializerClass, type[Model], str]]

    def get_fields(self) -> dict[str, Any]:
        """Return that field; nothing where there is none, which a stream refuses when it opens."""
        serializer_class, model, lookup = self.of
        try:
            name = key_name(serializer_class.__qualname__, serializer_class, model, lookup)
        except ImproperlyConfigured:
            return {}
        fields = getattr(serializer_class(context=default_context()), "fields", {})
        # A copy belongs to no serializer yet.
        return {name: copy.deepcopy(fields[name])} if name in fields else {}


@functools.cache
def _key_of(serializer_class: Any, model: type[Model], lookup: str) -> type[Any]:
    # Documents name a schema after its serializer: the same class for all views with the same rows.
    base = serializer_class.__name__.removesuffix("Serializer")
    by = "" if lookup == "pk" else lookup.title().replace("_", "")
    attributes = {
        "of": (serializer_class, model, lookup),
        "__module__": serializer_class.__module__,
        "__doc__": f"The key of a row that is gone: {base}.",
    }
    return type(f"{base}{by}KeySerializer", (KeySerializer,), attributes)
