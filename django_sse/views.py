"""``SSEView``: one instance for each connection, from its handshake to its end."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing, suppress
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, TypeVar

from asgiref.sync import sync_to_async
from channels import DEFAULT_CHANNEL_LAYER
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db.models import QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.renderers import BaseRenderer

from .asgi import ViewHandler
from .conf import conf
from .connection.groups import GroupMember, check_groups, handler_names
from .connection.outbox import HIGH_WATER
from .connection.tasks import settle, stop
from .exceptions import HistoryLost, InvalidTopic, StreamClosed
from .handshake.attributes import (
    CHECKED,
    FROM_SETTINGS,
    FromSettings,
    check_attributes,
    check_hooks,
    check_several_topics,
    defines,
)
from .monitoring.metrics import counters
from .session import Session
from .topics.backlog import Overflow
from .topics.publishing import check_topics
from .topics.rendering import default_renderer_class
from .topics.subscription import Subscription
from .wire.events import ServerSentEvent, check_fields, encode_fields
from .wire.heartbeat import Heartbeat, Pulse
from .wire.serialization import ObjectWriter, SerializerClass, evaluated, is_proxy, look_through

logger = logging.getLogger("django_sse")

V = TypeVar("V")

#: The query parameter with which a page hands in the id of the moment it was rendered.
_PAGES_OWN = "last_event_id"


def _coroutine_or_generator(hook: Callable[[V], Coroutine[Any, Any, None]]) -> Callable[[V], Any]:
    """Let type checkers accept either where a subclass defines the hook."""
    return hook


class SSEView(Session):
    """A stream of events: routed with ``sse_path()``, one instance for each connection.

    Any policy attribute and hook of DRF's ``APIView`` applies to the handshake. Subclasses define
    ``stream()``, and may define ``connect()``, ``disconnect()``, ``get_groups()`` and handlers of
    channel-layer messages.
    """

    #: Serializer classes by type, before those of ``@serializes``.
    serializer_classes: ClassVar[Mapping[type, SerializerClass]] = {}
    #: Run serializers in a thread, for those that touch the database. Costs several times as much.
    serialize_in_thread: bool = False
    #: What turns a serializer's data into text: a DRF renderer class. By default, the setting's.
    renderer_class: type[BaseRenderer] = FROM_SETTINGS
    #: The heartbeat of this view; ``None`` turns it off. By default, the setting's.
    heartbeat: Heartbeat | None = FROM_SETTINGS
    #: Topics whose events the stream sends, once it follows them.
    topics: ClassVar[Iterable[str]] = ()
    #: What happens when published events come faster than a client takes them: ``"close"``,
    #: ``"drop_oldest"`` or ``"latest"``.
    overflow: Overflow = "close"
    #: Bytes of published events that may wait for one client; by default, the setting's.
    outbox_limit: int | None = None
    #: Whether the topics are subscribed: no event that is published from then on is missed.
    subscribed: bool = False
    #: Whether the client goes on where it was; settled before ``stream()`` starts.
    resumed: bool = False
    #: Channel-layer groups whose messages reach the handlers that the view defines.
    groups: ClassVar[Iterable[str]] = ()
    #: The channel layer of ``groups``.
    channel_layer_alias: str = DEFAULT_CHANNEL_LAYER

    _handlers: ClassVar[frozenset[str]] = frozenset()
    _pulse: Pulse | None = None
    # How often the stream has begun anew; tells a task that another has taken its place.
    _generation: int = 0
    # The task of a heartbeat that was stopped while its callable ran.
    _last_beat: asyncio.Task[Any] | None = None
    # The task of a heartbeat whose event is an object.
    _object_beat: asyncio.Task[None] | None = None
    _members: GroupMember | None = None
    _topics: tuple[str, ...] = ()
    # Whether it follows topics; also where there are none at the moment.
    _has_topics: bool = False
    _subscription: Subscription | None = None
    _writer: ObjectWriter | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_hooks(cls, SSEView)
        check_attributes(cls.__qualname__, {name: getattr(cls, name) for name in CHECKED})
        cls._handlers = handler_names(cls, SSEView)

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the view for ``urls.py``; ``initkwargs`` replace class attributes, as in Django.

        Raises ``ImproperlyConfigured`` for a wrong one, and for a view that has nothing to send.
        """
        check_attributes(cls.__qualname__, initkwargs)
        follows = initkwargs.get("topics", cls.topics) or defines(cls, SSEView, "get_topics")
        # One that has a connect() may have nothing but refusals in mind.
        if not (follows or defines(cls, SSEView, "stream") or defines(cls, SSEView, "connect")):
            raise ImproperlyConfigured(cls._nothing_to_send())
        return super().as_view(**initkwargs)

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> ViewHandler:
        """Return an ASGI application for a Channels ``URLRouter``: the handshake without middleware.

        ``scope["user"]`` and ``scope["session"]``, set by Channels' middleware, are honoured.
        """
        return ViewHandler(cls.as_view(**initkwargs))

    # What a subclass defines.

    @_coroutine_or_generator
    async def stream(self) -> None:
        """Send events; the stream ends when it returns. May be an async generator of objects.

        By default, it sends the ``snapshot()``, unless the client resumes, and follows the topics.
        An exception is logged with its traceback, and ends the response.
        """
        # Not called unless by super(): a stream that only follows needs no task while it does.
        if not self.resumed:
            await self._send_all(self.snapshot())
        await self.follow()

    @_coroutine_or_generator
    async def snapshot(self) -> None:
        """Send what a client needs before the topics' events make sense. May be an async generator.

        Called for fresh connections, and for clients that cannot resume, after an ``event:
        reset``. Do not give its events ids: a client that drops in the middle gets it again.
        """

    async def get_topics(self) -> Iterable[str]:
        """Return the topics of this connection; by default, ``topics``."""
        return self.topics

    async def get_groups(self) -> Iterable[str]:
        """Return the channel-layer groups of this connection; by default, ``groups``."""
        return self.groups

    def get_serializer_context(self) -> dict[str, Any]:
        """Return the context that serializers are bound with, as in DRF."""
        return {"request": self.request, "view": self}

    def get_renderer(self) -> BaseRenderer:
        """Return the renderer of this connection."""
        own: Any = self.renderer_class
        return (
            default_renderer_class()() if isinstance(own, FromSettings) else self.renderer_class()
        )

    # What a stream has at hand.

    @property
    def last_event_id(self) -> str | None:
        """The id of the last event that a reconnecting client has seen, or ``None``.

        The header ``Last-Event-ID`` (WHATWG HTML, 9.2.4). Where there is none, the query parameter
        of polyfills that send no header, ``lastEventId`` in any spelling; else ``last_event_id``,
        which is a page's.
        """
        header = self.request.META.get("HTTP_LAST_EVENT_ID")
        if header is not None:
            # Browsers send UTF-8; Django reads every header as Latin-1.
            return str(header).encode("latin-1").decode("utf-8", "replace")
        return _queried_id(self.request.GET)

    def serialize(self, obj: Any) -> str:
        """Return ``obj`` as the text of an event's ``data``; override it to have it your way.

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

    async def send(
        self,
        data: Any = None,
        event: str | None = None,
        id: str | None = None,
        retry: int | timedelta | None = None,
        comments: str | None = None,
    ) -> None:
        """Send one event: an object, text, or a ``ServerSentEvent``.

        Events leave whole and in the order of each task's calls, also when several tasks send. It returns
        at once while the client keeps up, and waits while more than 64 KiB are on their way. The
        event leaves with all others of this turn of the event loop, in one piece.

        Raises ``StreamClosed`` after the stream's end, ``InvalidEvent`` for fields that cannot be
        sent, and ``SerializerNotFound``; nothing was sent then.
        """
        if type(data) is not str and is_proxy(data):
            data = await self._behind(data)
        if isinstance(data, ServerSentEvent):
            if not (event is None and id is None and retry is None and comments is None):
                raise TypeError(
                    "send() takes a ServerSentEvent alone: it has its own event, id, retry and "
                    "comments. Use dataclasses.replace() to change them."
                )
            data, event, id, retry, comments = (
                data.data,
                data.event,
                data.id,
                data.retry,
                data.comments,
            )
            if is_proxy(data):
                data = await self._behind(data)
        outbox = self._outbox
        if outbox is None or self.close_reason is not None or outbox.gone:
            raise StreamClosed(self._closed_text())
        wait = check_fields(data, event, id, retry, comments)
        if data is not None and not isinstance(data, str):
            if self.serialize_in_thread:
                data = await sync_to_async(self._serialized)(data)
            else:
                if isinstance(data, QuerySet):
                    data = await sync_to_async(evaluated)(data)
                data = self._serialized(data)
            if self.close_reason is not None or outbox.gone:
                # It ended meanwhile: nothing may follow the end of a response.
                raise StreamClosed(self._closed_text())
        outbox.put(encode_fields(data, event, id, wait, comments))
        counters.sent += 1
        if outbox.size >= HIGH_WATER:
            await outbox.drain()
            if outbox.gone:
                raise StreamClosed(self._closed_text())

    async def _behind(self, proxy: Any) -> Any:
        """Return the object that a proxy stands for; where to find it takes a query, in a thread."""
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

    async def follow(self) -> None:
        """Send the topics' events until the stream ends; does not return.

        Events published since the topics were subscribed, before ``stream()``, come first; those
        that a resuming client missed, before them. Cancelled, it may be called again, and goes on
        where it was. Raises ``ImproperlyConfigured`` for a view without topics, and
        ``RuntimeError`` where it is called while it runs.
        """
        if self._subscription is None:
            raise ImproperlyConfigured(
                f"{type(self).__qualname__} has no topics to follow: define `topics` or "
                "`async def get_topics(self)`."
            )
        try:
            await self._subscription.join()
        except HistoryLost:
            # More was published meanwhile than the broker keeps: the client starts anew.
            self.end("overflow")
        await asyncio.get_running_loop().create_future()

    def start_heartbeat(
        self, period: float | timedelta | Heartbeat | None = None, event: Any = None
    ) -> None:
        """Begin to beat, or beat differently from now on.

        Takes a ``Heartbeat``, or its ``period`` (seconds or a ``timedelta``; ``0`` is off) and
        ``event``; what is not given is the view's own, or the setting's where that is off. Raises
        ``ImproperlyConfigured`` for a wrong one, ``TypeError`` for a ``Heartbeat`` with an event
        beside it, and ``StreamClosed`` unless the stream is open.
        """
        if not self.is_open:
            raise StreamClosed(self._closed_text())
        if isinstance(period, Heartbeat):
            if event is not None:
                raise TypeError("start_heartbeat() takes a Heartbeat alone: it has its own event.")
            heartbeat = period
        else:
            # A view without one of its own begins with the setting's.
            own = self._own_heartbeat() or conf.heartbeat
            heartbeat = Heartbeat(
                own.period if period is None else period, own.event if event is None else event
            )
        self.stop_heartbeat()
        if heartbeat:
            loop = asyncio.get_running_loop()
            self._pulse = Pulse(heartbeat, self._on_beat, loop, self._context)

    def stop_heartbeat(self) -> None:
        """Beat no more; does nothing where there is no heartbeat."""
        pulse, self._pulse = self._pulse, None
        if pulse is not None:
            self._last_beat = pulse.stop() or self._last_beat

    # The way of a connection, as far as it is this view's.

    async def prepare(self) -> None:
        """Find what may be wrong before there is a response, so that it is a 500."""
        self._own_heartbeat()
        self._own_retry()
        if self.groups or defines(type(self), SSEView, "get_groups"):
            where = f"{type(self).__qualname__}.get_groups()"
            names = check_groups(where, await self.get_groups())
            if names:
                self._members = GroupMember(self.channel_layer_alias, names, self._on_message)
        if self.topics or defines(type(self), SSEView, "get_topics"):
            self._topics = self._checked(await self.get_topics())
            self._has_topics = True
        elif self._only_follows():
            raise ImproperlyConfigured(self._nothing_to_send())

    @classmethod
    def _nothing_to_send(cls) -> str:
        return f"{cls.__qualname__} must define `async def stream(self)`, or topics."

    def _checked(self, topics: Iterable[str]) -> tuple[str, ...]:
        given: Any = topics
        check_several_topics(f"{type(self).__qualname__}.get_topics()", given)
        if isinstance(given, Iterable) and not isinstance(given, bytes):
            given = tuple(given)
            if not given:
                return ()  # A user who follows nothing yet: nothing is published to the stream.
        try:
            return check_topics(given)
        except InvalidTopic as error:
            if not isinstance(error.topic, str) or not defines(type(self), SSEView, "get_topics"):
                raise
            # Made of what the client said, most likely: there is no such stream. The log tells.
            logger.warning("%s.get_topics(): %s", type(self).__qualname__, error)
            raise NotFound from error

    async def live(self, *, anew: bool = False) -> None:
        """Run ``stream()``, and see to it that its end is the connection's."""
        reason: str | None = "completed"
        mine = self._generation
        try:
            if not anew:
                if heartbeat := self._own_heartbeat():
                    self.start_heartbeat(heartbeat)
                await self.announce()
                if self._members is not None:
                    await self._members.join()
            if self._has_topics:
                await self._subscribe(anew=anew)
            if self._only_follows():
                await self._catch_up()
                reason = None  # The hub has it from here; no task waits beside it.
            else:
                await self._send_all(self.stream())
        except asyncio.CancelledError:
            if self._generation != mine:
                reason = None  # Another task has taken its place.
            elif self.close_reason is None:
                # Not by us: we name a reason first.
                reason = "error"
                logger.error(
                    "%s.stream() cancelled itself.",
                    type(self).__qualname__,
                    extra=self.log_extra(),
                )
            raise
        except Exception as error:
            if self._generation != mine and _only_closed(error):
                reason = None
            elif not _only_closed(error):
                reason = "error"
                logger.exception(
                    "%s.stream() failed.", type(self).__qualname__, extra=self.log_extra()
                )
                self.tell_failure(error)
            elif self._outbox is not None and self._outbox.gone:
                reason = "client"
        finally:
            if reason is not None:
                self.end(reason)

    def _only_follows(self) -> bool:
        return not defines(type(self), SSEView, "stream")

    async def _send_all(self, events: Any) -> None:
        if inspect.isasyncgen(events):
            async with aclosing(events):
                async for event in events:
                    await self.send(event)
        elif (returned := await events) is not None:
            raise TypeError(
                f"{type(self).__qualname__} returned {returned!r}, which is not sent: `yield` it, or "
                "`await self.send(…)`."
            )

    async def _subscribe(self, *, anew: bool) -> None:
        assert self._outbox is not None
        if self.close_reason is not None:
            # It ended before there was anything to leave, and nobody would leave the hub for us.
            raise StreamClosed(self._closed_text())
        if self._subscription is not None:
            self._subscription.close()
        self._subscription = Subscription(
            self._outbox,
            overflow=self.overflow,
            limit=conf.outbox_limit if self.outbox_limit is None else self.outbox_limit,
            on_overflow=partial(self.end, "overflow"),
            on_lost=self._start_anew,
        )
        seen = None if anew else self.last_event_id or None
        await self._subscription.open(self._topics, seen)
        self.subscribed = True
        self.resumed = self._subscription.resumed
        if anew or (seen is not None and not self.resumed):
            await self.send("{}", event="reset")

    async def _catch_up(self) -> None:
        """Bring the client up to the live flow, with a snapshot where it cannot resume."""
        assert self._subscription is not None
        if not self.resumed:
            await self._send_all(self.snapshot())
        try:
            await self._subscription.join()
        except HistoryLost:
            self._start_anew()

    def _start_anew(self) -> None:
        """Tell the client that events were lost, by ``reset`` and a snapshot, where we can."""
        if self.close_reason is not None:
            return
        if not self._only_follows():
            # Its own stream() is under way: the client comes back, and is told then.
            self.end("overflow")
            return
        previous = self._life
        self._generation += 1
        mine = self._generation
        # At once: nothing that is newer than what was lost may leave before the reset.
        if self._subscription is not None:
            self._subscription.close()

        async def again() -> None:
            if previous is not None:
                await stop(previous)
            # Unless events were lost once more meanwhile, and another task is about it.
            if self.close_reason is None and self._generation == mine:
                await self.live(anew=True)

        self._life = asyncio.get_running_loop().create_task(again(), context=self._context)

    def wind_up(self, reason: str) -> None:
        """Stop the heartbeat, and leave the hub."""
        self.stop_heartbeat()
        if self._subscription is not None:
            self._subscription.close(keep=reason not in {"client", "overflow"})

    def has_to_clean_up(self) -> bool:
        """Return whether there is anything to leave or to wait for, or a ``disconnect()`` to run."""
        return (
            self._members is not None
            or self._last_beat is not None
            or not (self._object_beat is None or self._object_beat.done())
            or defines(type(self), SSEView, "disconnect")
        )

    async def clean_up(self) -> None:
        """Leave the groups, run ``disconnect()``, and see the last heartbeat end."""
        if self._members is not None:
            await self._members.leave()
        try:
            await self.disconnect()
        except Exception as error:
            logger.exception(
                "%s.disconnect() failed.", type(self).__qualname__, extra=self.log_extra()
            )
            self.tell_failure(error)
        if self._last_beat is not None:
            await settle(self._last_beat)
        if self._object_beat is not None:
            await stop(self._object_beat)

    def _let_go(self) -> None:
        super()._let_go()
        self._subscription = self._members = None

    @property
    def followed_topics(self) -> tuple[str, ...]:
        """The topics that the stream was subscribed to."""
        return self._topics

    @property
    def newest_id(self) -> str | None:
        """The id of the newest published event that was given to the connection."""
        return None if self._subscription is None else str(self._subscription.newest)

    async def _on_message(self, message: Mapping[str, Any]) -> None:
        """Hand a group's message to the handler that the view defines for its type."""
        name = str(message.get("type", "")).replace(".", "_")
        if name not in self._handlers:
            logger.error(
                "%s has no handler for channel-layer messages of the type %r: define "
                "`async def %s(self, message)`.",
                type(self).__qualname__,
                message.get("type"),
                name if name.isidentifier() else "…",
                extra=self.log_extra(),
            )
            return
        try:
            await getattr(self, name)(message)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not we are cancelled: what the handler waited for was.
            logger.exception(
                "%s.%s() failed.", type(self).__qualname__, name, extra=self.log_extra()
            )
            self.tell_failure(
                RuntimeError(f"{name}() was cancelled.").with_traceback(error.__traceback__)
            )
            self.end("error")
        except Exception as error:
            if not _only_closed(error):
                logger.exception(
                    "%s.%s() failed.", type(self).__qualname__, name, extra=self.log_extra()
                )
                self.tell_failure(error)
                self.end("error")

    def _on_beat(self, beat: bytes | ServerSentEvent) -> None:
        self.notice_loss()
        outbox = self._outbox
        # A connection that takes nothing needs no sign of life, and its memory is bounded.
        if outbox is None or outbox.blocked or self.close_reason is not None:
            return
        if isinstance(beat, bytes):
            outbox.put(beat)
        elif beat.data is None or isinstance(beat.data, str):
            outbox.put(beat.encode())
        elif self._object_beat is None or self._object_beat.done():
            # By the way of send(), which may take a thread; the next beat waits for this one.
            self._object_beat = asyncio.get_running_loop().create_task(
                self._send_beat(beat), context=self._context
            )

    async def _send_beat(self, beat: ServerSentEvent) -> None:
        try:
            with suppress(StreamClosed):
                await self.send(beat)
        except Exception:
            logger.exception(
                "The heartbeat of %s failed.", type(self).__qualname__, extra=self.log_extra()
            )

    def _own_heartbeat(self) -> Heartbeat:
        own = self.heartbeat
        if isinstance(own, FromSettings):
            return conf.heartbeat
        return Heartbeat(None) if own is None else own

    def _closed_text(self) -> str:
        name = type(self).__qualname__
        if self._outbox is None:
            return f"{name} cannot send yet: its stream has not begun. Send in stream()."
        return f"{name} cannot send any more: its stream has ended ({self.close_reason})."


def _queried_id(query: Mapping[str, str]) -> str | None:
    # A polyfill adds its own to an address that may have the page's already, which is older.
    for name, value in query.items():
        if value and name != _PAGES_OWN and _letters(name) == "lasteventid":
            return value
    return query.get(_PAGES_OWN)


def _letters(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


def _only_closed(error: BaseException) -> bool:
    """Return whether an exception tells of nothing but the stream's end, also from a TaskGroup."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_only_closed, error.exceptions))
    return isinstance(error, StreamClosed)
