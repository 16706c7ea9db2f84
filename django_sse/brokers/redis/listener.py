"""The listener of one event loop: one pub/sub connection, and the streams for the events that it missed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextvars import Context
from typing import Any

from redis.exceptions import ResponseError

from django_sse.brokers.base import FIRST, EventId, Listener, Message
from django_sse.exceptions import BrokerError, HistoryLost

from .attempts import AWAY, START_REDIS, in_words, is_refused, pauses
from .connections import Connections, Connector, LoopConnection
from .history import History, Known
from .policy import evicting_policy, eviction_text
from .script import Names, event_id, unpack

logger = logging.getLogger("django_sse")

#: Seconds between two pings over a connection, and for which it waits for each answer.
PING_SECONDS = 5.0
#: Seconds for connecting and for the confirmation of all subscriptions.
CONNECT_SECONDS = 10.0
#: After a connection that has held for this many seconds, the next attempts follow quickly again.
GOOD_SECONDS = 5.0


# Above all ids, so that no message of a topic is delivered before the topic has a baseline.
_NEVER = EventId(2**63, 0)


class _Topic:
    """A subscribed topic. ``baseline`` is the newest id at the time when Redis first confirmed it."""

    __slots__ = ("baseline", "held", "newest", "ready", "waiting")

    def __init__(self) -> None:
        self.baseline = _NEVER
        self.newest: EventId | None = None  # the newest id of its messages that came from Redis
        self.ready = asyncio.Event()
        self.waiting = 0  # how many calls of subscribe() wait for it
        self.held = False  # whether one of them has returned


class RedisListener(Listener):
    """Follows the channels of the subscribed topics over one connection.

    One task subscribes and unsubscribes the connection as ``_topics`` changes (``_talk()``), and
    another one reads from it (``_hear()``). When either fails, the supervisor closes the connection
    and begins again: it subscribes to everything, reads the missed messages from the streams, and
    goes on live. Messages that arrive during that wait in the socket, and are skipped if the
    streams had them already.
    """

    def __init__(
        self,
        connector: Connector,
        connections: Callable[[], Connections],
        names: Names,
        history: History,
        known: Known,
        deliver: Callable[[Message], None],
        lost: Callable[[Collection[str]], None],
    ) -> None:
        """Belong to the running event loop; connect with the first subscription."""
        self._connector = connector
        self._connections = connections
        self._names = names
        self._history = history
        self._known = known
        self._deliver = deliver
        self._lost = lost
        self._topics: dict[str, _Topic] = {}
        # Every message up to this id is delivered, or is below the baseline of its topic.
        self._processed = FIRST
        self._changed = asyncio.Event()
        self._pong: asyncio.Future[None] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._away = False
        self._closed = False

    async def subscribe(self, topics: Collection[str]) -> None:
        """Start to deliver the messages of these topics; return when Redis has confirmed them.

        Raises ``BrokerError`` where the listener is closed, or closed meanwhile.
        """
        if self._closed:
            raise BrokerError("The listener is closed.")
        if self._supervisor is None:
            # Use an empty context: the task outlives the stream that comes first, and would keep
            # its context.
            self._supervisor = asyncio.create_task(
                self._supervise(), name="django_sse Redis", context=Context()
            )
        mine: dict[str, _Topic] = {}
        for name in topics:
            if name not in self._topics:
                self._topics[name] = _Topic()
                self._changed.set()
            mine[name] = self._topics[name]
        for topic in mine.values():
            topic.waiting += 1
        returning = False
        try:
            for topic in mine.values():
                await topic.ready.wait()
            if self._closed:
                raise BrokerError("The listener was closed.")
            returning = True
        finally:
            for name, topic in mine.items():
                topic.waiting -= 1
                topic.held = topic.held or returning
                self._let_go(name, topic)

    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Stop to deliver the messages of these topics; never waits for Redis."""
        for name in topics:
            if topic := self._topics.get(name):
                topic.held = False
                self._let_go(name, topic)

    async def replay(
        self, topics: Collection[str], after: EventId, limit: int | None = None
    ) -> list[Message]:
        """Read stored messages from the streams; raise ``HistoryLost`` where some are missing."""
        reading = await self._history.read(dict.fromkeys(topics, after), limit)
        if reading.lost:
            raise HistoryLost(
                f"Redis does not hold every event after {after} of {', '.join(sorted(reading.lost))}, "
                "or never gave that id."
            )
        return reading.messages

    async def newest(
        self, topics: Collection[str], count: int, *, per_key: bool = False
    ) -> list[Message]:
        """Read the newest stored messages from the streams."""
        return await self._history.newest(topics, count, per_key=per_key)

    async def latest_id(self) -> EventId:
        """Return the newest id over all topics; waits for as long as Redis is away."""
        return await self._history.latest()

    async def close(self) -> None:
        """End the tasks, and close the connections of this event loop."""
        self._closed = True
        for topic in self._topics.values():
            topic.ready.set()
        self._topics.clear()
        if self._supervisor is not None:
            await _end(self._supervisor)
        await self._connections().for_running_loop().close_idle()

    def _let_go(self, name: str, topic: _Topic) -> None:
        if not topic.held and not topic.waiting and self._topics.get(name) is topic:
            del self._topics[name]
            self._changed.set()

    async def _supervise(self) -> None:
        """Connect again and again, for ever."""
        loop = asyncio.get_running_loop()
        waits = pauses()
        while True:
            began = loop.time()
            try:
                await self._follow()
            except AWAY as error:
                # Warn once each time that Redis goes away, and not for each attempt.
                log = logger.debug if self._away else logger.warning
                hint = f" {START_REDIS}" if is_refused(error) else ""
                log("Not connected to Redis, trying again: %s%s", in_words(error), hint)
                self._away = True
            except Exception:
                # Go on also after an unexpected error. Otherwise all streams would silently get
                # nothing any more.
                logger.exception("Listening to Redis failed, connecting again.")
            if loop.time() - began > GOOD_SECONDS:
                waits = pauses()
            await asyncio.sleep(next(waits))

    async def _follow(self) -> None:
        """Connect, catch up and stay live, until something fails."""
        connection = self._connector.make_for_loop()
        try:
            # The topics of this moment. The first round of _talk() subscribes to those that are
            # added while this connects.
            topics = dict(self._topics)
            subscribed = set(topics)
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()
                await self._look_at_policy(connection)
                await self._send(connection, "SUBSCRIBE", subscribed)
                await connection.send_command("PING")
                # Redis answers in order. Skip messages that come before its answer: the streams,
                # which are read afterwards, have them.
                while not _is_pong(await connection.read_response()):
                    pass
            await self._catch_up(topics)
            if self._away:
                self._away = False
                logger.info("Connected to Redis again.")
            await _first_to_fail(self._hear(connection), self._talk(connection, subscribed))
        finally:
            await connection.disconnect(nowait=True)

    async def _look_at_policy(self, connection: LoopConnection) -> None:
        """Log a warning, once for each process, if Redis may evict events."""
        if self._connector.looked_at:
            return
        await connection.send_command("INFO", "memory")
        try:
            policy = evicting_policy(await connection.read_response())
        except ResponseError:
            policy = None  # The user may not run INFO.
        self._connector.looked_at = True
        if policy is not None:
            logger.warning("%s", eviction_text(self._connector.address, policy))

    async def _catch_up(self, subscribed: Mapping[str, _Topic]) -> None:
        """Deliver the messages that were missed; those that are published meanwhile wait in the socket."""
        topics = {name: it for name, it in subscribed.items() if self._topics.get(name) is it}
        positions = {
            name: max(topic.baseline, self._processed)
            for name, topic in topics.items()
            if topic.ready.is_set()
        }
        heard = {name: it.newest for name, it in topics.items() if it.newest is not None}
        messages, lost, upto, fell_back = await self._history.read(positions, heard=heard)
        if fell_back:
            # Begin a new age, so that no client resumes from an older id: events after it may be
            # missing.
            upto = await self._history.begin_age()
            messages, lost = [], set(positions)
            for topic in topics.values():
                topic.newest = None
        if lost := lost & self._topics.keys():
            logger.warning("Events of %d topics were lost while Redis was away.", len(lost))
            self._call(self._lost, frozenset(lost))
        for message in messages:
            self._process(message)
        self._processed = max(self._processed, upto)
        self._make_ready(topics.values(), upto)

    async def _hear(self, connection: LoopConnection) -> None:
        """Deliver the messages that come over the connection."""
        caught_up = False
        while True:
            reply = await connection.read_response()
            if _is_pong(reply):
                # Messages that the streams had, too, came before the answer to the first ping.
                caught_up = True
                if self._pong is not None and not self._pong.done():
                    self._pong.set_result(None)
            elif reply[0] == b"message":
                text, _, event = reply[2].partition(b"\n")
                try:
                    number = event_id(text)
                    message = unpack(number, event) if number > self._processed else None
                except (TypeError, ValueError):
                    logger.error("A message on the channel %r is not a valid event.", reply[1])
                    continue
                # A message of several topics comes once on each channel, with no other message
                # between.
                if message is not None:
                    self._process(message)
                elif number < self._processed and caught_up:
                    # Redis was emptied and its clock is behind. Connect again: catching up makes
                    # its ids rise above all those seen, and finds the topics that lost events.
                    raise OSError(f"Redis gave the id {number} after {self._processed}.")

    async def _talk(self, connection: LoopConnection, subscribed: set[str]) -> None:
        """Subscribe and unsubscribe what changed, and ping; each round is answered in time."""
        loop = asyncio.get_running_loop()
        while True:
            # The next round handles topics that are added while this one waits for Redis.
            self._changed.clear()
            wanted = set(self._topics)
            waiting = [topic for topic in self._topics.values() if not topic.ready.is_set()]
            self._pong = loop.create_future()
            async with asyncio.timeout(PING_SECONDS):
                await self._send(connection, "UNSUBSCRIBE", subscribed - wanted)
                await self._send(connection, "SUBSCRIBE", wanted - subscribed)
                await _send(connection, "PING")
                await self._pong
            subscribed = wanted
            if waiting:
                # Redis has confirmed the subscriptions before it gave this id, so all messages
                # above it come.
                self._make_ready(waiting, await self._history.latest())
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass  # nothing changed for long enough: ping, to see whether the connection still works

    async def _send(
        self, connection: LoopConnection, command: str, topics: Collection[str]
    ) -> None:
        if topics:
            await _send(connection, command, *(self._names.channel(name) for name in topics))

    def _make_ready(self, topics: Collection[_Topic], baseline: EventId) -> None:
        for topic in topics:
            if not topic.ready.is_set():
                topic.baseline = baseline
                topic.ready.set()

    def _process(self, message: Message) -> None:
        self._processed = message.id
        self._known.note(message.id)
        # A message that is still on its way from an earlier subscription is below the baseline.
        wanted = False
        for name in message.topics:
            topic = self._topics.get(name)
            if topic is not None and message.id > topic.baseline:
                topic.newest = message.id
                wanted = True
        if wanted:
            self._call(self._deliver, message)

    def _call(self, callback: Callable[[Any], None], argument: Any) -> None:
        # If delivering one message fails, those after it are still delivered.
        try:
            callback(argument)
        except Exception:
            logger.exception("Delivering to %r failed.", callback)


def _is_pong(reply: Any) -> bool:
    # A connection with subscriptions answers with an array, and one without them with a plain
    # string.
    return bool(reply == b"PONG" or reply[0] == b"pong")


async def _send(connection: LoopConnection, *command: str) -> None:
    # redis-py would silently connect again, without the subscriptions.
    if not connection.is_connected:
        raise ConnectionResetError("The connection is closed.")
    await connection.send_command(*command)


async def _first_to_fail(*coroutines: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()
    finally:
        for task in tasks:
            await _end(task)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
