"""The broker of a single process. It keeps the history in bounded memory, and needs no server."""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_sse.exceptions import BrokerError, HistoryLost

from . import options as read
from .attendance import Attendance
from .base import FIRST, INTERNAL, PASSING, Broker, EventId, Listener, Message, newest_of
from .presence import Attended, Change, Departure, Presence
from .siblings import warn_of_siblings

logger = logging.getLogger("django_sse")

#: How many messages may wait for one event loop. A loop that is blocked until there are more gets
#: ``lost()``.
QUEUE_LIMIT = 100_000
#: For each topic that may have a history, the number of further topics whose newest id is
#: remembered.
REMEMBERED = 10


@dataclass(slots=True)
class _Log:
    """The stored messages of one topic, each with the (monotonic) time at which it came."""

    trimmed: EventId  # every message of the topic with a higher id is still stored
    messages: deque[tuple[float, Message]] = field(default_factory=deque)

    def let_go_oldest(self) -> None:
        self.trimmed = self.messages.popleft()[1].id


class MemoryBroker(Broker):
    """Orders, stores and distributes events within one process, for all its threads and event
    loops.

    Options: ``HISTORY``, how many events are stored per topic (1000); ``MAX_AGE``, for how many
    seconds they are stored at most (86400); ``TOPICS``, how many topics have a history (10000).
    With more topics, the one that was silent for longest loses its history.

    The broker remembers the newest ids of ``10 * TOPICS`` topics that have lost their history, so
    that a client which has seen such a topic's last event can still resume. With even more topics,
    resuming in one without a history may raise ``HistoryLost`` without need, for ids older than
    those forgotten.
    """

    def __init__(self, location: str = "", options: Mapping[str, Any] | None = None) -> None:
        """Make a broker without any events; raise ``ImproperlyConfigured`` for wrong options."""
        if location:
            raise ImproperlyConfigured(
                f'DJANGO_SSE["BROKER"]["LOCATION"] must be empty for MemoryBroker, got {location!r}. '
                'For Redis, set "BACKEND" to "django_sse.brokers.redis.RedisBroker".'
            )
        options = options or {}
        read.refuse_unknown(options, {"HISTORY", "MAX_AGE", "TOPICS"})
        self._history = read.whole_number(options, "HISTORY", 1000)
        self._max_age = read.seconds(options, "MAX_AGE", 86_400)
        self._max_topics = read.whole_number(options, "TOPICS", 10_000)
        # The lock guards everything below. It is held while a message is put into the listeners'
        # queues, so that each listener gets the messages of several threads in the order of their
        # ids.
        self._lock = threading.Lock()
        # Ids of a process that ran before are lower than this. Its events are gone.
        self._birth = self._last = EventId(_milliseconds(), 0)
        # In both, the topic that was silent for longest comes first.
        self._logs: OrderedDict[str, _Log] = OrderedDict()
        self._evicted: OrderedDict[str, EventId] = OrderedDict()
        # No event with a higher id belongs to a topic that is in neither of the two.
        self._forgotten = FIRST
        self._followers: dict[str, set[MemoryListener]] = {}
        # For each idempotency key, the (monotonic) time and the id of its event; the oldest first.
        self._once: OrderedDict[str, tuple[float, EventId]] = OrderedDict()
        self._attendance = Attendance(lambda topic, head: self._publish((topic,), head))

    def publish(
        self,
        topics: Sequence[str],
        head: bytes,
        tail: bytes = b"",
        key: str | None = None,
        *,
        timeout: float,
        idempotency_key: str | None = None,
        exclude: str | None = None,
    ) -> EventId:
        """Store the event and put it into the listeners' queues. Never waits and never fails."""
        topics = tuple(dict.fromkeys(topics))
        with self._lock:
            if idempotency_key is not None and (first := self._first(idempotency_key)) is not None:
                return first
            id = self._publish(topics, head, tail, key, exclude)
            if idempotency_key is not None:
                self._once[idempotency_key] = time.monotonic(), id
        return id

    async def apublish(
        self,
        topics: Sequence[str],
        head: bytes,
        tail: bytes = b"",
        key: str | None = None,
        *,
        timeout: float,
        idempotency_key: str | None = None,
        exclude: str | None = None,
    ) -> EventId:
        """Do the same as ``publish()``."""
        # This does not block the event loop: the lock is held for microseconds.
        return self.publish(
            topics,
            head,
            tail,
            key,
            timeout=timeout,
            idempotency_key=idempotency_key,
            exclude=exclude,
        )

    def latest_id(self, *, timeout: float = 0) -> EventId:
        """Return the newest id. Never waits."""
        return self._last

    async def alatest_id(self, *, timeout: float) -> EventId:
        """Return the newest id. Never waits."""
        return self._last

    def listen(
        self,
        deliver: Callable[[Message], None],
        lost: Callable[[Collection[str]], None],
    ) -> MemoryListener:
        """Return a listener for the running event loop."""
        return MemoryListener(self, deliver, lost)

    async def attend(
        self,
        holder: str,
        changes: Sequence[Change],
        departures: Sequence[Departure],
        *,
        lease: float,
        grace: float,
        timeout: float,
    ) -> Attended:
        """Take note of the present users of an event loop of this process. Never waits."""
        with self._lock:
            return self._attendance.attend(holder, changes, departures, lease=lease, grace=grace)

    def presence(self, topic: str, *, timeout: float = 0) -> Presence:
        """Return the users that are present in a topic, in this process. Never waits."""
        with self._lock:
            return self._attendance.presence(topic)

    async def apresence(self, topic: str, *, timeout: float = 0) -> Presence:
        """Do the same as ``presence()``."""
        return self.presence(topic)

    def close(self) -> None:
        """Do nothing: the broker has only memory."""

    def follow(self, listener: MemoryListener, topics: Collection[str]) -> EventId:
        """Put the messages of these topics into a listener's queue; return the newest id before them."""
        with self._lock:
            for topic in topics:
                self._followers.setdefault(topic, set()).add(listener)
            return self._last

    def unfollow(self, listener: MemoryListener, topics: Collection[str]) -> None:
        """Stop to put the messages of these topics into a listener's queue."""
        with self._lock:
            self._unfollow(listener, topics)

    def replay(
        self, topics: Collection[str], after: EventId, limit: int | None = None
    ) -> list[Message]:
        """Return the stored messages after an id, as ``Listener.replay()`` promises. Never waits."""
        with self._lock:
            if not self._birth <= after <= self._last:
                raise HistoryLost(f"The id {after} was not given by this process.")
            found: dict[EventId, Message] = {}
            for topic in topics:
                log = self._logs.get(topic)
                trimmed = self._trimmed(topic) if log is None else log.trimmed
                if trimmed > after:
                    raise HistoryLost(
                        f"Events of the topic {topic!r} after {after} are not held any more."
                    )
                for _, message in reversed(log.messages if log else ()):
                    if message.id <= after:
                        break
                    found[message.id] = message
        return [found[event_id] for event_id in sorted(found)[:limit]]

    def newest(self, topics: Collection[str], count: int, *, per_key: bool) -> list[Message]:
        """Return the newest messages, as ``Listener.newest()`` promises. Never waits."""
        with self._lock:
            logs = [
                [message for _, message in reversed(self._logs[topic].messages)]
                for topic in topics
                if topic in self._logs
            ]
        newest_first = heapq.merge(*logs, key=lambda message: message.id, reverse=True)
        return newest_of(newest_first, count, per_key=per_key)

    def _first(self, idempotency_key: str) -> EventId | None:
        """Return the id of the event that was published with a key; forget keys that are too old."""
        oldest = time.monotonic() - self._max_age
        while self._once:
            key, (came, _) = next(iter(self._once.items()))
            if came >= oldest and len(self._once) <= REMEMBERED * self._max_topics:
                break
            del self._once[key]
        found = self._once.get(idempotency_key)
        return None if found is None else found[1]

    def _publish(
        self,
        topics: tuple[str, ...],
        head: bytes,
        tail: bytes = b"",
        key: str | None = None,
        exclude: str | None = None,
    ) -> EventId:
        """Store and distribute an event; the lock is held."""
        message = Message(self._next_id(), topics, head, tail, key, exclude)
        self._store(message)
        for listener in set().union(*(self._followers.get(topic, ()) for topic in topics)):
            if not listener.put(message):
                self._drop(listener)
        return message.id

    def _next_id(self) -> EventId:
        now = _milliseconds()
        last = self._last
        # Ids rise also where the clock stands still or goes back.
        self._last = (
            EventId(now, 0)
            if now > last.milliseconds
            else last._replace(sequence=last.sequence + 1)
        )
        return self._last

    def _store(self, message: Message) -> None:
        now = time.monotonic()
        for topic in message.topics:
            if topic.startswith(PASSING):
                continue
            log = self._logs.get(topic)
            if log is None:
                log = self._logs[topic] = _Log(self._trimmed(topic))
                self._evicted.pop(topic, None)
            log.messages.append((now, message))
            while len(log.messages) > self._history or log.messages[0][0] < now - self._max_age:
                log.let_go_oldest()
            self._logs.move_to_end(topic)
        self._evict(now - self._max_age)

    def _evict(self, oldest: float) -> None:
        """Drop the history of topics without a message since ``oldest``, and of those above the limit."""
        while self._logs:
            topic, log = next(iter(self._logs.items()))
            newest, message = log.messages[-1]
            if newest >= oldest and len(self._logs) <= self._max_topics:
                break
            del self._logs[topic]
            self._evicted[topic] = message.id
            if len(self._evicted) > REMEMBERED * self._max_topics:
                _, trimmed = self._evicted.popitem(last=False)
                self._forgotten = max(self._forgotten, trimmed)

    def _trimmed(self, topic: str) -> EventId:
        return self._evicted.get(topic, self._forgotten)

    def _drop(self, listener: MemoryListener) -> None:
        self._unfollow(listener, list(self._followers))

    def _unfollow(self, listener: MemoryListener, topics: Collection[str]) -> None:
        for topic in topics:
            if followers := self._followers.get(topic):
                followers.discard(listener)
                if not followers:
                    del self._followers[topic]


