"""The listener of one event loop: what it has subscribed, and what it delivers and replays."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from django_sse.brokers.base import EventId, Listener, Message
from django_sse.exceptions import BrokerError, HistoryLost

from . import origins, store
from .connections import close, own_connection
from .known import Known
from .store import Limits, Position
from .tables import in_words
from .watcher import Watcher

logger = logging.getLogger("django_sse")

#: Seconds between two tries where the database is away.
PAUSE = 0.3
#: How many threads of a listener read for clients, and seconds after which they close what they do
#: not use.
READERS = 2
IDLE_SECONDS = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """The settings that all listeners of a broker share: the database ``alias``, and how it is asked.

    ``listen`` is the alias of the database that wakes listeners up, or ``None``; ``poll`` is in
    seconds. ``number_pending`` lets the broker number what is committed, and waits for it.
    """

    alias: str
    listen: str | None
    poll: float
    limits: Limits
    known: Known
    number_pending: Callable[[], None]

    def connect(self) -> BaseDatabaseWrapper:
        """Return a connection for reading; let tables that are elsewhere begin an epoch first."""
        connection = own_connection(self.alias)
        try:
            connection.ensure_connection()
            if origins.is_elsewhere(connection):
                self.number_pending()
        except BaseException:
            close(connection)
            raise
        return connection

    def position(self, connection: BaseDatabaseWrapper) -> Position:
        """Return where the data begins and ends; let an empty database begin an epoch first."""
        at = store.position(connection)
        if at is None:
            self.number_pending()
            at = store.position(connection)
        if at is None:
            raise BrokerError(f"The database {self.alias!r} takes no events.")
        return at


class DatabaseListener(Listener):
    """Delivers what a thread, the ``Watcher``, finds in the table of events."""

    def __init__(
        self,
        source: Source,
        deliver: Callable[[Message], None],
        lost: Callable[[Collection[str]], None],
    ) -> None:
        """Belong to the running event loop; the first subscription starts the thread."""
        self._source = source
        self._deliver = deliver
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        # For each topic, the newest number when it was subscribed.
        self._topics: dict[str, int] = {}
        # Every event up to this number was taken from the watcher.
        self._taken = 0
        self._subscribing = asyncio.Lock()
        self._watcher: Watcher | None = None
        self._queries = _Queries(source)
        self._closed = False

    async def subscribe(self, topics: Collection[str]) -> None:
        """Start to deliver the messages of these topics. Raises ``BrokerError`` after ``close()``."""
        self._check_open()
        # One at a time: a second call for the same topic must not return before the first.
        async with self._subscribing:
            new = [topic for topic in topics if topic not in self._topics]
            if not new:
                return
            at = await self._queries.run(self._source.position)
            self._check_open()
            if self._watcher is None:
                self._taken = at.last
                self._watcher = Watcher(self._source, at, self)
                self._watcher.start()
            # What was taken while the number was read was published before this call returns.
            self._topics.update(dict.fromkeys(new, max(at.last, self._taken)))

    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Stop to deliver the messages of these topics."""
        for topic in topics:
            self._topics.pop(topic, None)

    async def replay(
        self, topics: Collection[str], after: EventId, limit: int | None = None
    ) -> list[Message]:
        """Return the stored messages after an id. Raises ``HistoryLost`` where some are missing."""
        return await self._queries.run(partial(self._replay, sorted(topics), after, limit))

    async def newest(
        self, topics: Collection[str], count: int, *, per_key: bool = False
    ) -> list[Message]:
        """Return the newest stored messages."""
        names = sorted(topics)
        limits = self._source.limits
        return await self._queries.run(
            lambda connection: store.newest(connection, names, count, limits, per_key=per_key)
        )

    async def latest_id(self) -> EventId:
        """Return the newest id over all topics; waits for as long as the database is away."""
        return store.id_of((await self._queries.run(self._source.position)).last)

    async def close(self) -> None:
        """End the thread, and close the connections."""
        self._closed = True
        self._topics.clear()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
            await asyncio.get_running_loop().run_in_executor(None, watcher.join, 5)
        await self._queries.close()

    def wake(self) -> None:
        """Let the thread look for events now; from any thread."""
        watcher = self._watcher
        if watcher is not None:
            watcher.wake()

    def hand_over(
        self, messages: Sequence[Message], upto: int, lost: Collection[str] | None
    ) -> bool:
        """Deliver messages on the event loop, and wait for that; for the watcher's thread.

        First come the topics of which events were ``lost``; ``None`` are all. Returns False where
        the event loop or the listener is closed.
        """
        done = threading.Event()
        try:
            self._loop.call_soon_threadsafe(
                self._take, messages, upto, lost, done, context=Context()
            )
        except RuntimeError:
            return False
        while not done.wait(1.0):
            if self._closed or self._loop.is_closed():
                return False
        return not self._closed

    def subscribed(self) -> list[str]:
        """Return the topics of this moment; from any thread."""
        return list(self._topics)

    def _take(
        self,
        messages: Sequence[Message],
        upto: int,
        lost: Collection[str] | None,
        done: threading.Event,
    ) -> None:
        try:
            gone = self._topics.keys() if lost is None else self._topics.keys() & set(lost)
            if gone:
                logger.warning("Events of %d topics were lost in the database.", len(gone))
                self._call(self._lost, frozenset(gone))
            for message in messages:
                number = store.number_of(message.id)
                self._taken = number
                # Look the topics up for each message: delivering one may unsubscribe topics.
                if any(
                    (since := self._topics.get(topic)) is not None and number > since
                    for topic in message.topics
                ):
                    self._call(self._deliver, message)
            self._taken = max(self._taken, upto)
        finally:
            done.set()

    def _call(self, callback: Callable[[Any], None], argument: Any) -> None:
        # If delivering one message fails, those after it are still delivered.
        try:
            callback(argument)
        except Exception:
            logger.exception("Delivering to %r failed.", callback)

    def _replay(
        self,
        topics: Sequence[str],
        after: EventId,
        limit: int | None,
        connection: BaseDatabaseWrapper,
    ) -> list[Message]:
        number = store.number_of(after)
        # Read it first: another thread may write a newer number meanwhile.
        known = self._source.known.number
        messages = store.replay(connection, topics, number, limit)
        at = self._source.position(connection)
        lost: Collection[str]
        if not at.epoch <= number <= at.last or known > at.last:
            lost = topics
        elif number == at.last and not messages:
            lost = ()  # However old the newest event is.
        elif number < store.now() - (
            self._source.limits.max_age + store.MEMORY << store.SEQUENCE_BITS
        ):
            lost = topics
        else:
            lost = store.lost_since(connection, topics, number, self._source.limits)
        if lost:
            raise HistoryLost(
                f"The database {self._source.alias!r} does not hold every event after {after} of "
                f"{', '.join(sorted(lost))}, or never gave that id."
            )
        return messages

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerError("The listener is closed.")


