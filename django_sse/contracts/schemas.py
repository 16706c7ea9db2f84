"""JSON Schemas of what serializers make (JSON Schema 2020-12)."""

from __future__ import annotations

import datetime
import decimal
import typing
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from rest_framework import serializers
from rest_framework.relations import ManyRelatedField
from rest_framework.settings import api_settings

from django_sse.topics.declarations import is_list, is_union
from django_sse.wire.serialization import SerializerClass, find_serializer

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}

# A field that is a subclass of several is the first one that matches.
_FIELDS: tuple[tuple[type, Schema], ...] = (
    (serializers.BooleanField, {"type": "boolean"}),
    (serializers.IntegerField, {"type": "integer"}),
    (serializers.FloatField, {"type": "number"}),
    (serializers.EmailField, {"type": "string", "format": "email"}),
    (serializers.URLField, {"type": "string", "format": "uri"}),
    (serializers.UUIDField, {"type": "string", "format": "uuid"}),
    (serializers.DateTimeField, {"type": "string", "format": "date-time"}),
    (serializers.DateField, {"type": "string", "format": "date"}),
    (serializers.TimeField, {"type": "string", "format": "time"}),
    (serializers.DurationField, _STRING),
    (serializers.FileField, {"type": ["string", "null"], "format": "uri"}),
    (serializers.HyperlinkedRelatedField, {"type": "string", "format": "uri"}),
    (serializers.HyperlinkedIdentityField, {"type": "string", "format": "uri"}),
    (serializers.StringRelatedField, _STRING),
    (serializers.CharField, _STRING),
    (serializers.IPAddressField, _STRING),
)

