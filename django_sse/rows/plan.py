"""The plan that connections with the same rights share: a queryset, and its rows as text."""

from __future__ import annotations

import datetime
import decimal
import functools
import pickle
import threading
import uuid
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

from django.core.exceptions import EmptyResultSet, FieldDoesNotExist, ImproperlyConfigured
from django.db import connections, router
from django.db.models import BinaryField, Model, Prefetch, QuerySet
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.serializers import BaseSerializer

from django_sse.brokers.base import EventId
from django_sse.topics.rendering import default_context
from django_sse.wire.representation import representation
from django_sse.wire.serialization import SerializerClass, bound_encoder

from .changes import Touched, chunks, topic_of
from .paths import Path

#: How many primary keys one query asks for. SQLite takes 999 parameters, where it is old.
KEYS = 500
#: How many texts are kept for other groups, which check the same change a moment later.
KEPT = 1000

# Types of which two values of one type are the same for the database if Python finds them equal.
_COMPARED = (
    *(str, bytes, int, float, bool, type(None), decimal.Decimal, uuid.UUID),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
)


# The attributes that every QuerySet has.
_OF_QUERYSETS = frozenset(vars(QuerySet()))

# Attributes of an object that hold no loaded values themselves; _state() looks into them.
_CACHES = {"_state", "_prefetched_objects_cache"}


class Row(NamedTuple):
    """A row as clients get it; ``key`` is how they know it, as JSON has it."""

    pk: Any
    key: Any
    text: str


class Format(NamedTuple):
    """How rows become text: one for all connections whose serializer needs no request."""

    serializer_class: SerializerClass
    renderer_class: type[BaseRenderer]
    #: The field of the serializer by which clients know a row.
    key_name: str
    #: Whether that is the primary key, which no two rows have and no row changes.
    is_by_pk: bool = True


class Plan:
    """The rows of one queryset. Connections with an equal ``key`` share a plan, and its queries.

    ``read()`` and ``page()`` query; call them in a thread, and one at a time. The same query checks
    a row and reads what is sent of it, so a change in between is never sent unchecked.
    """

    def __init__(
        self,
        queryset: QuerySet[Any],
        format: Format,
        *,
        key: Hashable,
        paths: Collection[Path],
        owner: object | None,
        context: Callable[[], dict[str, Any]] | None,
        permits: Callable[[Any], bool] | None,
    ) -> None:
        """Take what a view has. Without a ``context``, the text is the same for all users.

        ``owner`` is an object of a connection that shares nothing, or ``None``.
        """
        self.queryset = queryset.all()
        # `team.order_set.all()` would show the team as it was when the stream opened.
        self.queryset._known_related_objects = {}  # type: ignore[attr-defined]
        self.format = format
        self.key = key
        self.owner = owner
        self.model: type[Model] = queryset.model
        self.using = queryset.db
        models = [self.model, *(path.changed for path in paths)]
        chosen = chosen_database(queryset)
        #: The databases in which the rows may be changed. ``using()`` may have chosen a replica.
        self.written = {router.db_for_write(model) for model in models}
        if chosen is not None:
            self.written.add(chosen)
        self.paths = {topic: tuple(it) for topic, it in _by_topic(paths).items()}
        self.topics = tuple(dict.fromkeys([topic_of(self.model), *self.paths]))
        self._context = context
        self._permits = permits

    def read(self, marks: Mapping[Any, EventId | None]) -> dict[Any, Row]:
        """Return the rows of these primary keys that are in the queryset now.

        A mark is the id of the newest message that touched the row. Groups that check a row for the
        same message share its text, if they have read the same.
        """
        found = {}
        for part in chunks(marks, KEYS):
            for obj in self.queryset.filter(pk__in=part).order_by():
                row = self._row(obj, marks.get(obj.pk))
                if row is not None:
                    found[obj.pk] = row
        return found

    def page(self, after: Any, size: int) -> tuple[dict[Any, Row], Any]:
        """Return the next rows in the order of their primary keys, and where the page after begins.

        That is ``None`` for the last page.
        """
        rows = self.queryset if after is None else self.queryset.filter(pk__gt=after)
        objects = list(rows.order_by("pk")[:size])
        found = {obj.pk: row for obj in objects if (row := self._row(obj, None)) is not None}
        return found, objects[-1].pk if len(objects) == size else None

    def pks(self, path: Path, touched: Touched) -> list[Any]:
        """Return the primary keys of the rows to which a path leads, whatever clients may see."""
        values: Iterable[Any] = touched.pks
        if path.via is not None:
            # publish_changes() names only the objects.
            objects = path.changed._base_manager.using(self.using).filter(pk__in=touched.pks)
            values = touched.via.get(path.via) or objects.values_list(path.via, flat=True)
        rows = self.model._base_manager.using(self.using)
        found: list[Any] = []
        for part in chunks(values, KEYS):
            found += rows.filter(**{f"{path.lookup}__in": part}).values_list("pk", flat=True)
        return found

    def own(self, pks: Iterable[Any]) -> list[Any]:
        """Return primary keys as the model has them, from those of a message."""
        to_python = self.model._meta.pk.to_python
        return [to_python(pk) for pk in pks]

    def begin(self) -> str:
        """Return the data of the event ``begin``."""
        return _writer(self.format).encode({"key": self.format.key_name})

    def gone(self, key: Any) -> str:
        """Return the data of the event ``deleted``."""
        return _writer(self.format).encode({self.format.key_name: key})

    def _row(self, obj: Any, mark: EventId | None) -> Row | None:
        if self._permits is not None and not self._permits(obj):
            return None
        if self._context is not None:
            return _Writer(self.format, self._context()).row(obj)
        if mark is None:
            return _writer(self.format).row(obj)
        place = self.format, self.model, self.using, obj.pk
        state, kept = _state(obj), _texts.get(place)
        if kept is not None and kept[0] == mark and kept[1] == state:
            return kept[2]
        row = _writer(self.format).row(obj)
        if len(_texts) >= KEPT:
            _texts.clear()
        _texts[place] = mark, state, row
        return row


