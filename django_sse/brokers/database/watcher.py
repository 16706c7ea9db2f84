"""The thread that looks for new events, and is woken up by the database where that can be."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from django_sse.brokers.base import Message

from . import store, trimming
from .connections import close, listen, own_connection, take_in
from .postgresql import Functions
from .store import Look, Position
from .tables import in_words
from .thread import DatabaseThread

logger = logging.getLogger("django_sse")

#: Seconds between two looks where the database wakes the thread up; up to half as much again, at
#: random. Such a look finds what no notification told of, and a connection that is dead.
LOOK_SECONDS = 6.0
#: After how many looks in a row that found events of which nothing told, polling takes over.
DEAF_LOOKS = 3
#: Seconds between two looks for events that are too old.
TRIM_SECONDS = 60.0


class Receiver(Protocol):
    """The methods of a listener that the watcher calls, from its own thread."""

    def hand_over(
        self, messages: Sequence[Message], upto: int, lost: Collection[str] | None
    ) -> bool:
        """Deliver messages, and wait for that; return False where nothing listens any more."""

    def subscribed(self) -> list[str]:
        """Return the topics that are subscribed."""


class Watcher(DatabaseThread):
    """Looks for events above its position, and hands them over in order."""

    def __init__(self, source: Any, at: Position, receiver: Receiver) -> None:
        """Begin after the newest event of ``at``."""
        super().__init__("django_sse database listener")
        self._source = source
        self._receiver = receiver
        self._epoch = at.epoch
        self._position = at.last
        self._polls = source.listen is None
        self._deaf = 0
        self._saw_pending = False
        self._functions: Functions | None = None
        self._trims_at = time.monotonic() + TRIM_SECONDS * random.random()  # noqa: S311

    def wake(self) -> None:
        """Let the thread look now, where the database does not wake it up."""
        if self._polls:
            self._kick()

    def _report(self, error: Exception) -> None:
        if not isinstance(error, Error):
            # Otherwise all streams would silently get nothing any more.
            logger.error("Listening to the database failed, connecting again.", exc_info=error)
            return
        log = logger.debug if self._away else logger.warning
        text = in_words(error, self._source.alias)
        log("Not connected to the database, trying again: %s", text)
        self._away = True

    def _watch(self) -> None:
        source = self._source
        with contextlib.ExitStack() as stack:
            connection = source.connect()
            stack.callback(close, connection)
            told = connection
            if source.listen not in (None, source.alias):
                told = own_connection(source.listen)
                stack.callback(close, told)
            self._functions = Functions.of(connection)
            if source.listen is not None:
                listen(told, "django_sse", self._hear)
            version = None
            timed = True
            while not self._stopping:
                if connection.vendor == "sqlite":
                    # It changes with every commit of another connection, and costs microseconds.
                    with connection.cursor() as cursor:
                        cursor.execute("PRAGMA data_version")
                        before, version = version, cursor.fetchone()[0]
                    looks = version != before or self._saw_pending
                else:
                    looks = True
                if looks:
                    found = self._look(connection, timed)
                    if not self._polls:
                        take_in(told)
                        self._judge(found and timed)
                if self._away:
                    self._away = False
                    logger.info("Connected to the database again.")
                if time.monotonic() > self._trims_at:
                    self._trim(connection)
                if self._heard:
                    self._heard = timed = False
                    continue
                if self._polls:
                    self._wait(None, source.poll)
                    timed = True
                else:
                    timed = not self._wait(
                        told,
                        LOOK_SECONDS * random.uniform(1, 1.5),  # noqa: S311
                    )
                    if told is not connection and timed:
                        with told.cursor() as cursor:
                            cursor.execute("SELECT 1")

    def _judge(self, unheard: bool) -> None:
        """Go over to polling where nothing tells of events although there are some."""
        if self._heard:
            self._deaf = 0
        elif unheard:
            self._deaf += 1
            if self._deaf >= DEAF_LOOKS:
                self._polls = True
                logger.warning(
                    "The database %r does not notify of events (LISTEN does not work through "
                    "PgBouncer in transaction mode), so it is asked every %g s. Name an alias that "
                    'connects to PostgreSQL itself in DJANGO_SSE["BROKER"]["OPTIONS"]["LISTEN"].',
                    self._source.listen,
                    self._source.poll,
                )

    def _look(self, connection: BaseDatabaseWrapper, timed: bool) -> bool:
        """Hand new events over; return whether there were any."""
        source = self._source
        # Read it first: a number that another thread writes meanwhile is newer than this look.
        known = source.known.number
        at = self._ask(connection)
        if at is None or known > at.last:
            # The database is empty, or older than what was seen: let a new epoch begin.
            source.number_pending()
            at = self._ask(connection)
            if at is None or known > at.last:
                return False
        lost: Collection[str] | None = ()
        if at.epoch != self._epoch:
            if at.epoch > self._position:
                lost = None
            self._epoch = at.epoch
            self._position = max(self._position, at.epoch)
        elif at.trimmed > self._position:
            lost = store.trimmed_since(connection, self._receiver.subscribed(), self._position)
        if at.pending and (timed or self._saw_pending):
            self._saw_pending = False
            source.number_pending()
        else:
            self._saw_pending = at.pending
        found = bool(at.messages)
        while not self._stopping:
            whole = len(at.messages) < store.BATCH
            messages = [it for it in at.messages if store.number_of(it.id) > self._position]
            upto = at.last if whole else store.number_of(at.messages[-1].id)
            if (messages or lost != ()) and not self._receiver.hand_over(messages, upto, lost):
                self.stop()  # It lets the next wait return at once.
                break
            lost = ()
            self._position = max(self._position, upto)
            source.known.note(upto)
            if whole:
                break
            at = self._ask(connection)
            if at is None:
                break
        return found

    def _ask(self, connection: BaseDatabaseWrapper) -> Look | None:
        if self._functions is not None:
            return self._functions.look(self._position)
        return store.look(connection, self._position)

    def _trim(self, connection: BaseDatabaseWrapper) -> None:
        self._trims_at = time.monotonic() + TRIM_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311
        trimming.trim_old(connection, self._source.limits)
