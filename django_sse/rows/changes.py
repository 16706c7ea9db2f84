"""Tells all processes which rows signals, triggers and ``publish_changes()`` report as touched.

A message of the topic ``model:<app>.<model>`` names primary keys and values of foreign keys, or says
that any row may have changed. It has no other data of the rows. It is published as any other event,
after the commit.
"""

from __future__ import annotations

import datetime
import functools
import json
import logging
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.apps import apps
from django.db import router
from django.db.models import CASCADE, DO_NOTHING, PROTECT, RESTRICT, Model, Q, QuerySet
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save
from django.utils.asyncio import async_unsafe
from rest_framework.utils.encoders import JSONEncoder

from django_sse.brokers.base import Message
from django_sse.conf import conf
from django_sse.exceptions import InvalidEvent, InvalidTopic, UndeclaredEvent
from django_sse.topics.publishing import apublish, publish
from django_sse.wire.events import EventDecoder, encode_head

from .change_table import is_covered
from .paths import Path

logger = logging.getLogger("django_sse")

#: How many primary keys one message has at most.
CHUNK = 1000

# The concrete models of whose changes messages are published.
_watched: set[type[Model]] = set()
# The databases that a view's queryset has chosen by using(), beside those of the router.
_chosen: dict[type[Model], set[str]] = {}
# For each model that depends_on names, the ways to the rows that show its objects.
_dependents: dict[type[Model], set[tuple[type[Model], Path]]] = {}

_BEFORE = "_django_sse_before"
# The types of keys that DRF turns into what their fields read.
_KNOWN = (*(datetime.datetime, datetime.date, datetime.time), datetime.timedelta)
_ANY_ROW = '{"pk":[],"all":true}'


class KeyEncoder(JSONEncoder):
    """Takes any primary key: one of a type of its own as text, which its field reads again."""

    def default(self, obj: Any) -> Any:
        """Return what JSON can hold."""
        return super().default(obj) if isinstance(obj, _KNOWN) else str(obj)


# The bytes that a message has besides its data.
_FRAME = len(encode_head("", "touched"))


class Touched(NamedTuple):
    """The content of a message: primary keys, and foreign keys before and after the change."""

    pks: tuple[Any, ...]
    via: dict[str, list[Any]]
    #: Whether any row may have changed.
    all: bool = False


def topic_of(model: type[Model]) -> str:
    """Return the topic of a model's changes."""
    return f"model:{_concrete(model)._meta.label_lower}"


@functools.lru_cache(256)
def read(message: Message) -> Touched:
    """Return what a message says; the groups of a process share the result."""
    [event] = EventDecoder().feed(message.encode())
    payload = json.loads(event.data or "")
    return Touched(tuple(payload["pk"]), payload.get("via", {}), payload.get("all", False))


def watch(row_model: type[Model], paths: Collection[Path], chosen: str | None = None) -> None:
    """Publish the changes of a model and of those on which its rows depend, from now on.

    ``chosen`` is the database that ``using()`` names, if it does.
    """
    for model in (row_model, *(path.changed for path in paths)):
        _watch(model)
        if chosen is not None:
            _chosen.setdefault(_concrete(model), set()).add(chosen)
    for path in paths:
        _dependents.setdefault(_concrete(path.changed), set()).add((row_model, path))


def databases_of(model: type[Model]) -> set[str]:
    """Return the databases of whose rows of a model streams are expected to hear."""
    return {router.db_for_write(model), *_chosen.get(_concrete(model), ())}


@async_unsafe("publish_changes() waits for the broker: use `await apublish_changes(…)`.")
def publish_changes(
    rows: QuerySet[Any] | Iterable[Model], *, using: str | None = None, on_commit: bool = True
) -> None:
    """Tell the streams of a model that rows were changed in a way that Django's signals do not see.

    Call it after ``bulk_create()``, ``bulk_update()``, ``QuerySet.update()`` or raw SQL, with the
    rows that were touched: a ``QuerySet``, which is evaluated now, or objects. A row that is no
    longer in a user's queryset is sent to that user as ``deleted``. In a transaction of the
    database ``using`` (by default, that of the ``QuerySet``), it waits for the commit, as
    ``publish()`` does. Raises ``ValueError`` for objects without a primary key, and what
    ``publish()`` raises.
    """
    found, database = _messages_of(rows)
    for topic, text in found:
        publish(topic, text, event="touched", using=using or database, on_commit=on_commit)


async def apublish_changes(rows: QuerySet[Any] | Iterable[Model]) -> None:
    """Do the same as ``publish_changes()`` from a coroutine, at once."""
    found, _ = await sync_to_async(_messages_of)(rows)
    for topic, text in found:
        await apublish(topic, text, event="touched")