class _Writer:
    """A bound serializer, and the encoder of its data."""

    def __init__(self, format: Format, context: dict[str, Any]) -> None:
        renderer = format.renderer_class()
        self._name = format.key_name
        self._serializer_class = format.serializer_class
        self._represent = representation(format.serializer_class(context=context))
        self.encode: Callable[[Any], str] = bound_encoder(renderer) or functools.partial(
            _rendered, renderer
        )

    def row(self, obj: Any) -> Row:
        data = self._represent(obj)
        try:
            key = data[self._name]
        except (KeyError, TypeError):
            raise ImproperlyConfigured(
                f"{self._serializer_class.__qualname__} must put {self._name!r} into its data: "
                "clients know a row by it."
            ) from None
        return Row(obj.pk, key, self.encode(data))


def _rendered(renderer: BaseRenderer, data: Any) -> str:
    text = renderer.render(data, renderer.media_type, {})
    return text if isinstance(text, str) else bytes(text).decode()


class _PerThread(threading.local):
    """The writers of each thread. Serializers are not safe in several threads at once."""

    def __init__(self) -> None:
        self.writers: dict[Format, _Writer] = {}


_threads = _PerThread()
_texts: dict[Hashable, tuple[EventId, dict[str, Any], Row]] = {}


def _writer(format: Format) -> _Writer:
    writer = _threads.writers.get(format)
    if writer is None:
        writer = _threads.writers[format] = _Writer(format, default_context())
    return writer


