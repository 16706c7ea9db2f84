"""``publish()``: send an event from anywhere in a project to every connection that follows a topic."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.models import QuerySet
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest
from django.utils.asyncio import async_unsafe
from django.utils.functional import LazyObject, Promise
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from django_sse.brokers import get_broker
from django_sse.conf import conf
from django_sse.exceptions import EventTooLarge, InvalidEvent, InvalidTopic
from django_sse.monitoring.metrics import counters
from django_sse.wire.events import ServerSentEvent, check_fields, encode_head, encode_tail
from django_sse.wire.serialization import (
    ObjectWriter,
    SerializerClass,
    check_serializer,
    evaluated,
    look_through,
)

from .declarations import check_event, declared_topics, events_are_checked
from .exclusion import check_exclude
from .rendering import check_renderer, default_context, default_renderer_class

# Django's translations, and objects that Django evaluates when they are first used.
_LAZY = (Promise, LazyObject)

_NAMES = (str, *_LAZY)

#: The longest name of a topic, in characters.
MAX_TOPIC = 200

#: A context manager that is entered with the topics around each hand-over to the broker. It yields
#: a function, which is called with the event's id. For tracing, as in ``contrib.opentelemetry``;
#: ``None`` costs nothing.
watcher: Callable[[tuple[str, ...]], AbstractContextManager[Callable[[str], None]]] | None = None


@async_unsafe("publish() waits for the broker: use `await apublish(…)` in a coroutine.")
def publish(
    topics: str | Iterable[str],
    data: Any = None,
    *,
    event: str | None = None,
    retry: int | timedelta | None = None,
    comments: str | None = None,
    key: str | None = None,
    idempotency_key: str | None = None,
    exclude: HttpRequest | Request | str | None = None,
    serializer: SerializerClass | None = None,
    renderer: type[BaseRenderer] | None = None,
    context: Mapping[str, Any] | None = None,
    using: str | None = None,
    on_commit: bool = True,
) -> str | None:
    """Send an event to every connection that follows one of ``topics``, in all processes.

    ``data`` is serialized now, as in a view: by ``serializer``, or by the registry of
    ``@serializes``, with ``context``. ``renderer``, or the setting ``RENDERER``, makes the text.
    Without a ``context``, serializers have a ``request`` where the setting ``BASE_URL`` is given.
    ``data`` may also be a ``ServerSentEvent``, which has its own ``event``, ``retry`` and
    ``comments``, and no id: the broker gives it.

    The event is sent when the transaction of the database ``using`` commits, and dropped when the
    transaction is rolled back. Outside of a transaction, or with ``on_commit=False``, it is sent at
    once. ``key`` names what the event is about, for views with ``overflow = "latest"``.

    An event with an ``idempotency_key`` is sent once. While the first event with the key is not
    older than the broker's ``MAX_AGE``, a second one is not sent, and the first one's id is
    returned. So a caller that does not know whether an event was stored may publish it again.

    ``exclude`` is a request, or a page's id (``{% sse_client %}``). The streams of this page do not
    get the event, because the page made the change itself. A request without a page's id excludes
    no stream.

    Returns the event's id when it was sent at once, else ``None``. Safe from any thread.

    Raises at once:

    - ``InvalidTopic``, ``InvalidEvent``, ``EventTooLarge`` and ``SerializerNotFound``;
    - ``UndeclaredEvent``, where events are checked, for one that the ``Topic`` does not declare;
    - ``TransactionManagementError`` where autocommit is off, outside of an atomic block;
    - ``SynchronousOnlyOperation`` on a thread with a running event loop;
    - ``TypeError`` for a ``ServerSentEvent`` beside an ``event``, ``retry`` or ``comments``.

    Raises ``PublishFailed`` when the broker does not confirm the event within ``PUBLISH_TIMEOUT``
    seconds. For an event that waits for the commit, this is raised as the transaction commits.
    """
    words = Words(serializer, renderer, context)
    if _is_whole(data):
        data, event, retry, comments = _parts(data, event, retry, comments)
    options = _options(idempotency_key, exclude)
    encoded = _encode(topics, data, event, retry, comments, key, options, words)
    if on_commit and in_transaction(using):
        if not _store(using or DEFAULT_DB_ALIAS, encoded):
            transaction.on_commit(partial(_send, encoded), using=using)
        return None
    return _send(encoded)


async def apublish(
    topics: str | Iterable[str],
    data: Any = None,
    *,
    event: str | None = None,
    retry: int | timedelta | None = None,
    comments: str | None = None,
    key: str | None = None,
    idempotency_key: str | None = None,
    exclude: HttpRequest | Request | str | None = None,
    serializer: SerializerClass | None = None,
    renderer: type[BaseRenderer] | None = None,
    context: Mapping[str, Any] | None = None,
) -> str:
    """Send an event as ``publish()`` does, at once, and return its id.

    Objects are serialized in the event loop; a ``QuerySet`` is evaluated in a thread first.
    """
    words = Words(serializer, renderer, context)
    if _is_whole(data):
        data, event, retry, comments = _parts(data, event, retry, comments)
    try:
        data, _ = look_through(data)
        if isinstance(data, QuerySet):
            data = await sync_to_async(evaluated)(data)
        options = _options(idempotency_key, exclude)
        encoded = _encode(topics, data, event, retry, comments, key, options, words)
    except SynchronousOnlyOperation as error:
        error.add_note(
            "To serialize what is published touches the database. Evaluate it before, as in "
            "`await request.auser()`, or call publish() in a thread."
        )
        raise
    if watcher is None:
        return await _asend(encoded)
    with watcher(encoded.topics) as tell:
        event_id = await _asend(encoded)
        tell(event_id)
    return event_id


@async_unsafe("latest_event_id() waits for the broker: use `await alatest_event_id()`.")
def latest_event_id() -> str:
    """Return the id of the newest event over all topics, also before the first was published.

    A page that is rendered with this id, and connects with it as ``last_event_id``, misses no
    event. Raises ``BrokerError`` after ``PUBLISH_TIMEOUT`` seconds.
    """
    return str(get_broker().latest_id(timeout=conf.publish_timeout))


async def alatest_event_id() -> str:
    """Do the same as ``latest_event_id()`` from a coroutine."""
    return str(await get_broker().alatest_id(timeout=conf.publish_timeout))


def check_topics(topics: Any) -> tuple[str, ...]:
    """Return topics as a tuple without repetition; raise ``InvalidTopic`` for wrong ones."""
    if isinstance(topics, _LAZY):
        topics = str(topics)
    given = [topics] if isinstance(topics, str) else topics
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise InvalidTopic(f"Topics must be a str or several, got {topics!r}.", topic=topics)
    # Convert a Topic, which is a subclass of str, to a plain str.
    names = tuple(
        str(name) if type(name) is not str and isinstance(name, _NAMES) else name for name in given
    )
    if not names:
        raise InvalidTopic("At least one topic is needed.", topic=topics)
    for name in names:
        if not isinstance(name, str) or not name:
            raise InvalidTopic(
                f"A topic must be a str that is not empty, got {name!r}.", topic=name
            )
        if len(name) > MAX_TOPIC:
            raise InvalidTopic(
                f"A topic must have at most {MAX_TOPIC} characters, got {len(name)}: {name[:40]!r}…",
                topic=name,
            )
        # A printable name has no control characters, and isprintable() is the faster check.
        if not name.isprintable() and any(
            unicodedata.category(character) in {"Cc", "Cs"} for character in name
        ):
            raise InvalidTopic(
                f"A topic must not contain control characters or surrogates, got {name!r}.",
                topic=name,
            )
    return tuple(dict.fromkeys(names))


def _checked_key(name: str, key: Any) -> str | None:
    if isinstance(key, _LAZY):
        key = str(key)
    if key is not None and not isinstance(key, str):
        raise InvalidEvent(
            f"{name} must be a str, got {key!r}. Convert it first: {name}=str(…).",
            field=name,
            value=key,
        )
    return key


def _checked_idempotency_key(key: Any) -> str | None:
    checked = _checked_key("idempotency_key", key)
    if checked is not None:
        try:
            # A key has the limits of a topic's name, because every broker can store that.
            check_topics(checked)
        except InvalidTopic as error:
            text = str(error).replace("A topic", "idempotency_key")
            raise InvalidEvent(text, field="idempotency_key", value=key) from error
    return checked


class Encoded(NamedTuple):
    """An event as it is handed to the broker."""

    topics: tuple[str, ...]
    head: bytes
    tail: bytes
    key: str | None
    #: Further arguments of ``Broker.publish()``. Arguments without a value are left out, so that a
    #: custom broker need not know them.
    options: dict[str, Any]


class Words(NamedTuple):
    """The serializer, renderer and context that a caller of ``publish()`` gave."""

    serializer: SerializerClass | None
    renderer: type[BaseRenderer] | None
    context: Mapping[str, Any] | None

    def text(self, data: Any) -> str:
        """Return ``data`` as text; from any thread."""
        serializer, renderer, context = self
        if renderer is None:
            renderer = default_renderer_class()
        else:
            check_renderer("publish(renderer=…)", renderer)
        if serializer is not None:
            check_serializer("publish(serializer=…)", serializer)
            data, _ = look_through(data)
            many = isinstance(data, list | tuple | QuerySet)
            given = default_context() if context is None else dict(context)
            data = serializer(data, many=many, context=given).data
        if context is None:
            return _threads.writer(renderer).write(data)
        return _writer(renderer, lambda: dict(context)).write(data)


def _is_whole(data: Any) -> bool:
    # isinstance() would evaluate one of Django's lazy objects, which may make a query.
    return issubclass(type(data), ServerSentEvent)


def _parts(whole: ServerSentEvent, *given: Any) -> tuple[Any, str | None, int | None, str | None]:
    """Return data, event, retry and comments of an event that was given whole."""
    if any(it is not None for it in given):
        raise TypeError(
            "publish() takes a ServerSentEvent alone: it has its own event, retry and comments. "
            "Use dataclasses.replace() to change them."
        )
    if whole.id is not None:
        raise InvalidEvent(
            f"An event that is published must have no id of its own, got {whole.id!r}: the broker "
            "gives it one, with which clients resume.",
            field="id",
            value=whole.id,
        )
    return whole.data, whole.event, whole.retry, whole.comments


def _encode(
    topics: Any,
    data: Any,
    event: str | None,
    retry: int | timedelta | None,
    comments: str | None,
    key: Any,
    options: dict[str, Any],
    words: Words,
) -> Encoded:
    names = check_topics(topics)
    wait = check_fields(data, event, None, retry, comments)
    key = _checked_key("key", key)
    if declared_topics and events_are_checked():
        for name in names:
            if name in declared_topics:
                check_event([declared_topics[name]], event, data, topic=name)
    text = None if data is None else words.text(data)
    head, tail = encode_head(text, event), encode_tail(wait, comments)
    check_size(names[0], len(head) + len(tail))
    return Encoded(names, head, tail, key, options)


def check_size(topic: str, size: int) -> None:
    """Raise ``EventTooLarge`` for an event of so many bytes above ``MAX_EVENT_BYTES``."""
    if size > conf.max_event_bytes:
        raise EventTooLarge(
            f"The event for {topic!r} has {size:,} bytes, and "
            f'DJANGO_SSE["MAX_EVENT_BYTES"] allows {conf.max_event_bytes:,}. Publish a reference '
            "that clients fetch, or raise the setting.",
            size=size,
        )


def _options(idempotency_key: Any, exclude: Any) -> dict[str, Any]:
    given = {
        "idempotency_key": _checked_idempotency_key(idempotency_key),
        "exclude": check_exclude(exclude),
    }
    return {name: value for name, value in given.items() if value is not None}


class _PerThread(threading.local):
    """The writers of each thread. Serializers are not safe in several threads at once."""

    def __init__(self) -> None:
        self.writers: dict[tuple[type[BaseRenderer], str | None], ObjectWriter] = {}

    def writer(self, renderer_class: type[BaseRenderer]) -> ObjectWriter:
        """Return this thread's writer for a renderer, made when it is first needed."""
        known = renderer_class, conf.base_url
        writer = self.writers.get(known)
        if writer is None:
            writer = self.writers[known] = _writer(renderer_class, default_context)
        return writer


