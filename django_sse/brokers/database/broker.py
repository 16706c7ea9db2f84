"""The broker for any number of processes, in the project's own database.

An event that is published in a transaction is written in it, so both are stored, or neither. Such an
event gets its id after the commit: sequences of a database do not follow the order of commits, so a
listener that has seen 7 could see 6 afterwards. A short transaction under one lock numbers what is
committed, in one order for all processes, and wakes the listeners up. The publisher lets it run
right after its commit; where the publisher died, the next listener that looks does.

No lock is held while a project's transaction is open. (The other known way, to deliver only what is
older than the oldest open transaction by ``pg_snapshot_xmin()``, delays all events for as long as
any transaction of the database is open.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import Any

from django.core.checks import CheckMessage, Warning  # noqa: A004
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import on_commit

from django_sse.brokers import options as read
from django_sse.brokers.base import Broker, EventId, Message
from django_sse.brokers.presence import Attended, Change, Departure, Presence
from django_sse.exceptions import BrokerError, PublishFailed

from . import presence, store
from .clerk import Clerk
from .connections import close, patiently
from .known import Known
from .listener import DatabaseListener, Source
from .postgresql import is_psycopg3
from .store import Draft, Limits
from .tables import check_vendor, create_tables, in_words, missing_tables
from .writer import Job, Writer

logger = logging.getLogger("django_sse")

#: Seconds for which a commit waits until its events are numbered. Where that takes longer, a
#: listener does it.
NUMBER_SECONDS = 2.0


class DatabaseBroker(Broker):
    """Orders, stores and distributes events through a database of ``DATABASES``.

    Options:

    - ``USING``: the alias of the database (``"default"``);
    - ``HISTORY``: how many events can be replayed per topic (1000);
    - ``MAX_AGE``: for how many seconds events can be replayed (86400);
    - ``LISTEN``: the alias over which PostgreSQL wakes this process up (that of ``USING``;
      ``None`` for polling);
    - ``POLL``: the seconds between two looks at the table where nothing wakes the process up (0.1).

    In a transaction of that database, ``publish()`` writes the event in the transaction. Outside of
    one, and from ``apublish()``, a thread of the process writes it over a connection of its own,
    together with other events that wait.
    """

    def __init__(self, location: str = "", options: Mapping[str, Any] | None = None) -> None:
        """Make a broker without connecting; raise ``ImproperlyConfigured`` for wrong settings."""
        if location:
            raise ImproperlyConfigured(
                'DJANGO_SSE["BROKER"]["LOCATION"] must be empty for DatabaseBroker, got '
                f'{location!r}. Name a database of DATABASES in "OPTIONS": {{"USING": …}}.'
            )
        options = options or {}
        read.refuse_unknown(options, {"USING", "HISTORY", "MAX_AGE", "LISTEN", "POLL"})
        self._alias = _alias(options, "USING", DEFAULT_DB_ALIAS)
        max_age = int(read.seconds(options, "MAX_AGE", 86_400) * 1000)
        self._limits = Limits(read.whole_number(options, "HISTORY", 1000), max_age)
        self._poll = read.seconds(options, "POLL", 0.1)
        self._listen: str | None = self._alias
        if "LISTEN" in options:
            listen = options["LISTEN"]
            self._listen = None if listen is None else _alias(options, "LISTEN", "")
        self._known = Known()
        self._lock = threading.Lock()
        self._writer: tuple[int, Writer] | None = None
        self._listeners: weakref.WeakSet[DatabaseListener] = weakref.WeakSet()
        self._clerk = Clerk(lambda: self._source().connect())

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
        """Store the event in a transaction of its own; return the event's id.

        Raises ``PublishFailed`` after ``timeout`` seconds, or when the database refuses the event.
        Within the transaction of Django's ``TestCase``, which is never committed, the event is
        stored in it.
        """
        event = store.draft(topics, head, tail, key, exclude, idempotency_key)
        test = self._test_connection()
        if test is not None:
            try:
                [number] = store.write(test, [event], 0, self._limits.max_age).numbers
            except Error as error:
                text = in_words(error, self._alias)
                raise PublishFailed(
                    f"{self} did not take the event: {text}", may_be_stored=False
                ) from error
            return store.id_of(number)
        job = self._submit(event, timeout)
        try:
            return _id(job.future.result(timeout))
        except FutureTimeoutError as error:
            failure = job.give_up(self._alias)
            if (it := connections[self._alias]).vendor == "sqlite" and it.in_atomic_block:
                failure.add_note(
                    "SQLite has one writer at a time, and that is the transaction around this "
                    "publish(). Without on_commit=False, the event is stored in it."
                )
            raise failure from error

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
        job = self._submit(store.draft(topics, head, tail, key, exclude, idempotency_key), timeout)
        try:
            async with asyncio.timeout(timeout):
                return _id(await asyncio.wrap_future(job.future))
        except TimeoutError as error:
            raise job.give_up(self._alias) from error

    def publish_in_transaction(
        self,
        using: str,
        topics: Sequence[str],
        head: bytes,
        tail: bytes = b"",
        key: str | None = None,
        *,
        idempotency_key: str | None = None,
        exclude: str | None = None,
    ) -> bool:
        """Store the event in the open transaction of the database ``using``, if that is the broker's.

        The event gets its id after the commit. Raises ``PublishFailed`` when the database refuses
        the event; the transaction can then only be rolled back, to a savepoint at least.
        """
        if using != self._alias:
            return False
        try:
            event = store.draft(topics, head, tail, key, exclude, idempotency_key)
            store.put(connections[using], event)
        except Error as error:
            raise PublishFailed(
                f"{self} did not take the event: {in_words(error, using)}", may_be_stored=False
            ) from error
        waiting = connections[using].run_on_commit
        if not any(entry[1] == self._number_committed for entry in waiting):
            on_commit(self._number_committed, using=using, robust=True)
        return True

    def latest_id(self, *, timeout: float) -> EventId:
        """Return the newest id over all topics, asked over the thread's own connection of Django."""
        if _on_event_loop():
            # Django refuses to ask a database there.
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(self._latest_id).result()
        try:
            at = self._source(timeout).position(connections[self._alias])
        except Error as error:
            raise BrokerError(f"{self} cannot be asked: {in_words(error, self._alias)}") from error
        return store.id_of(at.last)

    async def alatest_id(self, *, timeout: float) -> EventId:
        """Do the same as ``latest_id()`` from a coroutine, over a connection of its own."""
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.to_thread(self._latest_id)
        except (Error, TimeoutError) as error:
            raise BrokerError(f"{self} cannot be asked: {in_words(error, self._alias)}") from error

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
        """Record which users are present, in a thread's transaction; number the joins and leaves."""

        def run(connection: BaseDatabaseWrapper) -> Attended:
            attended, published = patiently(
                lambda: presence.attend(
                    connection, holder, changes, departures, lease=lease, grace=grace
                ),
                timeout,
            )
            if published:
                self._number_pending()
            return attended

        try:
            async with asyncio.timeout(timeout):
                # The last call for a holder is the last use of the connection, as far as we know.
                return await self._clerk.run(run, last=not lease)
        except (Error, TimeoutError) as error:
            text = f"{self} did not take note of who is present: {in_words(error, self._alias)}"
            raise BrokerError(text) from error

    def presence(self, topic: str, *, timeout: float) -> Presence:
        """Return the users in a topic, asked over the thread's own connection of Django."""
        try:
            connection = connections[self._alias]
            return patiently(lambda: presence.present(connection, topic), timeout)
        except Error as error:
            raise BrokerError(f"{self} cannot be asked: {in_words(error, self._alias)}") from error

    async def apresence(self, topic: str, *, timeout: float) -> Presence:
        """Do the same as ``presence()`` from a coroutine, over a connection of its own."""
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.to_thread(self._presence, topic, timeout)
        except (Error, TimeoutError) as error:
            raise BrokerError(f"{self} cannot be asked: {in_words(error, self._alias)}") from error

    def listen(
        self,
        deliver: Callable[[Message], None],
        lost: Callable[[Collection[str]], None],
    ) -> DatabaseListener:
        """Return a listener for the running event loop. Does not connect yet."""
        listener = DatabaseListener(self._source(), deliver, lost)
        self._listeners.add(listener)
        return listener

    def close(self) -> None:
        """Write what waits, and close the connection that writes. Safe from any thread."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None and writer[0] == os.getpid():
            writer[1].close()
        self._clerk.close()

    def prepare_database(self, using: str) -> bool:
        """Make the tables that are missing, after ``migrate``; return whether there were any."""
        connection = connections[using]
        if using != self._alias or not missing_tables(connection):
            return False
        create_tables(connection)
        return True

    def problems(self, *, timeout: float) -> list[str]:
        """Say which tables are missing; raise ``BrokerError`` where the database cannot be asked."""
        try:
            missing = missing_tables(connections[self._alias])
        except Error as error:
            raise BrokerError(f"{self} cannot be asked: {in_words(error, self._alias)}") from error
        if not missing:
            return []
        return [
            (
                f"{self} has no table {', '.join(missing)}: nothing can be published. Run "
                f"manage.py migrate --database {self._alias}."
            )
        ]

    @classmethod
    def check(cls, location: str, options: Mapping[str, Any]) -> list[CheckMessage]:
        """Return the system checks' messages for these settings; does not connect."""
        found = super().check(location, options)
        if found:
            return found
        connection = connections[options.get("USING", DEFAULT_DB_ALIAS)]
        init = str(connection.settings_dict["OPTIONS"].get("init_command", ""))
        if connection.vendor == "sqlite" and "wal" not in init.lower():
            found.append(
                Warning(
                    f"DATABASES[{connection.alias!r}] is SQLite without write-ahead logging: those "
                    "who read and those who publish wait for each other.",
                    hint='Set "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL;", '
                    '"transaction_mode": "IMMEDIATE"}.',
                    id="django_sse.W006",
                )
            )
        if connection.alias != DEFAULT_DB_ALIAS:
            found.append(
                Warning(
                    f"Events are stored in the database {connection.alias!r}: those that are "
                    f"published in a transaction of {DEFAULT_DB_ALIAS!r} are sent after its commit, "
                    "and may be lost between the two.",
                    hint=f"Publish with using={connection.alias!r} what changes there, or silence "
                    "this check.",
                    id="django_sse.W007",
                )
            )
        return found

    def __str__(self) -> str:
        """Return the database's alias."""
        return f"The database {self._alias!r}"

    def _submit(self, event: Draft | None, timeout: float) -> Job:
        # Under the lock, so that close() does not end the writer's thread before it has the job.
        with self._lock:
            # A forked child has no thread of its parent.
            if self._writer is None or self._writer[0] != os.getpid():
                writer = Writer(self._alias, self._limits, self._known, self._wrote)
                self._writer = os.getpid(), writer
            return self._writer[1].submit(event, timeout)

    def _wrote(self) -> None:
        for listener in tuple(self._listeners):
            listener.wake()

    def _source(self, patience: float = NUMBER_SECONDS) -> Source:
        # An older driver cannot be told of notifications.
        notifies = connections[self._alias].vendor == "postgresql" and is_psycopg3()
        listen = self._listen if notifies else None
        number = partial(self._number_pending, min(patience, NUMBER_SECONDS))
        return Source(self._alias, listen, self._poll, self._limits, self._known, number)

    def _number_pending(self, patience: float = NUMBER_SECONDS) -> None:
        """Number the committed events, for a reader. If that fails, a listener retries later."""
        try:
            self._number(patience)
        except PublishFailed as error:
            logger.debug("Events were not numbered: %s", error)

    def _number_committed(self) -> None:
        """Number the events of a transaction that was committed."""
        try:
            self._number(NUMBER_SECONDS)
        except PublishFailed:
            # They are stored. A listener numbers them, or the next publisher.
            logger.warning("Events that were committed are not numbered yet.", exc_info=True)

    def _number(self, patience: float) -> None:
        """Number the committed events; let an empty database begin an epoch."""
        test = self._test_connection()
        if test is not None:
            store.write(test, [], 0, self._limits.max_age)
            return
        job = self._submit(None, patience)
        try:
            job.future.result(patience)
        except FutureTimeoutError as error:
            raise job.give_up(self._alias) from error

    def _latest_id(self) -> EventId:
        source = self._source()
        connection = source.connect()
        try:
            return store.id_of(source.position(connection).last)
        finally:
            close(connection)

    def _presence(self, topic: str, timeout: float) -> Presence:
        connection = self._source().connect()
        try:
            return patiently(lambda: presence.present(connection, topic), timeout)
        finally:
            close(connection)

    def _test_connection(self) -> BaseDatabaseWrapper | None:
        """Return the connection where it is in the transaction of a ``TestCase``, else ``None``."""
        connection = connections[self._alias]
        blocks = connection.atomic_blocks
        if blocks and all(getattr(block, "_from_testcase", False) for block in blocks):
            return connection
        return None


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _id(given: EventId | None) -> EventId:
    assert given is not None
    return given


def _alias(options: Mapping[str, Any], name: str, default: str) -> str:
    """Return an option that names a database; raise ``ImproperlyConfigured`` for another value."""
    alias = options.get(name, default)
    if not isinstance(alias, str) or alias not in connections.databases:
        raise ImproperlyConfigured(
            f'DJANGO_SSE["BROKER"]["OPTIONS"][{name!r}] must be one of DATABASES '
            f"({', '.join(sorted(connections.databases))}), got {alias!r}."
        )
    check_vendor(connections[alias])
    return alias
