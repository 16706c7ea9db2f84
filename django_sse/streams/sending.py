"""Sending: from an object, or a text, to the outbox of one connection."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db.models import QuerySet
from rest_framework.renderers import BaseRenderer

from django_sse.conf import FROM_SETTINGS, FromSettings
from django_sse.connection.outbox import HIGH_WATER
from django_sse.connection.stream import Stream
from django_sse.exceptions import StreamClosed
from django_sse.monitoring.metrics import counters
from django_sse.topics.declarations import (
    Declaration,
    Events,
    check_event,
    declared_topics,
    events_are_checked,
)
from django_sse.topics.rendering import default_renderer_class
from django_sse.topics.templates import Template, Wrap, render
from django_sse.wire.events import ServerSentEvent, check_fields, encode_fields
from django_sse.wire.serialization import (
    ObjectWriter,
    SerializerClass,
    evaluated,
    is_proxy,
    look_through,
)

V = TypeVar("V")

if TYPE_CHECKING:
    from typing import Generic

    from typing_extensions import TypeVar as TypeVarWithDefault

    T = TypeVarWithDefault("T", default=Any)

    class Typed(Stream, Generic[T]):
        """A stream that sends objects of certain types, for type checkers."""

else:
    T = TypeVar("T")

    class Typed(Stream):
        """A stream that sends objects of certain types: ``SSEView[Order]``, for type checkers alone."""

        def __class_getitem__(cls, types: Any) -> type:
            """Return the class itself."""
            return cls


def coroutine_or_generator(hook: Callable[[V], Coroutine[Any, Any, None]]) -> Callable[[V], Any]:
    """Let type checkers accept either where a subclass defines the hook."""
    return hook


class Sending(Typed[T]):
    """A stream that sends objects, which serializers turn into text."""

    #: The events that the stream sends, by name: a type, a serializer class, or ``None`` for no
    #: data. ``None`` in the place of the dict declares nothing.
    events: ClassVar[Events | None] = None

    #: Serializer classes by type, before those of ``@serializes``.
    serializer_classes: ClassVar[Mapping[type, SerializerClass]] = {}
    #: Run serializers in a thread, for those that touch the database. Costs several times as much.
    serialize_in_thread: bool = False
    #: The DRF renderer class that turns a serializer's data into text. By default, the setting's.
    renderer_class: type[BaseRenderer] = FROM_SETTINGS

    _writer: ObjectWriter | None = None
    _declaration: ClassVar[Declaration | None] = None
    # The declaration that events are checked against; empty where they are not checked.
    _held: tuple[Declaration, ...] = ()
    # A heartbeat, which needs no declaration.
    _beat: ServerSentEvent | None = None

    def get_serializer_context(self) -> dict[str, Any]:
        """Return the context that serializers are bound with, as in DRF."""
        return {"request": self.request, "view": self}

    def get_renderer(self) -> BaseRenderer:
        """Return the renderer of this connection."""
        own: Any = self.renderer_class
        return (
            default_renderer_class()() if isinstance(own, FromSettings) else self.renderer_class()
        )

    def serialize(self, obj: Any) -> str:
        """Return ``obj`` as the text of an event's ``data``. Override it to make the text yourself.

        Raises ``SerializerNotFound`` for an object that has no serializer.
        """
        if self._writer is None:
            self._writer = ObjectWriter(
                overrides=self.serializer_classes,
                renderer=self.get_renderer(),
                context=self.get_serializer_context,
                owner=type(self),
            )
        return self._writer.write(obj)

    async def send(
        self,
        data: T | ServerSentEvent | str | None = None,
        event: str | None = None,
        id: str | None = None,
        retry: int | timedelta | None = None,
        comments: str | None = None,
    ) -> None:
        """Send one event: an object, text, or a ``ServerSentEvent``.

        Events leave whole and in the order of each task's calls, also when several tasks send. It
        returns at once while the client keeps up, and waits while more than 64 KiB are on their
        way. All events of one turn of the event loop leave in one piece.

        Raises ``StreamClosed`` after the stream's end, ``InvalidEvent`` for fields that cannot be
        sent, ``SerializerNotFound``, and, where events are checked, ``UndeclaredEvent`` for one that
        ``events`` does not have; nothing was sent then.
        """
        beat = data is not None and data is self._beat
        if type(data) is not str and is_proxy(data):
            data = await self._behind(data)
        if isinstance(data, ServerSentEvent):
            if not (event is None and id is None and retry is None and comments is None):
                raise TypeError(
                    "send() takes a ServerSentEvent alone: it has its own event, id, retry and "
                    "comments. Use dataclasses.replace() to change them."
                )
            sent = data
            data, event, id = sent.data, sent.event, sent.id
            retry, comments = sent.retry, sent.comments
            if is_proxy(data):
                data = await self._behind(data)
        outbox = self._outbox
        if outbox is None or self.close_reason is not None or outbox.gone:
            raise StreamClosed(self._closed_text())
        wait = check_fields(data, event, id, retry, comments)
        if self._held and not beat:
            check_event(self._held, event, data, view=type(self))
        if data is not None and not isinstance(data, str):
            data = await self._as_text(data)
            if self.close_reason is not None or outbox.gone:
                # The stream ended meanwhile, and nothing may follow the end of a response.
                raise StreamClosed(self._closed_text())
        outbox.put(encode_fields(data, event, id, wait, comments))
        counters.sent += 1
        if outbox.size >= HIGH_WATER:
            await outbox.drain()
            if outbox.gone:
                raise StreamClosed(self._closed_text())

    async def send_template(
        self,
        template: Template,
        context: Mapping[str, Any] | None = None,
        *,
        event: str | None = None,
        id: str | None = None,
        retry: int | timedelta | None = None,
        comments: str | None = None,
        request: bool = False,
        using: str | None = None,
        wrap: Wrap | None = None,
    ) -> None:
        """Render a template with Django's engines, and send its text.

        ``template`` is a name, or several, of which the first that exists counts; ``using`` is the
        name of the engine, by default each in turn, as in Django's ``render_to_string()``. With
        ``request=True``, the template has the view's request, and what context processors make of
        it. The request is that of the handshake: its user, session and cookies are of that moment.

        ``wrap`` is called with the HTML, and returns the text or the ``ServerSentEvent`` that is
        sent in its place.

        It is rendered in the streams' pool of threads, where it may query, and never in the event
        loop. Raises ``TemplateDoesNotExist``, what the template raises, and what ``send()`` does.
        """
        self._check_open()
        own = self.request._request if request else None
        rendered = await sync_to_async(render)(template, context, own, using, wrap)
        await self.send(rendered, event, id, retry, comments)

    def declarations(self, topics: Iterable[str]) -> tuple[Declaration, ...]:
        """Return what the view and these topics declare."""
        own = self._declaration
        if self.events is not type(self).events:  # Given to as_view().
            named = type(self).__qualname__
            own = None if self.events is None else Declaration(named, self.events)
        held = [] if own is None else [own]
        if declared_topics:
            held += [declared_topics[name] for name in topics if name in declared_topics]
        return tuple(held)

    def _hold_to_declarations(self, topics: Iterable[str]) -> None:
        """Hold the events of this connection to what the view and its topics declare."""
        held = self.declarations(topics)
        if held and events_are_checked():
            self._held = held

    async def _send_all(self, events: Any) -> None:
        """Send what a hook yields, or await the hook."""
        if inspect.isasyncgen(events):
            async with aclosing(events):
                event: Any
                async for event in events:
                    await self.send(event)
        elif (returned := await events) is not None:
            raise TypeError(
                f"{type(self).__qualname__} returned {returned!r}, which is not sent: `yield` it, or "
                "`await self.send(…)`."
            )

    async def _as_text(self, obj: Any) -> str:
        if self.serialize_in_thread:
            return await sync_to_async(self._serialized)(obj)
        if isinstance(obj, QuerySet):
            obj = await sync_to_async(evaluated)(obj)
        return self._serialized(obj)

    def _serialized(self, obj: Any) -> str:
        try:
            text: object = self.serialize(obj)
        except SynchronousOnlyOperation as error:
            error.add_note(
                f"To serialize it touches the database. Set {type(self).__qualname__}."
                "serialize_in_thread = True, or make a list of a QuerySet before you send it."
            )
            raise
        if not isinstance(text, str):
            raise TypeError(
                f"{type(self).__qualname__}.serialize() must return a str, got {text!r}."
            )
        return text

    async def _behind(self, proxy: Any) -> Any:
        """Return the object that a proxy stands for; in a thread, if finding it takes a query."""
        if self.serialize_in_thread:
            return (await sync_to_async(look_through)(proxy))[0]
        try:
            return look_through(proxy)[0]
        except SynchronousOnlyOperation as error:
            error.add_note(
                f"A lazy object is evaluated by a query here. Set {type(self).__qualname__}."
                "serialize_in_thread = True, or evaluate it before, as in `await request.auser()`."
            )
            raise

    def _check_open(self) -> None:
        """Raise ``StreamClosed`` where nothing can be sent."""
        if self._outbox is None or self.close_reason is not None:
            raise StreamClosed(self._closed_text())

    def _closed_text(self) -> str:
        name = type(self).__qualname__
        if self._outbox is None:
            return f"{name} cannot send yet: its stream has not begun. Send in stream()."
        return f"{name} cannot send any more: its stream has ended ({self.close_reason})."