def publish_record(label: str, payload: dict[str, Any]) -> None:
    """Publish at once what a trigger wrote about a statement on the table of a model.

    Other processes may show models that this one does not. So the message goes to the topics of
    every model that shares the table, with all foreign keys that the trigger gave. A row between two
    models of a many-to-many relation touches the objects on both sides.

    Raises what ``publish()`` raises while the broker is away. A record that can never be published
    raises nothing: it would keep all later ones from being published.
    """
    for topics, text in _messages(label, payload):
        try:
            publish(topics, text, event="touched", on_commit=False)
        except (InvalidTopic, InvalidEvent, UndeclaredEvent) as error:
            logger.warning("A change of %r cannot be published: %s", label, error)


def _messages(label: str, payload: dict[str, Any]) -> Iterator[tuple[list[str], str]]:
    try:
        model = apps.get_model(label)
    except ValueError:
        return  # A call by hand: this is not the name of a model.
    except LookupError:
        # Another release of the project, which has the model, may serve streams of it.
        yield [f"model:{label.lower()}"], _ANY_ROW
        return
    ends = _ends(model)
    if payload.get("all"):
        for touched in (model, *ends.values()):
            yield sorted(chain(*_kin_topics(touched))), _ANY_ROW
        return
    vias: dict[str, list[Any]] = {name: it or [] for name, it in payload.get("via", {}).items()}
    columns = [list(chunks(vias[name], CHUNK)) for name in sorted(vias)]
    topics, other = _kin_topics(model)
    if other:
        yield other, _ANY_ROW
    for pks, *values in zip_longest(chunks(payload["pk"], CHUNK), *columns, fillvalue=[]):
        for text in _texts(pks, dict(zip(sorted(vias), values, strict=True))):
            yield topics, text
    for name, end in ends.items():
        topics, other = _kin_topics(end)
        if other:
            yield other, _ANY_ROW
        for part in chunks(vias.get(name, ()), CHUNK):
            for text in _texts(part):
                yield topics, text


def _ends(through: type[Model]) -> dict[str, type[Model]]:
    """Return the models that a row of a many-to-many relation joins, by the keys that name them.

    Of a model that is not between two others, return none.
    """
    relations: Iterator[Any] = chain.from_iterable(
        model._meta.local_many_to_many for model in apps.get_models()
    )
    if not any(_concrete(it.remote_field.through) is _concrete(through) for it in relations):
        return {}
    fields: list[Any] = [it for it in through._meta.concrete_fields if it.is_relation]
    return {it.attname: it.related_model for it in fields if it.target_field.primary_key}


def _messages_of(rows: QuerySet[Any] | Iterable[Model]) -> tuple[list[tuple[str, str]], str | None]:
    by_model: dict[type[Model], list[Any]] = {}
    database = None
    if isinstance(rows, QuerySet):
        query = rows.query
        if not (query.is_sliced or query.combinator or query.distinct_fields):
            rows = rows.order_by()  # Otherwise, the order decides which rows are in it.
        by_model[rows.model] = list(rows.values_list("pk", flat=True))
        database = rows.db
    else:
        if isinstance(rows, Model) or not isinstance(rows, Iterable):
            raise TypeError(
                f"publish_changes() takes a QuerySet, or a list of objects, got {rows!r}. Write "
                "publish_changes([order]) for one object."
            )
        for row in rows:
            if not isinstance(row, Model):
                raise TypeError(
                    f"publish_changes() takes a QuerySet, or objects of models, got {row!r}. For "
                    "primary keys, pass Model.objects.filter(pk__in=keys)."
                )
            if row.pk is None or (isinstance(row.pk, tuple) and None in row.pk):
                raise ValueError(
                    f"publish_changes() got {row!r} without a primary key, which the database has "
                    "not returned. Query the rows, and pass the QuerySet."
                )
            by_model.setdefault(type(row), []).append(row.pk)
    found = []
    for model, pks in by_model.items():
        same, other = _kin_topics(model)
        for part in chunks(pks, CHUNK):
            found += [(topic, text) for text in _texts(part) for topic in same]
        found += [(topic, _ANY_ROW) for topic in other]
    return found, database


def _touch(
    model: type[Model], pks: Iterable[Any], using: str, via: dict[str, list[Any]] | None = None
) -> None:
    same, other = _kin_of(model, _watched)
    if other:
        publish(other, _ANY_ROW, event="touched", using=using)
    if same:
        for part in chunks(pks, CHUNK):
            for text in _texts(part, via):
                publish(same, text, event="touched", using=using)


