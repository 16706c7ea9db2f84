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
import random
from collections.abc import Iterable

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_sse.brokers.database.connections import close, listen, own_connection, transaction
from django_sse.brokers.database.postgresql import is_psycopg3
from django_sse.brokers.database.thread import DatabaseThread
from django_sse.exceptions import SSEError
from django_sse.topics.hub import Hub

from . import change_table
from .changes import publish_record

logger = logging.getLogger("django_sse")

#: Seconds between two looks at the table if nothing notifies, and up to half as much again.
LOOK_SECONDS = 2.0
#: Seconds until a database that is read-only is asked again whether it still is.
STANDBY_SECONDS = 30.0


class Relay(DatabaseThread):
    """Takes rows out of the table of one database, and publishes what they say."""

    def __init__(self, alias: str, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with ``start()``."""
        super().__init__(f"django_sse changes of {alias}")
        self.alias = alias
        #: Set after the first look, whether it succeeded or not.
        self.first_look_done = asyncio.Event()
        #: The groups of rows that need the relay.
        self.users: set[object] = set()
        self._loop = loop

    def _report(self, error: Exception) -> None:
        if not isinstance(error, Error | SSEError):
            # Without this line, all streams would silently get no more changes.
            logger.error(
                "Changes of the database %r cannot be published.", self.alias, exc_info=error
            )
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

    def _watch(self) -> None:
        connection = own_connection(self.alias)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_is_in_recovery()")
                [is_standby] = cursor.fetchone()
            if is_standby:
                self._note_look()
                self._wait(None, STANDBY_SECONDS)
                return
            listening = connection if is_psycopg3() else None
            if listening is not None:
                listen(listening, change_table.CHANNEL, self._hear)
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
                    self._wait(listening, LOOK_SECONDS * random.uniform(1, 1.5))  # noqa: S311
        finally:
            # Streams that wait for the first look begin without it if it fails.
            self._note_look()
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
            relay = Relay(alias, asyncio.get_running_loop())
            relay.start()
            # Only now, since start() raises where the system has no more threads. Later streams
            # would wait without end for a relay that does not run.
            relays[alias] = relay
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
