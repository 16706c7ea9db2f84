"""The thread that publishes to all processes what triggers of PostgreSQL recorded.

Each event loop with streams has one for each database. A row of the table is taken out in a
transaction that commits after the broker has confirmed its message. So a change is published at
least once, whichever process dies. A change that is published twice is checked twice, and clients
see at most a second ``changed``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Iterable
from typing import Any

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_sse.brokers.database.connections import (
    close,
    listen,
    own_connection,
    readable,
    take_in,
    transaction,
)
from django_sse.brokers.database.postgresql import is_psycopg3
from django_sse.exceptions import SSEError
from django_sse.topics.hub import Hub

from . import change_table
from .changes import publish_record

logger = logging.getLogger("django_sse")

#: Seconds between two looks at the table if nothing notifies, and up to half as much again.
LOOK_SECONDS = 2.0
#: Seconds until a database that is read-only is asked again whether it still is.
STANDBY_SECONDS = 30.0
#: Seconds between two tries while the database or the broker is away.
PAUSES = (0.1, 2.0)


class Relay(threading.Thread):
    """Takes rows out of the table of one database, and publishes what they say."""

    def __init__(self, alias: str, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with ``start()``."""
        super().__init__(name=f"django_sse changes of {alias}", daemon=True)
        self.alias = alias
        #: Set after the first look, whether it succeeded or not.
        self.first_look_done = asyncio.Event()
        #: The groups of rows that need the relay.
        self.users: set[object] = set()
        self._loop = loop
        self._stopping = False
        self._away = False
        self._heard = False
        self._read_end, self._write_end = os.pipe()
        self._pipe_lock = threading.Lock()
        self._piped = True

    def stop(self) -> None:
        """End the thread soon."""
        self._stopping = True
        with self._pipe_lock:
            if self._piped:
                os.write(self._write_end, b"\0")

    def run(self) -> None:
        """Look until ``stop()``; connect again for as long as that takes."""
        pause = PAUSES[0]
        try:
            while not self._stopping:
                began = time.monotonic()
                try:
                    self._watch()
                except Exception as error:
                    self._report(error)
                self._note_look()
                if time.monotonic() - began > PAUSES[1]:
                    pause = PAUSES[0]
                if not self._stopping:
                    readable([self._read_end], pause)
                    pause = min(pause * 2, PAUSES[1])
        finally:
            with self._pipe_lock:
                self._piped = False
                os.close(self._read_end)
                os.close(self._write_end)

    def _report(self, error: Exception) -> None:
        if not isinstance(error, Error | SSEError):
            # Otherwise all streams would silently get nothing any more.
            logger.exception("Changes of the database %r cannot be published.", self.alias)
            return
        log = logger.debug if self._away else logger.warning
        text = f"{type(error).__name__}: {error}".strip()
        if "django_sse_change" in text:
            text += f". Make the table: manage.py migrate --database {self.alias}"
        log("Changes of the database %r wait, trying again: %s", self.alias, text)
        self._away = True

    def _note_look(self) -> None:
        with contextlib.suppress(RuntimeError):  # The loop may be closed.
            self._loop.call_soon_threadsafe(self.first_look_done.set)

    def _hear(self) -> None:
        self._heard = True

    def _watch(self) -> None:
        connection = own_connection(self.alias)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_is_in_recovery()")
                [is_standby] = cursor.fetchone()
            if is_standby:
                self._note_look()
                readable([self._read_end], STANDBY_SECONDS)
                return
            watched: list[Any] = [self._read_end]
            hears = is_psycopg3()
            if hears:
                listen(connection, change_table.CHANNEL, self._hear)
                watched.append(connection.connection)
            with transaction(connection):
                publish_all(change_table.take_old(connection))
            while not self._stopping:
                self._heard = False
                while self._relay(connection) and not self._stopping:
                    pass
                self._away = False
                self._note_look()
                # A notification that came during the look may be about a row that it did not see.
                # psycopg has read it already, so the connection does not wake this thread up.
                if not self._heard:
                    readable(watched, LOOK_SECONDS * random.uniform(1, 1.5))  # noqa: S311
                    if hears:
                        take_in(connection)
        finally:
            close(connection)

    @staticmethod
    def _relay(connection: BaseDatabaseWrapper) -> bool:
        """Publish some rows; return whether there may be more."""
        with transaction(connection):
            found = change_table.take(connection)
            publish_all(found)
        return len(found) == change_table.BATCH


def publish_all(found: Iterable[change_table.ChangeRecord]) -> None:
    """Publish what statements changed, in order."""
    for it in found:
        publish_record(it.model, it.payload)


def follow(hub: Hub, user: object, aliases: Iterable[str]) -> list[Relay]:
    """Return the relays of databases, for as long as ``user`` does not leave them."""
    if not change_table.covered:
        return []
    if "relays" not in hub.attached:
        hub.attached["relays"] = {}
        hub.closers.append(lambda: _end(hub))
    relays: dict[str, Relay] = hub.attached["relays"]
    found = []
    for alias in aliases:
        if connections[alias].vendor != "postgresql":
            continue
        relay = relays.get(alias)
        if relay is None:
            relay = relays[alias] = Relay(alias, asyncio.get_running_loop())
            relay.start()
        relay.users.add(user)
        found.append(relay)
    return found


def leave(hub: Hub, user: object) -> None:
    """Stop the relays that no group needs any more."""
    relays: dict[str, Relay] = hub.attached.get("relays", {})
    for alias, relay in list(relays.items()):
        relay.users.discard(user)
        if not relay.users:
            del relays[alias]
            relay.stop()


async def _end(hub: Hub) -> None:
    relays: dict[str, Relay] = hub.attached.pop("relays")
    for relay in relays.values():
        relay.stop()
    for relay in relays.values():
        await asyncio.to_thread(relay.join)