def chunks(pks: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of at most ``size`` primary keys, each key once."""
    different = list(dict.fromkeys(pks))
    for begin in range(0, len(different), size):
        yield different[begin : begin + size]


def _texts(pks: list[Any], via: dict[str, list[Any]] | None = None) -> Iterator[str]:
    """Yield the data of messages, each of which is small enough to be published.

    If one key alone is too large, yield that any row may have changed.
    """
    via = {name: values for name, values in (via or {}).items() if values}
    payload: dict[str, Any] = {"pk": pks, "via": via} if via else {"pk": pks}
    text = json.dumps(payload, cls=KeyEncoder, separators=(",", ":"))
    if len(text) + _FRAME <= conf.max_event_bytes:  # JSON is ASCII here.
        yield text
        return
    # Give each half a part of the keys; a foreign key needs no primary key beside it.
    keys = [("", pk) for pk in pks]
    keys += [(name, value) for name, values in via.items() for value in values]
    if len(keys) == 1:
        yield _ANY_ROW
        return
    middle = len(keys) // 2
    for half in (keys[:middle], keys[middle:]):
        shares = {name: [value for it, value in half if it == name] for name in via}
        yield from _texts([value for name, value in half if not name], shares)


# Models: a row of a child is a row of its parents, under the same primary key.


def _concrete(model: type[Model]) -> type[Model]:
    concrete: type[Model] = model._meta.concrete_model or model
    return concrete


def _are_kin(one: type[Model], other: type[Model]) -> bool:
    one, other = _concrete(one), _concrete(other)
    return issubclass(one, other) or issubclass(other, one)


def _have_one_key(one: type[Model], other: type[Model]) -> bool:
    """Return whether a row of both models has the same primary key in both, as it is by default.

    A model with several parents, or with a key beside the link to its parent, has keys of its own.
    """
    one, other = _concrete(one), _concrete(other)
    child, parent = (one, other) if issubclass(one, other) else (other, one)
    while child is not parent:
        link: Any = child._meta.get_ancestor_link(parent)
        if not link.primary_key:
            return False
        child = link.related_model
    return True


def _kin_of(model: type[Model], models: Iterable[type[Model]]) -> tuple[list[str], list[str]]:
    """Return the topics of the models whose rows are in the same table.

    First those under whose primary keys the rows are the same ones, then the others.
    """
    kin = [it for it in models if _are_kin(it, model)]
    same = {topic_of(it) for it in kin if _have_one_key(it, model)}
    return sorted(same), sorted({topic_of(it) for it in kin} - same)


def _kin_topics(model: type[Model]) -> tuple[list[str], list[str]]:
    """Do the same for all models, watched here or not."""
    return _kin_of(model, [model, *apps.get_models(include_auto_created=True)])


def _topics(model: type[Model]) -> list[str]:
    return sorted(chain(*_kin_of(model, _watched)))


def _watch(model: type[Model]) -> None:
    model = _concrete(model)
    if model in _watched:
        return
    _watched.add(model)
    # A receiver for all senders would take away Django's fast deletes from every model.
    for kin in apps.get_models(include_auto_created=True):
        if not _are_kin(kin, model):
            continue
        pre_save.connect(_before_save, sender=kin)
        post_save.connect(_saved, sender=kin)
        pre_delete.connect(_before_delete, sender=kin)
        post_delete.connect(_deleted, sender=kin)
        ends = filter(_is_changed_by_delete, kin._meta.local_concrete_fields)
        deleted: list[Any] = [end.related_model for end in ends]
        for other in apps.get_models():
            if any(_concrete(other) is _concrete(it) for it in deleted):
                pre_delete.connect(_before_delete_of_end, sender=other)
        for field in chain(kin._meta.many_to_many, kin._meta.related_objects):
            through: Any = getattr(field, "through", None)
            through = through or getattr(getattr(field, "remote_field", None), "through", None)
            if through is not None:
                m2m_changed.connect(_related, sender=through)


def _is_changed_by_delete(field: Any) -> bool:
    """Return whether a row changes without a signal as the object of its foreign key is deleted."""
    on_delete = getattr(field.remote_field, "on_delete", None)
    return on_delete not in {None, CASCADE, PROTECT, RESTRICT, DO_NOTHING}


def _paths(model: type[Model]) -> Iterator[tuple[type[Model], Path]]:
    for changed, found in _dependents.items():
        if _are_kin(changed, model):
            yield from found


# Signals. They come before the commit, and what they publish waits for it. If triggers record the
# same change, signals publish nothing.


def _vias(sender: type[Model]) -> set[str]:
    # An object of a parent has no foreign keys of a child.
    paths = (path for _, path in _paths(sender) if issubclass(sender, _concrete(path.changed)))
    return {path.via for path in paths if path.via is not None}


def _stored(sender: type[Model], instance: Any, using: str) -> dict[str, Any]:
    """Return the foreign keys that lead to rows, as the database has them."""
    names = _vias(sender)
    if not names:
        return {}
    rows = sender._base_manager.using(using).filter(pk=instance.pk)
    return rows.values(*names).first() or {}


def _before_save(
    sender: type[Model], instance: Any, using: str, raw: bool = False, **kwargs: Any
) -> None:
    # An object that moves from one team to another touches the rows of both. A new object may
    # replace a row, if its key is given. With a default of the key, Django only inserts.
    pk: Any = sender._meta.pk
    is_default = pk.has_default() or getattr(pk, "has_db_default", bool)()
    is_new = instance._state.adding and (instance.pk is None or (is_default and not raw))
    if not is_new and not is_covered(sender, using):
        setattr(instance, _BEFORE, _stored(sender, instance, using))


def _saved(sender: type[Model], instance: Any, using: str, **kwargs: Any) -> None:
    before = instance.__dict__.pop(_BEFORE, {})
    if is_covered(sender, using):
        return
    after = {name: getattr(instance, name) for name in _vias(sender)}
    if any(hasattr(value, "resolve_expression") for value in after.values()):
        after = _stored(sender, instance, using)  # F() and others: the database knows the value.
    _touch_all(sender, instance, using, before, after)


def _touch_all(
    sender: type[Model], instance: Any, using: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    via = {name: [it[name] for it in (before, after) if name in it] for name in {**before, **after}}
    _touch(sender, [instance.pk], using, via)


def _before_delete_of_end(sender: type[Model], instance: Any, using: str, **kwargs: Any) -> None:
    for model in tuple(_watched):
        fields: list[Any] = [] if is_covered(model, using) else list(model._meta.concrete_fields)
        for field in filter(_is_changed_by_delete, fields):
            if _concrete(field.related_model) is _concrete(sender):
                value = getattr(instance, field.target_field.attname)
                rows = model._base_manager.using(using).filter(**{field.attname: value})
                _touch(model, rows.values_list("pk", flat=True), using)


def _before_delete(sender: type[Model], instance: Any, using: str, **kwargs: Any) -> None:
    if not is_covered(sender, using):
        # The object may be older than the row, or lack what only() has left out.
        setattr(instance, _BEFORE, _stored(sender, instance, using))
    # After it, nothing leads from the object to its rows, which may stay (SET_NULL).
    for row_model, path in _paths(sender):
        if path.via is None:
            rows = row_model._base_manager.using(using).filter(**{path.lookup: instance.pk})
            _touch(row_model, rows.values_list("pk", flat=True), using)


def _deleted(sender: type[Model], instance: Any, using: str, **kwargs: Any) -> None:
    before = instance.__dict__.pop(_BEFORE, {})
    if not is_covered(sender, using):
        _touch_all(sender, instance, using, before, {})


def _related(
    sender: type[Model],
    instance: Any,
    action: str,
    model: type[Model],
    pk_set: set[Any] | None,
    using: str,
    **kwargs: Any,
) -> None:
    """Take a change of a many-to-many relation as a change of the objects on both sides."""
    if is_covered(sender, using):
        return
    ends: list[Any] = [it for it in sender._meta.get_fields() if it.is_relation]
    if action == "pre_clear" and _topics(model):
        own = [it.name for it in ends if _are_kin(it.related_model, type(instance))]
        theirs = [f"{it.name}__pk" for it in ends if _are_kin(it.related_model, model)]
        rows = sender._base_manager.using(using)
        rows = rows.filter(functools.reduce(Q.__or__, [Q(**{name: instance}) for name in own]))
        _touch(model, chain.from_iterable(rows.values_list(*theirs)), using)
    if action.startswith("post_"):
        _touch(type(instance), [instance.pk], using)
        _touch(model, _pks(model, ends, pk_set or set(), using), using)


def _pks(model: type[Model], ends: list[Any], values: set[Any], using: str) -> Iterable[Any]:
    """Return the primary keys of the objects that a relation's foreign keys name by other fields."""
    targets = {it.target_field for it in ends if _are_kin(it.related_model, model)}
    others = [Q(**{f"{it.name}__in": values}) for it in targets if not it.primary_key]
    if not (others and values and _topics(model)):
        return values
    rows = model._base_manager.using(using).filter(functools.reduce(Q.__or__, others))
    return rows.values_list("pk", flat=True)
