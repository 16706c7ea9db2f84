"""From the broker's listener to the connections that follow topics.

There is one hub for each event loop. Connections that follow the same topics form a *cohort*. The
hub joins the events of one turn of the loop with those that came while it rested, and encodes them
once. It writes the same bytes to all connections of the cohort, from one callback.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context
from typing import Any, NamedTuple

from django_sse.brokers import get_broker
from django_sse.brokers.base import LAST, Broker, EventId, Listener, Message
from django_sse.connection.roster import roster

from .attendance import close_idle_register
from .backlog import Item
from .cohort import CHUNK, Cohort, Follower
from .orders import CONTROL, newest_order, obey
from .pages import Pages, Piece

logger = logging.getLogger("django_sse")

#: The longest rest of the hub after it has written, in seconds. Without this bound, a process that
#: was stopped while it wrote would rest for as long as it had been stopped.
LONGEST_REST = 0.1
#: Seconds from the last follower's leaving until the hub closes its listener.
LINGER = 10.0
#: The longest time, in seconds, that new streams wait until the process hears orders to all
#: streams.
HEED_SECONDS = 1.0


class Hub:
    """Subscribes to the topics that connections follow, and hands each message to its cohorts, in
    order.

    All methods belong to the hub's event loop.
    """

    def __init__(self, broker: Broker, loop: asyncio.AbstractEventLoop) -> None:
        """Make the broker's listener for ``loop``."""
        self.broker = broker
        self.listener: Listener = broker.listen(self.deliver, self._lost)
        self._loop = loop
        self._cohorts: dict[frozenset[str], Cohort] = {}
        self._by_topic: dict[str, list[Cohort]] = {}
        self._subscribed: set[str] = set()
        self._wanted: set[str] = set()
        self._dirty: list[Cohort] = []
        self._scheduled = False
        # A moment in the loop's time.
        self._rests_until = 0.0
        # Seconds spent on writing since the last rest, and the most events that were joined.
        self._spent = 0.0
        self._joined = 0
        # Held while the listener subscribes or unsubscribes: both wait for the broker, and an
        # unsubscription that overtook a later subscription would leave its followers without
        # events.
        self._lock = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None
        self._heeding: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closer: asyncio.Task[None] | None = None
        # How many blocks need the listener: handshakes whose streams are not in the roster yet, and
        # questions to the broker.
        self._holds = 0
        self._opened = self._heeded = loop.time()
        self.closed = False
        #: Objects that other modules keep for as long as the hub lives, by a name of their choice.
        self.attached: dict[str, Any] = {}
        #: Functions of other modules that are called before the listener is closed.
        self.closers: list[Callable[[], Coroutine[Any, Any, None]]] = []

    def add(self, follower: Follower, topics: frozenset[str]) -> Cohort:
        """Put a connection into its cohort, which holds messages for it from now on."""
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
        """Take a connection out, and unsubscribe from topics that no connection follows any more."""
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
        """Subscribe to topics; return when no message of theirs can be missed any more.

        Waits for as long as the broker is away.
        """
        if self._subscribed.issuperset(topics):
            return
        self._wanted.update(topics)
        async with self._lock:
            if not self._subscribed.issuperset(topics):
                # Subscribe also to what other streams wait for. After a restart, thousands of them
                # come at once, and one request to the broker for each would take too long.
                new, self._wanted = self._wanted - self._subscribed, set()
                await self.listener.subscribe(new | (set(topics) - self._subscribed))
                self._subscribed |= new | set(topics)

    async def replay(self, cohort: Cohort, after: EventId, limit: int) -> list[Piece]:
        """Return a page of a cohort's stored messages, as ``Listener.replay()`` finds them.

        The cohort must be subscribed. Connections that ask for the same before the cohort's next
        message share what one of them has read.
        """
        if cohort.pages is None:
            cohort.pages = Pages(self._loop)
        return await cohort.pages.get(
            (after, limit), lambda: self.listener.replay(cohort.topics, after, limit)
        )

    def flush(self) -> None:
        """Write the messages that were delivered since the last writing.

        Then the hub rests for as long as the writing took, ``LONGEST_REST`` at most, and joins the
        events that arrive meanwhile, up to ``CHUNK``. Under load, each client so gets fewer and
        larger chunks, and half of the loop's time is left to other work. The rest is shorter where
        few events were joined, and half as long after a single one: events that come one at a time
        need not wait for each other.
        """
        self._scheduled = False
        dirty, self._dirty = self._dirty, []
        for cohort in dirty:
            cohort.dirty = False
            self._write(cohort)
        rest = self._spent * (1 - 0.5 / max(self._joined, 1))
        self._rests_until = self._loop.time() + min(rest, LONGEST_REST)
        self._spent, self._joined = 0.0, 0

    def _write(self, cohort: Cohort) -> None:
        began = self._loop.time()
        self._joined = max(self._joined, len(cohort.batch))
        try:
            cohort.flush()
        except Exception:
            # Catch the error here, so that the cohorts after this one still get their messages.
            logger.exception("Writing what was published failed.")
        self._spent += self._loop.time() - began

    async def aclose(self) -> None:
        """Close the listener. The next follower gets a new hub."""
        self._retire()
        for task in (self._sweeper, self._heeding):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        for close in self.closers:
            await close()
        await self.listener.close()

    def _retire(self) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        if _hubs.get(self._loop) is self:
            del _hubs[self._loop]

    def heed(self) -> None:
        """Begin to hear orders to all streams; until ``LINGER`` seconds after the last stream."""
        if not self.hears_orders and not _runs(self._heeding):
            self._heeding = self._loop.create_task(self._heed(), context=Context())
        self._heeded = self._loop.time()
        self.let_go()

    @property
    def hears_orders(self) -> bool:
        """Whether orders to all streams arrive here."""
        return CONTROL in self._subscribed

    @asynccontextmanager
    async def heeding(self) -> AsyncIterator[None]:
        """Hear orders to all streams within the block, in which a handshake admits a stream.

        The first streams of a process wait here until the process hears orders, so that no order is
        missed that comes while a stream is authenticated. They wait for ``HEED_SECONDS`` at most:
        while the broker is away, no order can be given.
        """
        self._holds += 1
        try:
            self.heed()
            if not self.hears_orders and self._heeding is not None:
                left = self._opened + HEED_SECONDS - self._loop.time()
                if left > 0:
                    await asyncio.wait([self._heeding], timeout=left)
            yield
        finally:
            self._holds -= 1

    async def _heed(self) -> None:
        try:
            await self.subscribe([CONTROL])
        except Exception:
            logger.exception("This process cannot receive orders to end streams.")

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep the listener open within the block, which asks it something."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self.let_go()

    @property
    def unused(self) -> bool:
        """Whether nothing follows a topic, and neither a stream nor a question needs the hub."""
        # A stream in its handshake has no loop yet; it may get this one.
        return not (
            self._cohorts
            or self._holds
            or any(stream.event_loop in (self._loop, None) for stream in roster.streams())
        )

    def let_go(self) -> None:
        """Close the listener in ``LINGER`` seconds, unless there are followers or streams by then."""
        if self._timer is None and not self._cohorts and not self.closed:
            self._timer = self._loop.call_later(LINGER, self._expire, context=Context())

    def deliver(self, message: Message) -> None:
        """Put a message into the batches of the cohorts that follow one of its topics."""
        if CONTROL in message.topics:
            obey(message, self._loop)
            return
        item: Item | None = None
        for topic in message.topics:
            # Iterate over a copy. A connection that overflows in _write() leaves, and its cohort
            # may leave the list with it; without the copy, the loop would skip the next cohort.
            for cohort in tuple(self._by_topic.get(topic, ())):
                if cohort.last is message:
                    continue  # The cohort follows several topics of the message, and has it already.
                cohort.last = message
                cohort.pages = None
                if item is None:
                    item = (message, message.encode())
                if not cohort.dirty:
                    cohort.dirty = True
                    self._dirty.append(cohort)
                if message.exclude is not None:
                    cohort.excludes = True
                if message.key == LAST:
                    cohort.ends = True
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
                cohort.pages = None
                for follower in cohort.everyone():
                    follower.lose()

    async def _sweep(self) -> None:
        try:
            async with self._lock:
                # Look again after each request, for topics whose last follower left meanwhile.
                while unused := self._subscribed.difference(self._by_topic, [CONTROL]):
                    self._subscribed -= unused
                    await self.listener.unsubscribe(unused)
        except Exception:
            logger.exception("A broker's listener could not unsubscribe.")

    def _expire(self) -> None:
        self._timer = None
        rest = self._heeded + LINGER - self._loop.time()
        if not self.unused:
            self.let_go()
        elif rest > 0:
            # Each handshake would make a new timer, where heed() moved it.
            self._timer = self._loop.call_later(rest, self._expire, context=Context())
        elif not self.closed:
            # Retire now. Before the task has its first turn, a new follower may come, and needs a
            # new hub.
            self._retire()
            # A task without a reference may be collected while it runs.
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
        # Where a test has replaced the broker, the old hub goes on for its followers.
        hub = _hubs[loop] = Hub(broker, loop)
    return hub


class Heard(NamedTuple):
    """A hub that hears orders to end streams, and the number of the newest one."""

    hub: Hub
    order: int


def hearing() -> Heard | None:
    """Return the hub of the running event loop if it hears orders already."""
    hub = _hubs.get(asyncio.get_running_loop())
    return Heard(hub, newest_order()) if hub is not None and hub.hears_orders else None


async def close_idle_hub() -> None:
    """Close the hub of the running event loop if it has no streams; for tests, which end their loop."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is not None and not any(
        stream.event_loop in (loop, None) for stream in roster.streams()
    ):
        await close_idle_register()
        await hub.aclose()


async def close_unused_hub() -> None:
    """Close the hub of the running event loop now if nothing needs it, since the loop may end soon."""
    hub = _hubs.get(asyncio.get_running_loop())
    if hub is not None and hub.unused:
        await hub.aclose()