class MemoryListener(Listener):
    """Hands messages that any thread publishes to the event loop on which the listener was made."""

    def __init__(
        self,
        broker: MemoryBroker,
        deliver: Callable[[Message], None],
        lost: Callable[[Collection[str]], None],
    ) -> None:
        """Belong to the running event loop; call ``deliver`` and ``lost`` there."""
        self._broker = broker
        self._deliver = deliver
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._closed = False
        # For each topic, the newest id at the time when it was subscribed.
        self._topics: dict[str, EventId] = {}
        # The lock guards these three, which publishing threads and _drain() use.
        self._lock = threading.Lock()
        self._waiting: deque[Message] = deque()
        self._overflowed = False
        self._scheduled = False

    def put(self, message: Message) -> bool:
        """Put a message into the queue, from any thread; return False when the event loop is
        closed.

        Only the first of many messages wakes the event loop.
        """
        with self._lock:
            if len(self._waiting) >= QUEUE_LIMIT:
                self._waiting.clear()
                self._overflowed = True
            self._waiting.append(message)
            if not self._scheduled:
                try:
                    # Use an empty context: the streams must not see the publisher's context
                    # variables.
                    self._loop.call_soon_threadsafe(self._drain, context=Context())
                except RuntimeError:
                    # The loop was closed without close() of this listener. Nothing listens any
                    # more.
                    return False
                self._scheduled = True
        return True

    async def subscribe(self, topics: Collection[str]) -> None:
        """Start to deliver the messages of these topics. Raises ``BrokerError`` after ``close()``."""
        if self._closed:
            raise BrokerError("The listener is closed.")
        new = [topic for topic in topics if topic not in self._topics]
        # A message that is published meanwhile has a higher id, and waits until this loop has its
        # next turn.
        self._topics.update(dict.fromkeys(new, self._broker.follow(self, new)))
        if any(not topic.startswith(INTERNAL) for topic in new):
            warn_of_siblings()

    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Stop to deliver the messages of these topics."""
        self._broker.unfollow(self, topics)
        for topic in topics:
            self._topics.pop(topic, None)

    async def replay(
        self, topics: Collection[str], after: EventId, limit: int | None = None
    ) -> list[Message]:
        """Return the stored messages after an id. Never waits."""
        return self._broker.replay(topics, after, limit)

    async def newest(
        self, topics: Collection[str], count: int, *, per_key: bool = False
    ) -> list[Message]:
        """Return the newest stored messages. Never waits."""
        return self._broker.newest(topics, count, per_key=per_key)

    async def latest_id(self) -> EventId:
        """Return the newest id. Never waits."""
        return self._broker.latest_id()

    async def close(self) -> None:
        """Unsubscribe from everything, and drop the messages that wait."""
        self._closed = True
        await self.unsubscribe(list(self._topics))
        with self._lock:
            self._waiting.clear()

    def _drain(self) -> None:
        with self._lock:
            messages, self._waiting = self._waiting, deque()
            overflowed, self._overflowed = self._overflowed, False
            self._scheduled = False
        if overflowed and self._topics:
            logger.warning("An event loop was blocked while %d events came.", QUEUE_LIMIT)
            self._call(self._lost, frozenset(self._topics))
        for message in messages:
            # Look the topics up for each message, since delivering one may unsubscribe topics. A
            # message from before a topic was subscribed (again) is not delivered for it.
            if any(
                (since := self._topics.get(topic)) is not None and message.id > since
                for topic in message.topics
            ):
                self._call(self._deliver, message)

    def _call(self, callback: Callable[[Any], None], argument: Any) -> None:
        # If delivering one message fails, those after it are still delivered.
        try:
            callback(argument)
        except Exception:
            logger.exception("Delivering to %r failed.", callback)


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