_TYPES: Mapping[Any, Schema] = {
    str: _STRING,
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    # DRF's encoder writes a Decimal without a serializer as a number.
    decimal.Decimal: {"type": "number"},
    datetime.datetime: {"type": "string", "format": "date-time"},
    datetime.date: {"type": "string", "format": "date"},
    datetime.time: {"type": "string", "format": "time"},
    datetime.timedelta: _STRING,
    uuid.UUID: {"type": "string", "format": "uuid"},
    bytes: _STRING,
    dict: {"type": "object"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    None: {"type": "null"},
    type(None): {"type": "null"},
}


class Schemas:
    """Makes schemas. Schemas of serializers are kept in ``named``, by name, and referred to."""

    def __init__(self, place: str = "#/schemas/") -> None:
        """Begin without a schema; ``place`` is where those in ``named`` stand in the document."""
        self._place = place
        self.named: dict[str, Schema] = {}
        self._names: dict[SerializerClass, str] = {}

    def of(self, declared: Any, overrides: Mapping[type, SerializerClass]) -> Schema:
        """Return the schema of what a declared event's data is, as text, in JSON."""
        if is_list(declared):
            [item] = typing.get_args(declared)
            return {"type": "array", "items": self.of(item, overrides)}
        if is_union(declared):
            return {"anyOf": [self.of(it, overrides) for it in typing.get_args(declared)]}
        if typing.is_typeddict(declared):
            hints = typing.get_type_hints(declared)
            # Python overlooks NotRequired[…] where annotations are strings.
            marked = typing.get_type_hints(declared, include_extras=True)
            needed: Any = declared.__required_keys__
            optional = {it for it in marked if typing.get_origin(marked[it]) is typing.NotRequired}
            return {
                "type": "object",
                "properties": {name: self.of_hint(it, overrides) for name, it in hints.items()},
                "required": [name for name in hints if name in needed and name not in optional],
            }
        if declared in _TYPES:
            return dict(_TYPES[declared])
        if issubclass(declared, serializers.BaseSerializer):
            return self.of_serializer(declared)
        found = find_serializer(declared, overrides)
        if found is not None:
            return self.of_serializer(found)
        near = next((it for it in declared.__mro__ if it in _TYPES), None)
        return {} if near is None else dict(_TYPES[near])

    def of_hint(self, hint: Any, overrides: Mapping[type, SerializerClass]) -> Schema:
        """Return the schema of a type annotation; of one that says nothing, that of anything."""
        known = isinstance(hint, type) or hint is None or is_list(hint) or is_union(hint)
        origin: Any = typing.get_origin(hint)
        if origin is dict:
            return {"type": "object"}
        if origin is typing.Literal:
            return {"enum": list(typing.get_args(hint))}
        return self.of(hint, overrides) if known or typing.is_typeddict(hint) else {}

    def of_serializer(self, serializer_class: SerializerClass) -> Schema:
        """Return a reference to the schema of what a serializer makes of one object."""
        name = self._names.get(serializer_class)
        if name is None:
            name = self._names[serializer_class] = self._free_name(serializer_class)
            self.named[name] = {}  # A serializer may have itself inside.
            self.named[name] = self._object(serializer_class())
        return {"$ref": f"{self._place}{name}"}

    def _free_name(self, serializer_class: SerializerClass) -> str:
        name = serializer_class.__name__.removesuffix("Serializer") or serializer_class.__name__
        number, free = 2, name
        while free in self.named:
            free, number = f"{name}{number}", number + 1
        return free

    def _object(self, serializer: Any) -> Schema:
        if not isinstance(serializer, serializers.Serializer):
            return {}  # Its to_representation() may return anything.
        shown = {name: it for name, it in serializer.fields.items() if not it.write_only}
        return {
            "type": "object",
            "properties": {name: self._field(it) for name, it in shown.items()},
            "required": list(shown),
        }

    def _field(self, field: Any) -> Schema:
        schema = self._field_itself(field)
        if field.help_text:
            schema = {**schema, "description": str(field.help_text)}
        if not field.allow_null or not schema or "null" in str(schema.get("type")):
            return schema
        if isinstance(schema.get("type"), str) and "enum" not in schema:
            return {**schema, "type": [schema["type"], "null"]}
        return {"anyOf": [schema, {"type": "null"}]}

    def _field_itself(self, field: Any) -> Schema:
        if isinstance(field, serializers.ListSerializer):
            return {"type": "array", "items": self._field(field.child)}
        if isinstance(field, serializers.BaseSerializer):
            return self.of_serializer(type(field))
        if isinstance(field, ManyRelatedField):
            return {"type": "array", "items": self._field(field.child_relation)}
        if isinstance(field, serializers.MultipleChoiceField):
            return {"type": "array", "items": {"enum": list(field.choices)}}
        if isinstance(field, serializers.ChoiceField):
            return {"enum": list(field.choices)}
        if isinstance(field, serializers.DecimalField):
            text = getattr(field, "coerce_to_string", api_settings.COERCE_DECIMAL_TO_STRING)
            return {"type": "string", "format": "decimal"} if text else {"type": "number"}
        if isinstance(field, serializers.ListField):
            return {"type": "array", "items": self._field(field.child) if field.child else {}}
        if isinstance(field, serializers.DictField):
            return {"type": "object", "additionalProperties": self._field(field.child)}
        if isinstance(field, serializers.PrimaryKeyRelatedField):
            return self._of_key(field)
        if isinstance(field, serializers.SerializerMethodField):
            method: Callable[..., Any] = getattr(field.parent, str(field.method_name))
            return self.of_hint(typing.get_type_hints(method).get("return", Any), {})
        return next((dict(it) for cls, it in _FIELDS if isinstance(field, cls)), {})

    def _of_key(self, field: Any) -> Schema:
        if field.pk_field is not None:
            return self._field(field.pk_field)
        model = getattr(field.queryset, "model", None)
        if model is None:
            # A read-only one has no queryset; the model of its serializer knows.
            own = getattr(getattr(field.root, "Meta", None), "model", None)
            relation = own._meta.get_field(field.source) if own and field.source else None
            model = getattr(relation, "related_model", None)
        if model is None:
            return {}
        key, _ = serializers.ModelSerializer().build_standard_field("pk", model._meta.pk)
        return next((dict(it) for cls, it in _FIELDS if issubclass(key, cls)), {})
