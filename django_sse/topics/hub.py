"""From the listener of a process to the connections that follow its topics.

There is one hub for each event loop. Connections that follow the same topics form a *cohort*: what
is published to them in one turn of the loop, or while the hub rests, is encoded and joined once, and
the same bytes are written to all of them from one callback.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from contextvars import Context

from django_sse.brokers import get_broker
from django_sse.brokers.base import Broker, Listener, Message
from django_sse.connection.roster import roster

from .backlog import Item
from .cohort import CHUNK, Cohort, Follower
from .orders import CONTROL, obey

logger = logging.getLogger("django_sse")

#: Seconds for which the hub rests after it has written, at the most: a process may have been stopped
#: in the middle of it.
LONGEST_REST = 0.1
#: Seconds after the last follower left until the listener is closed.
LINGER = 10.0
#: Seconds for which streams wait, at the most, until orders to all streams are heard.
HEED_SECONDS = 1.0


class Hub:
    """Subscribes to what is followed, and hands each message to its cohorts, in order."""

    def __init__(self, broker: Broker, loop: asyncio.AbstractEventLoop) -> None:
        self.broker = broker
        self.listener: Listener = broker.listen(self._deliver, self._lost)
        self._loop = loop
        self._cohorts: dict[frozenset[str], Cohort] = {}
        self._by_topic: dict[str, list[Cohort]] = {}
        self._subscribed: set[str] = set()
        self._wanted: set[str] = set()
        self._dirty: list[Cohort] = []
        self._scheduled = False
        # In the loop's time; and the seconds that were spent on writing since the last rest.
        self._rests_until = 0.0
        self._spent = 0.0
        # Subscribing and unsubscribing wait for the broker, and must not overtake each other.
        self._lock = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None
        self._heeding: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closer: asyncio.Task[None] | None = None
        # Handshakes under way that are not in the roster yet.
        self._guests = 0
        self._opened = loop.time()
        self.closed = False

    def add(self, follower: Follower, topics: frozenset[str]) -> Cohort:
        """Put a connection into its cohort; messages are held for it from now on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        cohort = self._cohorts.get(topics)
        if cohort is None:
            cohort = self._cohorts[topics] = Cohort(topics)
            for topic in topics:
                self._by_topic.setdefault(topic, []).append(cohort)
        cohort.add(follower)
        return cohort

    def remove(self, follower: Follower, cohort: Cohort) -> None:
        """Take a connection out, and stop to listen to what nobody follows any more."""
        cohort.remove(follower)
        if not cohort.empty or self._cohorts.get(cohort.topics) is not cohort:
            return
        del self._cohorts[cohort.topics]
        for topic in cohort.topics:
            cohorts = self._by_topic[topic]
            cohorts.remove(cohort)
            if not cohorts:
                del self._by_topic[topic]
        if not _runs(self._sweeper) and not self.closed:
            self._sweeper = self._loop.create_task(self._sweep(), context=Context())
        self.let_go()

    async def subscribe(self, topics: Collection[str]) -> None:
        """Return when no message of these topics can be missed any more."""
        if self._subscribed.issuperset(topics):
            return
        self._wanted.update(topics)
        async with self._lock:
            if not self._subscribed.issuperset(topics):
                # With what others wait for: after a restart, thousands of streams come at once.
                new, self._wanted = self._wanted - self._subscribed, set()
                await self.listener.subscribe(new | (set(topics) - self._subscribed))
                self._subscribed |= new | set(topics)

    def flush(self) -> None:
        """Write what was delivered in this turn of the loop, and since the last writing.

        After it, the hub rests for as long as the writing took. What comes meanwhile is joined, up
        to ``CHUNK``: where events come faster than they can be written one by one, that makes fewer
        and larger writes of them, and leaves the loop's time to others.
        """
        self._scheduled = False
        dirty, self._dirty = self._dirty, []
        for cohort in dirty:
            cohort.dirty = False
            self._write(cohort)
        self._rests_until = self._loop.time() + min(self._spent, LONGEST_REST)
        self._spent = 0.0

    def _write(self, cohort: Cohort) -> None:
        began = self._loop.time()
        try:
            cohort.flush()
        except Exception:
            # Of this cohort alone: others wait for the same callback.
            logger.exception("Writing what was published failed.")
        self._spent += self._loop.time() - began

    async def aclose(self) -> None:
        """Close the listener. The next follower gets a new hub."""
        self._retire()
        for task in (self._sweeper, self._heeding):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self.listener.close()

    def _retire(self) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        if _hubs.get(self._loop) is self:
            del _hubs[self._loop]

    def heed(self) -> None:
        """Listen to what concerns all streams; until ``LINGER`` seconds after the last one."""
        if CONTROL not in self._subscribed and not _runs(self._heeding):
            self._heeding = self._loop.create_task(self._heed(), context=Context())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.let_go()

    @asynccontextmanager
    async def heeding(self) -> AsyncIterator[None]:
        """Hear orders to all streams within the block, in which a stream is let in.

        The first streams of a process wait for it as they enter, so that none misses an order that
        is given while it is authenticated; soon, even where the broker is away: nobody can give one
        then.
        """
        self._guests += 1
        try:
            self.heed()
            if CONTROL not in self._subscribed and self._heeding is not None:
                left = self._opened + HEED_SECONDS - self._loop.time()
                if left > 0:
                    await asyncio.wait([self._heeding], timeout=left)
            yield
        finally:
            self._guests -= 1

    async def _heed(self) -> None:
        try:
            await self.subscribe([CONTROL])
        except Exception:
            logger.exception("A process cannot hear what ends streams everywhere.")

    def let_go(self) -> None:
        """Close the listener in a while, unless there are followers or streams by then."""
        if self._timer is None and not self._cohorts and not self.closed:
            self._timer = self._loop.call_later(LINGER, self._expire, context=Context())

    def _deliver(self, message: Message) -> None:
        if CONTROL in message.topics:
            obey(message, self._loop)
            return
        item: Item | None = None
        for topic in message.topics:
            # A copy: who overflows meanwhile may take a cohort along, and another must not be
            # skipped for it.
            for cohort in tuple(self._by_topic.get(topic, ())):
                if cohort.last is message:
                    continue  # It follows several of the message's topics.
                cohort.last = message
                if item is None:
                    item = (message, message.encode())
                if not cohort.dirty:
                    cohort.dirty = True
                    self._dirty.append(cohort)
                cohort.batch.append(item)
                cohort.size += len(item[1])
                if cohort.size >= CHUNK:
                    self._write(cohort)
        if self._dirty and not self._scheduled:
            self._scheduled = True
            if self._rests_until > self._loop.time():
                self._loop.call_at(self._rests_until, self.flush)
            else:
                self._loop.call_soon(self.flush)

    def _lost(self, topics: Collection[str]) -> None:
        self.flush()
        for cohort in list(self._cohorts.values()):
            if not cohort.topics.isdisjoint(topics):
                for follower in cohort.everyone():
                    follower.lose()

    async def _sweep(self) -> None:
        try:
            async with self._lock:
                # Again, for those whose last follower leaves meanwhile.
                while unused := self._subscribed.difference(self._by_topic, [CONTROL]):
                    self._subscribed -= unused
                    await self.listener.unsubscribe(unused)
        except Exception:
            logger.exception("A broker's listener could not unsubscribe.")

    def _expire(self) -> None:
        self._timer = None
        # One in its handshake has no loop yet: it may be this one.
        if self._guests or any(
            stream.event_loop in (self._loop, None) for stream in roster.streams()
        ):
            self.let_go()
        elif not self._cohorts and not self.closed:
            # At once, so that nobody comes in before the task has its first turn.
            self._retire()
            # The reference keeps the task.
            self._closer = self._loop.create_task(self.aclose(), context=Context())


def _runs(task: asyncio.Task[None] | None) -> bool:
    return task is not None and not task.done()


_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}


def get_hub() -> Hub:
    """Return the hub of the running event loop, made when it is first needed."""
    loop = asyncio.get_running_loop()
    hub, broker = _hubs.get(loop), get_broker()
    if hub is None or hub.broker is not broker:
        for gone in [other for other in _hubs if other.is_closed()]:
            del _hubs[gone]
        # The hub of another broker, where a test has put one, lives on for its followers.
        hub = _hubs[loop] = Hub(broker, loop)
    return hub


async def close_idle_hub() -> None:
    """Close the running loop's hub if it has no streams; for tests, which end their loop."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is not None and not any(
        stream.event_loop in (loop, None) for stream in roster.streams()
    ):
        await hub.aclose()