def _by_topic(paths: Iterable[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(topic_of(path.changed), []).append(path)
    return found


def _state(obj: Any) -> dict[str, Any]:
    """Return the loaded values of an object, and of the objects that were loaded with it."""
    # Take all names but these: an annotation may have any name, also one with an underscore.
    found = {name: value for name, value in obj.__dict__.items() if name not in _CACHES}
    for name, other in obj._state.fields_cache.items():
        found[f"{name}."] = _state(other) if isinstance(other, Model) else other
    for name, rows in obj.__dict__.get("_prefetched_objects_cache", {}).items():
        found[f"{name}."] = [_state(row) for row in rows]
    return found


def key_name(owner: str, serializer_class: SerializerClass, model: type[Model], lookup: str) -> str:
    """Return the serializer's field that has the primary key, or the view's ``lookup_field``.

    Raises ``ImproperlyConfigured`` where there is none.
    """
    pk: Any = model._meta.pk
    wanted = {lookup}
    if is_pk(model, lookup):
        wanted = {"pk", pk.name, pk.attname}
        while pk.remote_field and pk.remote_field.parent_link:  # The parent's key is the same.
            pk = pk.remote_field.model._meta.pk
            wanted |= {pk.name, pk.attname}
    fields = getattr(serializer_class(context=default_context()), "fields", None)
    if fields is None:  # A BaseSerializer.
        return str(pk.name) if "pk" in wanted else lookup
    for name, field in fields.items():
        # A nested serializer's object cannot be a key.
        if field.source in wanted and not (field.write_only or isinstance(field, BaseSerializer)):
            return str(name)
    raise ImproperlyConfigured(
        f"{owner} needs a serializer with {lookup!r}, by which clients know a row: add a field for "
        f"it to {serializer_class.__qualname__}."
    )


def is_pk(model: type[Model], lookup: str) -> bool:
    """Return whether a ``lookup_field`` is the primary key."""
    return lookup in {"pk", model._meta.pk.name, model._meta.pk.attname}


def check_queryset(owner: str, queryset: Any) -> None:
    """Raise ``ImproperlyConfigured`` for rows that cannot be asked for by primary key."""
    if not isinstance(queryset, QuerySet):
        raise ImproperlyConfigured(
            f"{owner} must stream a QuerySet of a model's objects, got {queryset!r}."
        )
    query, pk = queryset.query, queryset.model._meta.pk
    wrong = None
    if query.is_sliced:
        wrong = "is sliced: a row that a slice pushes out is not known as one that left"
    elif query.combinator:
        wrong = f"is a {query.combinator}(): combine filters with Q(…) | Q(…)"
    elif queryset._fields is not None:  # type: ignore[attr-defined]
        wrong = "is a values(): serializers take objects"
    elif len(getattr(queryset.model._meta, "pk_fields", [1])) > 1:
        wrong = "has a composite primary key, by which rows cannot be asked for here"
    elif isinstance(pk, BinaryField):
        wrong = "has a primary key of bytes, which JSON cannot hold"
    elif query.distinct_fields:
        wrong = "is a distinct() of fields: which row it takes depends on the others"
    elif query.select_for_update:
        wrong = "is a select_for_update(): streams lock no rows"
    elif query.where.contains_over_clause or any(
        getattr(it, "contains_over_clause", False) for it in query.annotations.values()
    ):
        wrong = "has a window function, whose result for one row depends on the others"
    if wrong is not None:
        raise ImproperlyConfigured(f"{owner}: the queryset of {queryset.model.__name__} {wrong}.")


def check_lookup(owner: str, model: type[Model], lookup: str) -> None:
    """Raise ``ImproperlyConfigured`` for a ``lookup_field`` that names several rows at once.

    A field of a constraint over several fields may be unique in the rows of a view.
    """
    try:
        field: Any = model._meta.get_field(model._meta.pk.name if lookup == "pk" else lookup)
    except FieldDoesNotExist:
        return  # An annotation. The serializer must have it.
    unique = [{field.name}] if getattr(field, "unique", False) else []
    for it in (model, *model._meta.get_parent_list()):
        unique += map(set, it._meta.unique_together)
        unique += [set(rule.fields) for rule in it._meta.constraints if hasattr(rule, "fields")]
    if not any(field.name in names for names in unique):
        raise ImproperlyConfigured(
            f"{owner}.lookup_field is {lookup!r}, of which {model.__name__} may have many rows with "
            "the same value: clients know a row by it. Name a unique field."
        )


def query_key(queryset: QuerySet[Any]) -> Hashable:
    """Return a key that is equal for querysets that find the same rows and load the same fields."""
    # A project's own QuerySet class may keep further attributes, the user for example, and treat
    # the objects differently because of them.
    own = {name: it for name, it in vars(queryset).items() if name not in _OF_QUERYSETS}
    iterable: Any = queryset._iterable_class
    return (
        type(queryset),
        iterable,
        _frozen(sorted(own.items())) if own else None,
        _sql_key(queryset),
        *map(_prefetch_key, queryset._prefetch_related_lookups),  # type: ignore[attr-defined]
    )


def chosen_database(queryset: QuerySet[Any]) -> str | None:
    """Return the database that ``using()`` names, or ``None`` where the router decides."""
    return queryset._db  # type: ignore[attr-defined,no-any-return]


def _sql_key(queryset: QuerySet[Any]) -> Hashable:
    compiler = queryset.query.get_compiler(connection=connections[queryset.db])
    try:
        sql, params = compiler.as_sql()
    except EmptyResultSet:
        return queryset.db, "", ()
    return queryset.db, sql, _frozen(params)


def _prefetch_key(lookup: Any) -> Hashable:
    if not isinstance(lookup, Prefetch):
        return str(lookup)
    inner = lookup.queryset
    if inner is None:
        return lookup.prefetch_through, lookup.prefetch_to
    lookups = tuple(map(_prefetch_key, inner._prefetch_related_lookups))
    return lookup.prefetch_through, lookup.prefetch_to, _sql_key(inner), lookups


def _frozen(param: Any) -> Hashable:
    """Return a key that is equal for equal parameters of a query, and for no others."""
    if isinstance(param, list | tuple):
        return tuple(map(_frozen, param))
    # Compare the types, too: 1 == True for Python, but not for every database.
    if type(param) in _COMPARED:
        return type(param), param
    try:
        return type(param), pickle.dumps(param)
    except Exception:
        # The parameter cannot be compared, so this connection shares no queries.
        return object()


def is_json(renderer_class: type[BaseRenderer]) -> bool:
    """Return whether a renderer makes JSON, which the protocol of rows is."""
    return issubclass(renderer_class, JSONRenderer) or "json" in str(renderer_class.media_type)
