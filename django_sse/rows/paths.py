"""``depends_on``: from the object of another model to the rows that show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db.models import Model

#: ``{Customer: "order_set"}``: models, and one path or several from each to the rows of the view.
DependsOn = Mapping[type[Model], str | Iterable[str]]


class Path(NamedTuple):
    """A way from a changed object to rows.

    ``lookup`` is the filter of the rows. It takes primary keys of the changed model or, if the path
    begins at a foreign key of it, values of that key, whose attribute is ``via``.
    """

    changed: type[Model]
    via: str | None
    lookup: str


def paths_of(owner: str, row_model: type[Model], depends_on: DependsOn) -> list[Path]:
    """Return the paths of a view; raise ``ImproperlyConfigured`` for one that leads elsewhere."""
    return [
        _path(owner, row_model, changed, text)
        for changed, given in depends_on.items()
        for text in ([given] if isinstance(given, str) else given)
    ]


def _path(owner: str, row_model: type[Model], changed: type[Model], text: str) -> Path:
    model: Any = changed
    via, target = None, None
    back: list[str] = []
    for number, name in enumerate(text.split("__")):
        relation = _relation(model, name)
        if relation is None:
            raise ImproperlyConfigured(
                f"{owner}.depends_on[{changed.__name__}] is {text!r}, but {model.__name__} has no "
                f"relation {name!r}. Write the path from {changed.__name__} to "
                f"{row_model.__name__}, such as 'order_set', 'customer' or 'team__order_set'."
            )
        if relation.concrete and not relation.many_to_many:
            if number:
                raise ImproperlyConfigured(
                    f"{owner}.depends_on[{changed.__name__}] is {text!r}. Only the first part of a "
                    f"path may be a foreign key, and {name!r} is another one: name "
                    f"{model.__name__} as a model of its own."
                )
            via, target = relation.attname, relation.target_field
        else:
            back.append(_back(owner, text, relation))
        model = relation.related_model
    if target is not None and not (back and target.primary_key):
        back.insert(0, target.name)
    if not back or not issubclass(row_model, model._meta.concrete_model):
        raise ImproperlyConfigured(
            f"{owner}.depends_on[{changed.__name__}] is {text!r}, which leads to {model.__name__} "
            f"and not to {row_model.__name__}."
        )
    return Path(changed, via, "__".join(reversed(back)))


def _relation(model: type[Model], name: str) -> Any:
    for relation in model._meta.related_objects:
        if name in (relation.get_accessor_name(), relation.name):
            return relation
    try:
        field: Any = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return field if field.is_relation and field.related_model is not None else None


def _back(owner: str, text: str, relation: Any) -> str:
    # Not `concrete`: a ManyToManyField has no column, and Django 6.1 says so.
    if relation.auto_created:
        return str(relation.field.name)
    if relation.remote_field.hidden:
        raise ImproperlyConfigured(
            f"{owner}.depends_on has {text!r}, but {relation} has no way back: its related_name "
            "ends with '+'. Give it a name."
        )
    return str(relation.related_query_name())
