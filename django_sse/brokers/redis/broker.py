"""The broker for any number of processes and machines: Redis 6.2 or newer, or Valkey.

One script in Redis gives the id, stores the event in the stream of each topic, and publishes it.
The module ``script`` says what is stored, and how. So every process sees the same events in the
same order, and after an interruption it reads the events that it missed from the streams.

What Redis must be:

- *Persistent.* A restart (without AOF, or after a power cut) or a failover (replication is
  asynchronous) may lose events that were confirmed. The broker notices that as soon as a process
  that saw a newer id talks to Redis again: then resuming from an older id raises ``HistoryLost``,
  and no event is missing without notice. With ``appendonly yes``, a crash of Redis itself loses
  nothing.
- *Without eviction*: ``maxmemory-policy noeviction``. Where Redis has evicted keys, the broker does
  not take a topic of which Redis knows nothing for one without events: its clients get
  ``HistoryLost``. Topics that are not used any more expire by themselves.
- *One server.* A script uses the keys of all topics of an event, and the key of the ids. Redis
  Cluster does not allow that across slots, and is not supported. Sentinel is supported where
  ``LOCATION`` is an address that follows the master (a proxy or a DNS name): a connection to a
  server that became a replica is dropped when it first refuses to write, and the name is looked up
  again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from redis.exceptions import RedisError

from django_sse.brokers import options as read
from django_sse.brokers.base import PASSING, Broker, EventId, Message
from django_sse.brokers.presence import Attended, Change, Departure, Presence
from django_sse.exceptions import BrokerError, PublishFailed

from .attempts import AWAY, Attempt, in_words, pauses
from .connections import Connections, Connector
from .history import History, Known
from .listener import RedisListener
from .policy import eviction_text
from .presence import ATTEND, PRESENT, answer, arguments, found, keys_of
from .script import LATEST, PUBLISH, Names, Script, event_id, pack

#: Seconds for which a topic's newest id is remembered after its events have expired. A client that
#: reconnects later than that gets ``HistoryLost``, even if it missed no event.
MEMORY = 30 * 86_400

#: For topics of answers: how many events are stored, and for how many milliseconds they and their
#: newest id are.
_PASSING_LIMITS = (1, 60_000, 60_000)

_FAILURES = (*AWAY, RedisError)


class RedisBroker(Broker):
    """Orders, stores and distributes events through one Redis server.

    ``LOCATION`` is a ``redis://``, ``rediss://`` or ``unix://`` URL. Options:

    - ``HISTORY``: how many events are stored per topic (1000);
    - ``MAX_AGE``: for how many seconds they are stored at most (86400);
    - ``PREFIX``: the prefix of all keys and channels (``"sse:"``);
    - ``CLIENT``: a dict of further arguments for redis-py's connections (``ssl_ca_certs``,
      ``credential_provider``, ``client_name``, …).

    An event is never stored twice. If publishing fails before the event was handed over, it is
    tried again within the time limit. If it fails afterwards, it raises ``PublishFailed`` with
    ``may_be_stored=True``.
    """

    def __init__(self, location: str = "", options: Mapping[str, Any] | None = None) -> None:
        """Make a broker without connecting; raise ``ImproperlyConfigured`` for wrong settings."""
        options = options or {}
        read.refuse_unknown(options, {"HISTORY", "MAX_AGE", "PREFIX", "CLIENT"})
        prefix = options.get("PREFIX", "sse:")
        if not isinstance(prefix, str):
            raise ImproperlyConfigured(
                f'DJANGO_SSE["BROKER"]["OPTIONS"]["PREFIX"] must be a str, got {prefix!r}.'
            )
        client = options.get("CLIENT", {})
        if not isinstance(client, Mapping):
            raise ImproperlyConfigured(
                f'DJANGO_SSE["BROKER"]["OPTIONS"]["CLIENT"] must be a dict, got {client!r}.'
            )
        max_age = int(read.seconds(options, "MAX_AGE", 86_400) * 1000)
        memory = max_age + MEMORY * 1000
        self._limits = (read.whole_number(options, "HISTORY", 1000), max_age, memory)
        self._connector = Connector(location, client)
        self._connections = Connections(self._connector)
        self._names = Names(prefix, self._connector.database)
        self._known = Known()
        self._history = History(self._own_connections, self._names, self._known, memory)

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
        """Run the script that stores and distributes the event; return the event's id.

        Raises ``PublishFailed`` after ``timeout`` seconds, or when Redis refuses the event.
        """
        # With an idempotency key, a second run of the script does nothing.
        attempt = Attempt(once=idempotency_key is None)
        keys, args = self._publication(topics, head, tail, key, idempotency_key, exclude)
        try:
            return self._noted(self._run(PUBLISH, keys, args, attempt, timeout))
        except _FAILURES as error:
            raise self._publish_failed(error, attempt) from error

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
        """Do the same as ``publish()`` from a coroutine, without blocking its event loop."""
        attempt = Attempt(once=idempotency_key is None)
        keys, args = self._publication(topics, head, tail, key, idempotency_key, exclude)
        try:
            async with asyncio.timeout(timeout):
                return self._noted(await self._arun(PUBLISH, keys, args, attempt))
        except _FAILURES as error:
            raise self._publish_failed(error, attempt) from error

    def latest_id(self, *, timeout: float) -> EventId:
        """Return the newest id over all topics; raise ``BrokerError`` after ``timeout`` seconds."""
        attempt = Attempt()
        keys, args = [self._names.ids], [str(self._known.id)]
        try:
            return self._noted(self._run(LATEST, keys, args, attempt, timeout))
        except _FAILURES as error:
            raise self._untold("the newest id", error, attempt) from error

    async def alatest_id(self, *, timeout: float) -> EventId:
        """Do the same as ``latest_id()`` from a coroutine."""
        attempt = Attempt()
        keys, args = [self._names.ids], [str(self._known.id)]
        try:
            async with asyncio.timeout(timeout):
                return self._noted(await self._arun(LATEST, keys, args, attempt))
        except _FAILURES as error:
            raise self._untold("the newest id", error, attempt) from error

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
        """Run the script that records which users are present, and publishes joins and leaves."""
        args = arguments(self._names, self._limits, holder, changes, departures, lease, grace)
        attempt = Attempt()
        try:
            async with asyncio.timeout(timeout):
                reply = await self._arun(
                    ATTEND, [self._names.ids], [str(self._known.id), *args], attempt
                )
        except _FAILURES as error:
            text = f"{self} did not take note of who is present: {attempt.in_words(error)}"
            raise BrokerError(text) from error
        newest, attended = answer(reply)
        if newest:
            self._noted(newest)
        return attended

    def presence(self, topic: str, *, timeout: float) -> Presence:
        """Return the users in a topic; raise ``BrokerError`` after ``timeout`` seconds."""
        attempt = Attempt()
        try:
            return found(self._run(PRESENT, *keys_of(self._names, topic), attempt, timeout))
        except _FAILURES as error:
            raise self._untold("who is present", error, attempt) from error

    async def apresence(self, topic: str, *, timeout: float) -> Presence:
        """Do the same as ``presence()`` from a coroutine."""
        attempt = Attempt()
        try:
            async with asyncio.timeout(timeout):
                return found(await self._arun(PRESENT, *keys_of(self._names, topic), attempt))
        except _FAILURES as error:
            raise self._untold("who is present", error, attempt) from error

    def listen(
        self,
        deliver: Callable[[Message], None],
        lost: Callable[[Collection[str]], None],
    ) -> RedisListener:
        """Return a listener for the running event loop. Does not connect yet."""
        return RedisListener(
            self._connector,
            self._own_connections,
            self._names,
            self._history,
            self._known,
            deliver,
            lost,
        )

    def close(self) -> None:
        """Close the connections that publish and read. Safe from any thread."""
        self._own_connections().close()

    def _own_connections(self) -> Connections:
        """Return the connections of this process; a forked child begins without any."""
        if self._connections.pid != os.getpid():
            self._connections = Connections(self._connector, inherited=self._connections)
        return self._connections

    def _publication(
        self,
        topics: Sequence[str],
        head: bytes,
        tail: bytes,
        key: str | None,
        idempotency_key: str | None,
        exclude: str | None,
    ) -> tuple[list[str], list[Any]]:
        topics = list(dict.fromkeys(topics))
        channels = [self._names.channel(topic) for topic in topics]
        event = pack(topics, head, tail, key, exclude)
        passing = all(topic.startswith(PASSING) for topic in topics)
        limits = _PASSING_LIMITS if passing else self._limits
        keys = self._names.keys(topics)
        if idempotency_key is not None:
            keys.append(self._names.once(idempotency_key))
        return keys, [str(self._known.id), event, *limits, *channels]

    def _run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any],
        attempt: Attempt,
        timeout: float,
    ) -> Any:
        """Run a script until it succeeds, or ``timeout`` seconds have passed; return its reply."""
        deadline = time.monotonic() + timeout
        waits = pauses()
        while True:
            try:
                return self._own_connections().run(script, keys, args, attempt, deadline)
            except AWAY as error:
                attempt.cause = error
                pause = next(waits)
                if not attempt.may_go_on(error) or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)

    async def _arun(
        self, script: Script, keys: Sequence[str], args: Sequence[Any], attempt: Attempt
    ) -> Any:
        """Do the same as ``_run()`` on an event loop; the caller sets the time limit."""
        connections = self._own_connections().for_running_loop()
        waits = pauses()
        while True:
            try:
                return await connections.run(script, keys, args, attempt)
            except AWAY as error:
                attempt.cause = error
                if not attempt.may_go_on(error):
                    raise
            await asyncio.sleep(next(waits))

    def _noted(self, reply: bytes) -> EventId:
        given = event_id(reply)
        self._known.note(given)
        return given

    def problems(self, *, timeout: float) -> list[str]:
        """Say whether Redis evicts keys; raise ``BrokerError`` if it cannot be asked within ``timeout``."""
        try:
            policy = self._own_connections().policy(time.monotonic() + timeout)
        except _FAILURES as error:
            raise BrokerError(f"{self} cannot be asked: {in_words(error)}") from error
        return [] if policy is None else [eviction_text(self._connector.address, policy)]

    def __str__(self) -> str:
        """Return the address of Redis, without a password."""
        return f"Redis at {self._connector.address}"

    def _publish_failed(self, error: Exception, attempt: Attempt) -> PublishFailed:
        state = "it is not known whether it is stored" if attempt.sent else "it is not stored"
        said = "refused the event" if attempt.refused else "did not confirm the event in time"
        return PublishFailed(
            f"{self} {said}, {state}: {attempt.in_words(error)}", may_be_stored=attempt.sent
        )

    def _untold(self, what: str, error: Exception, attempt: Attempt) -> BrokerError:
        return BrokerError(f"{self} did not tell {what}: {attempt.in_words(error)}")
