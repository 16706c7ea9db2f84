"""Following topics: from the handshake's topics to the live flow, and anew where events were lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from rest_framework.exceptions import NotFound

from django_sse.brokers import get_broker
from django_sse.conf import conf
from django_sse.connection.stream import defines
from django_sse.connection.tasks import stop
from django_sse.connection.users import user_key
from django_sse.exceptions import HistoryLost, InvalidTopic, StreamClosed
from django_sse.topics import attendance
from django_sse.topics.backlog import Overflow
from django_sse.topics.declarations import Declaration
from django_sse.topics.presence import EVENTS
from django_sse.topics.publishing import check_topics
from django_sse.topics.subscription import Subscription

from .sending import Sending, T, coroutine_or_generator

logger = logging.getLogger("django_sse")


class Following(Sending[T]):
    """A stream that sends the events of its topics."""

    #: Topics whose events the stream sends, once it follows them.
    topics: ClassVar[Iterable[str]] = ()
    #: What happens when published events come faster than a client takes them: ``"close"``,
    #: ``"drop_oldest"`` or ``"latest"``.
    overflow: Overflow = "close"
    #: Bytes of published events that may wait for one client; by default, the setting's.
    outbox_limit: int | None = None
    #: How many of its topics' newest events a fresh client gets first, in the place of a snapshot.
    rewind: int = 0
    #: Whether an open stream counts as present in its topics, which get ``join`` and ``leave``.
    presence: bool = False
    #: Whether the topics are subscribed: no event that is published from then on is missed.
    subscribed: bool = False
    #: Whether the client resumes where it was; settled before ``stream()`` starts.
    resumed: bool = False

    _topics: tuple[str, ...] = ()
    # The id of the page that follows; it gets no event that excludes it.
    _client: str | None = None
    # Whether it follows topics; also where there are none at the moment.
    _has_topics: bool = False
    _subscription: Subscription | None = None
    # Whether the newest events take the place of the snapshot.
    _rewinds: bool = False
    # How often the stream has begun anew. A task sees by it that another one has replaced it.
    _generation: int = 0

    @property
    def last_event_id(self) -> str | None:
        """The id from which a reconnecting client resumes, or ``None``."""
        raise NotImplementedError

    async def get_topics(self) -> Iterable[str]:
        """Return the topics of this connection; by default, ``topics``."""
        return self.topics

    @coroutine_or_generator
    async def snapshot(self) -> None:
        """Send what a client needs before the topics' events make sense. May be an async generator.

        Called for fresh connections, and for clients that cannot resume, after an ``event:
        reset``. Do not give its events ids: a client that drops in the middle gets it again.
        """

    async def get_rewind(self) -> int:
        """Return how many of the newest events a fresh client gets first; by default, ``rewind``.

        They come from the broker's history, before those that are published from then on; with
        ``overflow = "latest"``, they are the newest of each ``key``. ``snapshot()`` is called where
        it is 0.
        """
        return self.rewind

    async def get_presence(self) -> bool | Iterable[str]:
        """Return whether this stream counts as present in its topics, or in which of them.

        By default, ``presence``. It is called once, when the topics are subscribed. Topics that the
        stream does not follow raise ``ImproperlyConfigured``.
        """
        return self.presence

    async def follow(self) -> None:
        """Send the topics' events until the stream ends; does not return.

        Events that a resuming client missed come first, then those published since the topics were
        subscribed, which is before ``stream()`` begins. After a cancellation it may be called
        again, and goes on where it was. Raises ``ImproperlyConfigured`` for a view without topics,
        and ``RuntimeError`` where it is called while it runs.
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

    @property
    def followed_topics(self) -> tuple[str, ...]:
        """The topics that the stream was subscribed to."""
        return self._topics

    @property
    def newest_id(self) -> str | None:
        """The id of the newest published event that was given to the connection."""
        return None if self._subscription is None else str(self._subscription.newest)

    def _resumes_after(self) -> str | None:
        """Return the id after which the client is to go on, or ``None`` for a fresh client."""
        return self.last_event_id or None

    def _its_client(self) -> str | None:
        """Return the id of the page that follows, or ``None``."""
        raise NotImplementedError

    def _only_follows(self) -> bool:
        """Return whether the view leaves ``stream()`` to us: then no task waits while it follows."""
        raise NotImplementedError

    async def _prepare_topics(self) -> None:
        if self.topics or defines(type(self), Following, "get_topics"):
            self._topics = self._checked(await self.get_topics())
            self._has_topics = True
            if self._may_be_present() and not (broker := get_broker()).keeps_presence():
                raise ImproperlyConfigured(broker.no_presence())
            if (client := self._its_client()) is not None:
                self._client = client

    def declarations(self, topics: Iterable[str]) -> tuple[Declaration, ...]:
        """Return what the view and these topics declare, with the events of presence."""
        held = super().declarations(topics)
        return (*held, EVENTS) if held and self._may_be_present() else held

    def _may_be_present(self) -> bool:
        # Do not ask a property without a request: it may answer yes. Nor look into vars(self), which
        # makes a dict for the stream.
        given: Any = type(self).presence
        if not hasattr(given, "__get__"):
            given = self.presence
        return bool(given) or defines(type(self), Following, "get_presence")

    async def _be_present(self) -> None:
        given = await self.get_presence()
        check_several_topics(f"{type(self).__qualname__}.get_presence()", given)
        topics = self._topics if given is True else tuple(given or ())
        if unknown := set(topics).difference(self._topics):
            raise ImproperlyConfigured(
                f"{type(self).__qualname__}.get_presence() returned {sorted(unknown)!r}, which the "
                "stream does not follow: return True, False, or some of its topics."
            )
        # The stream may have ended meanwhile. Then nothing would count it out any more.
        if self.close_reason is None:
            attendance.enter(self, topics, user_key(self.request.user))

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
            if not isinstance(error.topic, str) or not defines(type(self), Following, "get_topics"):
                raise
            # get_topics() most likely made the name of what the client sent. There is no such
            # stream for the client; the log has the reason.
            logger.warning("%s.get_topics(): %s", type(self).__qualname__, error)
            raise NotFound from error

    async def _subscribe(self, *, anew: bool) -> None:
        assert self._outbox is not None
        if self.close_reason is not None:
            # The stream ended before it was subscribed, and nothing would unsubscribe it later.
            raise StreamClosed(self._closed_text())
        if self._subscription is not None:
            self._subscription.close()
        self._subscription = Subscription(
            self._outbox,
            overflow=self.overflow,
            limit=conf.outbox_limit if self.outbox_limit is None else self.outbox_limit,
            client=self._client,
            owner=self,
        )
        seen = None if anew else self._resumes_after()
        rewind = await self.get_rewind()
        self._rewinds = rewind > 0
        await self._subscription.open(self._topics, seen, rewind)
        self.subscribed = True
        self.resumed = self._subscription.resumed
        if self._may_be_present():
            # Its own join comes after the subscription, so the client gets it.
            await self._be_present()
        if anew or (seen is not None and not self.resumed):
            await self.send("{}", event="reset")

    async def _catch_up(self) -> None:
        """Bring the client up to the live flow, with a snapshot where it cannot resume."""
        assert self._subscription is not None
        if not (self.resumed or self._rewinds):
            await self._send_all(self.snapshot())
        try:
            await self._subscription.join()
        except HistoryLost:
            self.start_anew()

    def start_anew(self) -> None:
        """Tell the client that events were lost: by ``reset`` and a snapshot, where that is possible."""
        if self.close_reason is not None:
            return
        if not self._only_follows():
            # The view's own stream() is under way. The client reconnects, and is told then.
            self.end("overflow")
            return
        previous = self._life
        self._generation += 1
        mine = self._generation
        # Close it now, so that nothing newer than the lost events leaves before the reset.
        if self._subscription is not None:
            self._subscription.close()

        async def again() -> None:
            if previous is not None:
                await stop(previous)
            # Events may have been lost once more meanwhile; then a newer task does this.
            if self.close_reason is None and self._generation == mine:
                await self.live(anew=True)

        self._life = asyncio.get_running_loop().create_task(again(), context=self._context)


def topics_of_class(view: Any) -> tuple[str, ...]:
    """Return the topics that a view names without a connection: not those of a property."""
    named: Any = getattr(type(view), "topics", ())
    return () if hasattr(named, "__get__") else tuple(view.topics)


def check_several_topics(where: str, topics: Any) -> None:
    """Raise ``ImproperlyConfigured`` for a string: iterated over, it would be a topic for each letter."""
    if isinstance(topics, str):
        raise ImproperlyConfigured(
            f"{where} must be a list of topics, got {topics!r}. Write [{topics!r}]."
        )