def _writer(
    renderer_class: type[BaseRenderer], context: Callable[[], dict[str, Any]]
) -> ObjectWriter:
    return ObjectWriter(overrides={}, renderer=renderer_class(), context=context, owner=None)


_threads = _PerThread()


def in_transaction(using: str | None) -> bool:
    """Return whether a transaction is open, whose commit an event waits for.

    Raises ``TransactionManagementError`` where autocommit is off, outside of an atomic block.
    """
    # transaction.on_commit() would open a database connection to find that out.
    connection = transaction.get_connection(using or DEFAULT_DB_ALIAS)
    if not connection.in_atomic_block:
        if connection.connection is not None and not connection.autocommit:
            # transaction.on_commit() raises it too: Django does not see such a commit.
            raise TransactionManagementError(
                "publish() cannot wait for the commit of a transaction that is managed by hand. "
                "Publish after it, with on_commit=False."
            )
        return False
    # Django's TestCase opens transactions that it never commits. They do not count, so that an
    # event which a test publishes outside of its own transactions is sent at once, as in
    # production.
    return not all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)


def _send(encoded: Encoded) -> str:
    if watcher is None:
        return _hand_over(encoded)
    with watcher(encoded.topics) as tell:
        event_id = _hand_over(encoded)
        tell(event_id)
    return event_id


def _store(using: str, encoded: Encoded) -> bool:
    """Write an event into the open transaction; return False where the broker cannot."""
    topics, head, tail, key, options = encoded
    store = partial(get_broker().publish_in_transaction, using, topics, head, tail, key, **options)
    if watcher is None:
        stored = store()
    else:
        with watcher(topics):
            stored = store()
    if stored:
        transaction.on_commit(counters.add_published, using=using)
    return stored


async def _asend(encoded: Encoded) -> str:
    topics, head, tail, key, options = encoded
    timeout = conf.publish_timeout
    event_id = await get_broker().apublish(topics, head, tail, key, timeout=timeout, **options)
    counters.add_published()
    return str(event_id)


def _hand_over(encoded: Encoded) -> str:
    topics, head, tail, key, options = encoded
    timeout = conf.publish_timeout
    event_id = get_broker().publish(topics, head, tail, key, timeout=timeout, **options)
    counters.add_published()
    return str(event_id)