class _Queries:
    """A few threads that ask the database for the event loop, for as long as the database is away."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._idle: list[BaseDatabaseWrapper] = []
        self._used = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._away = False

    async def run(self, ask: Callable[[BaseDatabaseWrapper], T]) -> T:
        """Return what ``ask(connection)`` returns; try again where the database is away."""
        loop = asyncio.get_running_loop()
        while True:
            if self._closed:
                raise BrokerError("The listener is closed.")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(READERS, "django_sse database reader")
            if self._timer is None:
                self._timer = loop.call_later(IDLE_SECONDS, self._tidy, loop, context=Context())
            try:
                found = await loop.run_in_executor(self._pool, self._with_connection, ask)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self._closed or (task is not None and task.cancelling()):
                    raise
                # close() has cancelled a question that had no thread yet, and not the caller.
                raise BrokerError("The listener is closed.") from None
            except Error as error:
                log = logger.debug if self._away else logger.warning
                log(
                    "The database cannot be asked, trying again: %s",
                    in_words(error, self._source.alias),
                )
                self._away = True
            else:
                self._away = False
                return found
            await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        """Close the connections; what still runs closes its own."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.get_running_loop().run_in_executor(None, self._close_idle)

    def _with_connection(self, ask: Callable[[BaseDatabaseWrapper], T]) -> T:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._source.connect()
            connection.inc_thread_sharing()
        try:
            found = ask(connection)
        except HistoryLost:
            self._give_back(connection)
            raise
        except BaseException:
            close(connection)
            raise
        self._give_back(connection)
        return found

    def _give_back(self, connection: BaseDatabaseWrapper) -> None:
        self._used = time.monotonic()
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        close(connection)

    def _tidy(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the threads and connections that were not used for long."""
        self._timer = None
        if time.monotonic() - self._used < IDLE_SECONDS:
            self._timer = loop.call_later(IDLE_SECONDS, self._tidy, loop, context=Context())
        elif self._pool is not None:
            pool, self._pool = self._pool, None
            pool.submit(self._close_idle)
            pool.shutdown(wait=False)

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            close(connection)
