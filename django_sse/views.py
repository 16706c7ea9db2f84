"""``SSEView``: one instance for each connection, from its handshake to its end."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured

from .asgi import ViewHandler
from .connection.stream import defines
from .exceptions import is_only_closed
from .handshake.attributes import CHECKED, check_attributes, check_hooks
from .handshake.request import last_event_id
from .monitoring.reports import log_error, tell_test
from .session import Session
from .streams.following import Following
from .streams.groups import Grouped, handler_names
from .streams.heartbeats import Beating
from .streams.sending import T, coroutine_or_generator
from .topics import attendance
from .topics.declarations import Declaration, declaring
from .topics.exclusion import client_of
from .topics.presence import attending, check_events_of_presence


class SSEView(Session, Following[T], Beating[T], Grouped):
    """A stream of events: routed with ``sse_path()``, one instance for each connection.

    Any policy attribute and hook of DRF's ``APIView`` applies to the handshake. Subclasses define
    ``stream()``, and may define ``connect()``, ``disconnect()``, ``get_groups()`` and handlers of
    channel-layer messages; or ``topics`` or ``get_topics()``, and ``snapshot()``.

    Each base class has the attributes of one ability: ``Session`` (``retry``, ``max_duration``, …),
    ``Sending`` (``serializer_classes``, …), ``Following`` (``topics``, ``overflow``, …),
    ``Beating`` (``heartbeat``) and ``Grouped`` (``groups``).
    """

    # The class of this package from which a project's view is made: its own names are no hooks of a
    # project, and no group's message reaches them.
    _base: ClassVar[type[SSEView]]

    def __init_subclass__(cls, *, base: bool = False, **kwargs: Any) -> None:
        """Check the attributes and hooks of a subclass; raise ``ImproperlyConfigured`` for wrong ones.

        ``base`` says that it is a class of this package.
        """
        super().__init_subclass__(**kwargs)
        if base:
            cls._base = cls
        check_hooks(cls, cls._base)
        check_attributes(
            cls.__qualname__, {it: getattr(cls, it) for it in CHECKED if hasattr(cls, it)}
        )
        cls._handlers = handler_names(cls, cls._base)
        cls._declaration = None
        if cls.events is not None and not hasattr(cls.events, "__get__"):
            cls._declaration = Declaration(cls.__qualname__, cls.events)
            declaring.add(cls)
        if cls.presence or defines(cls, SSEView, "get_presence"):
            check_events_of_presence(cls.__qualname__, cls._declaration)
            attending.add(cls)

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the view for ``urls.py``; ``initkwargs`` replace class attributes, as in Django.

        Raises ``ImproperlyConfigured`` for a wrong one, and for a view that has nothing to send.
        """
        check_attributes(cls.__qualname__, initkwargs)
        follows = initkwargs.get("topics", cls.topics) or defines(cls, SSEView, "get_topics")
        # A view that defines connect() alone may be meant to refuse every request.
        if not (follows or defines(cls, SSEView, "stream") or defines(cls, SSEView, "connect")):
            raise ImproperlyConfigured(cls._nothing_to_send())
        return super().as_view(**initkwargs)

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> ViewHandler:
        """Return an ASGI application for a Channels ``URLRouter``: the handshake without
        middleware.

        ``scope["user"]`` and ``scope["session"]``, set by Channels' middleware, are honoured.
        """
        return ViewHandler(cls.as_view(**initkwargs))

    @coroutine_or_generator
    async def stream(self) -> None:
        """Send events; the stream ends when it returns. May be an async generator of objects.

        By default, it sends the ``snapshot()``, unless the client resumes, and follows the topics.
        An exception is logged with its traceback, and ends the response.
        """
        # Only a subclass calls this, by super(). A stream that only follows needs no task for it.
        if not (self.resumed or self._rewinds):
            await self._send_all(self.snapshot())
        await self.follow()

    @property
    def last_event_id(self) -> str | None:
        """The id of the last event that a reconnecting client has seen, or ``None``.

        The header ``Last-Event-ID`` (WHATWG HTML, 9.2.4). Where there is none, the query parameter
        ``lastEventId`` in any spelling, of polyfills that send no header; else ``last_event_id``,
        which is a page's.
        """
        return last_event_id(self.request)

    # The way of a connection, as far as it is this view's.

    async def prepare(self) -> None:
        """Find what may be wrong before there is a response, so that it is a 500."""
        self._own_heartbeat()
        self._own_retry()
        await self._prepare_groups()
        await self._prepare_topics()
        self._hold_to_declarations(self._topics)
        if not self._has_topics and self._only_follows():
            raise ImproperlyConfigured(self._nothing_to_send())

    async def live(self, *, anew: bool = False) -> None:
        """Run ``stream()``, and end the connection when it ends."""
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
                # From here on, the hub sends the events, and no task waits.
                reason = self._life = None
            else:
                await self._send_all(self.stream())
        except asyncio.CancelledError:
            if self._generation != mine:
                reason = None  # Another task has replaced this one.
            elif self.close_reason is None:
                # We name a reason before we cancel, so stream() itself was the one.
                reason = "error"
                log_error(self, "%s.stream() cancelled itself.")
            raise
        except Exception as error:
            if self._generation != mine and is_only_closed(error):
                reason = None
            elif not is_only_closed(error):
                reason = "error"
                log_error(self, "%s.stream() failed.", error=error)
                tell_test(self, error)
            elif self._outbox is not None and self._outbox.gone:
                reason = "client"
        finally:
            if reason is not None:
                self.end(reason)

    def wind_up(self, reason: str) -> None:
        """Stop the heartbeat, and leave the hub."""
        self.stop_heartbeat()
        attendance.leave(self)
        if self._subscription is not None:
            self._subscription.close(keep=reason not in {"client", "overflow"})

    def has_to_clean_up(self) -> bool:
        """Return whether there is anything to leave or to wait for, or a ``disconnect()`` to run."""
        return (
            self._members is not None
            or self._beats_still
            or defines(type(self), SSEView, "disconnect")
        )

    async def clean_up(self) -> None:
        """Leave the groups, run ``disconnect()``, and wait for the last heartbeat's end."""
        if self._members is not None:
            await self._members.leave()
        try:
            await self.disconnect()
        except Exception as error:
            log_error(self, "%s.disconnect() failed.", error=error)
            tell_test(self, error)
        await self._let_beats_end()

    def _let_go(self) -> None:
        super()._let_go()
        if self._subscription is not None:
            self._subscription = None
        if self._members is not None:
            self._members = None

    def _its_client(self) -> str | None:
        return client_of(self.request)

    def _only_follows(self) -> bool:
        return not defines(type(self), SSEView, "stream")

    @classmethod
    def _nothing_to_send(cls) -> str:
        return f"{cls.__qualname__} must define `async def stream(self)`, or topics."


SSEView._base = SSEView
