"""The body of a POST: its serializer, and the form for it on the stream's page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rest_framework import serializers
from rest_framework.renderers import JSONRenderer

#: The kind of a form's field, by the class of the serializer's field.
_WIDGETS: tuple[tuple[type[serializers.Field[Any, Any, Any, Any]], str], ...] = (
    (serializers.BooleanField, "checkbox"),
    (serializers.MultipleChoiceField, "choices"),
    (serializers.ChoiceField, "choice"),
    (serializers.IntegerField, "number"),
    (serializers.FloatField, "number"),
    (serializers.DecimalField, "decimal"),
    (serializers.EmailField, "email"),
    (serializers.URLField, "url"),
    (serializers.DateField, "date"),
    (serializers.CharField, "text"),
    (serializers.BaseSerializer, "json"),
    (serializers.ListField, "json"),
    (serializers.DictField, "json"),
    (serializers.JSONField, "json"),
)


def form_of_body(view: Any) -> dict[str, Any]:
    """Return the form of the body that a POST takes: the fields of its serializer, and media types."""
    media_types = [it.media_type for it in view.parser_classes if it.media_type != "*/*"]
    serializer = serializer_of_body(view)
    fields = list(_fields(serializer)) if isinstance(serializer, serializers.Serializer) else []
    example = {it["name"]: it["example"] for it in fields}
    example_text = JSONRenderer().render(example, "application/json; indent=2").decode()
    return {"fields": fields, "media_types": media_types, "example": example_text}


def serializer_of_body(view: Any) -> Any:
    """Return the serializer of the body, as DRF's generic views name it, or ``None``."""
    if callable(get := getattr(view, "get_serializer", None)):
        return get()
    cls = getattr(view, "serializer_class", None)
    return None if cls is None else cls(context=view.get_serializer_context())


def _fields(serializer: serializers.Serializer[Any]) -> Iterator[dict[str, Any]]:
    initial = serializer.get_initial()
    for name, field in serializer.fields.items():
        if field.read_only or isinstance(field, serializers.HiddenField):
            continue
        widget = next((it for cls, it in _WIDGETS if isinstance(field, cls)), "text")
        if widget == "text" and field.style.get("base_template") == "textarea.html":
            widget = "textarea"
        if field.style.get("input_type") == "password":
            widget = "password"
        value = initial.get(name)
        choices = getattr(field, "choices", None) if widget.startswith("choice") else None
        yield {
            "name": name,
            "label": str(field.label or name),
            "help_text": str(field.help_text or ""),
            "required": field.required,
            "widget": widget,
            "value": "" if value is None else value,
            "choices": [] if choices is None else [(str(it), text) for it, text in choices.items()],
            "max_length": getattr(field, "max_length", None),
            "example": value,
        }
