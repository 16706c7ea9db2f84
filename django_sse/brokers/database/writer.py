"""The thread of a process that writes events: what waits is written together, under one lock."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from django.db import Error, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from django_sse.brokers.base import EventId
from django_sse.exceptions import PublishFailed

from . import origins, store, trimming
from .connections import close, own_connection, transaction
from .known import Known
from .postgresql import Functions
from .store import BATCH, Draft, Limits, Written
from .tables import in_words

logger = logging.getLogger("django_sse")

#: Seconds after which a connection that writes nothing is closed.
IDLE_SECONDS = 5.0
#: Seconds between two tries where the database is away, and for a lock of MySQL.
PAUSE = 0.1
LOCK_SECONDS = 1.0
#: Seconds without use after which a connection is looked at before it is used. That gives other
#: threads their turn, so while much is written it costs more than the look itself.
UNTRIED_SECONDS = 0.01
#: How many events are written between two looks for events that are too old or too many. A topic
#: with a long history is counted only where a tenth of that came.
TRIM_EVERY = 100
#: Seconds for which tidying is put off while others wait to be written. Then each of them waits for
#: one batch, so what is published without a pause is trimmed too.
PATIENCE = 5.0
#: Of how many topics the new events are counted.
COUNTED = 10_000
#: Seconds for which an event is stored however short the history is, so that a listener that is
#: behind still finds it. Less than ``IDLE_SECONDS``, after which the last events are trimmed.
GRACE = 3.0


class Job:
    """An event to write; without an event, a request to number the pending events."""

    def __init__(self, event: Draft | None, deadline: float) -> None:
        """Take a moment of ``time.monotonic()`` as the deadline."""
        self.event = event
        self.deadline = deadline
        self.began = time.monotonic()
        self.future: Future[EventId | None] = Future()
        # The writer sets the first, then looks at the second; the publisher does it the other way
        # round. So at least one of them sees what the other did.
        self.writing = False
        self.dropped = False
        self.cause: Exception | None = None

    def give_up(self, alias: str, error: Exception | None = None) -> PublishFailed:
        """Withdraw the job; return the exception that says whether its event may be stored."""
        self.dropped = True
        cause = error or self.cause
        why = "no answer" if cause is None else in_words(cause, alias)
        if self.event is None:
            failed = "number the committed events"
        elif self.writing:
            failed = "confirm the event, and it is not known whether it is stored"
        else:
            failed = "confirm the event, and it is not stored"
        return PublishFailed(
            f"The database {alias!r} did not {failed}: {why} "
            f"(tried for {time.monotonic() - self.began:.1f} s)",
            may_be_stored=self.writing,
        )


class Writer:
    """Writes events in the order in which they were given to it, in a thread that the first one starts."""

    def __init__(
        self,
        alias: str,
        limits: Limits,
        known: Known,
        wrote: Callable[[], None],
    ) -> None:
        """Write into the database ``alias``; ``wrote`` is called after each transaction."""
        self._alias = alias
        self._limits = limits
        self._known = known
        self._wrote = wrote
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: BaseDatabaseWrapper | None = None
        self._used = 0.0
        self._functions: Functions | None = None
        self._trim_topic_every = max(TRIM_EVERY, limits.history // 10)
        # For each topic, how many events were written since it had its turn.
        self._new: dict[str, int] = {}
        # The topics whose turn it is, in order, each from a moment of ``time.monotonic()`` on.
        self._turns: dict[str, float] = {}
        # Of the topic that is being trimmed, the newest number that is too much, and up to which
        # number it is old enough.
        self._trimming: tuple[int, int] | None = None
        self._written = 0
        self._tidied = time.monotonic()

    def submit(self, event: Draft | None, timeout: float) -> Job:
        """Let the thread write an event; the job's future gets its id. ``timeout`` is in seconds.

        One thread at a time may call it, and none after ``close()``.
        """
        job = Job(event, time.monotonic() + timeout)
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="django_sse database writer", daemon=True
            )
            self._thread.start()
        return job

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(LOCK_SECONDS)

    def _run(self) -> None:
        try:
            while jobs := self._next_jobs():
                for start in range(0, len(jobs), BATCH):
                    self._write(jobs[start : start + BATCH])
        finally:
            self._disconnect()

    def _next_jobs(self) -> list[Job]:
        """Wait for jobs, and return all that wait; none where the thread must end."""
        try:
            job = self._jobs.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            self._tidy()
            self._disconnect()
            job = self._jobs.get()
        jobs: list[Job] = []
        while job is not None:
            jobs.append(job)
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs
        if jobs:
            self._jobs.put(None)
        return jobs

    def _write(self, jobs: Sequence[Job]) -> None:
        """Write jobs until they are written, or their time is over."""
        while jobs := _in_time(jobs, self._alias):
            try:
                pending = self._try(jobs)
            except Error as error:
                # Nothing was stored. The jobs that failed while they were committed are over.
                self._disconnect()
                for job in jobs:
                    job.writing = False
                    job.cause = error
                jobs = [job for job in jobs if not job.future.done()]
                if jobs:
                    time.sleep(PAUSE)
            except Exception as error:
                logger.exception("Writing events to the database %r failed.", self._alias)
                self._disconnect()
                for job in jobs:
                    _fail(job, job.give_up(self._alias, error))
                return
            else:
                # A transaction numbers only so many. The rest has its turn before new jobs.
                jobs = [Job(None, time.monotonic() + LOCK_SECONDS)] if pending == BATCH else []

    def _try(self, jobs: Sequence[Job]) -> int:
        """Write jobs once; return how many pending events were numbered before them."""
        connection = self._connected()
        if not store.take_lock(connection, LOCK_SECONDS):
            raise OperationalError("Another process holds the lock for numbering.")
        try:
            tried = self._write_at_once(self._functions, jobs) if self._functions else None
            jobs, written = tried or self._write_stepwise(connection, jobs)
        except _Unclear as unclear:
            for job in jobs:
                _fail(job, job.give_up(self._alias, unclear.error))
            raise unclear.error from None
        finally:
            if connection.connection is not None:
                store.release_lock(connection)
        self._used = time.monotonic()
        self._finish(jobs, written)
        return written.pending

    def _write_at_once(
        self, functions: Functions, jobs: Sequence[Job]
    ) -> tuple[Sequence[Job], Written] | None:
        jobs = _taken(jobs)
        try:
            written = functions.write(_events(jobs), self._known.number)
        except Error as error:
            if functions.is_lost():
                raise _Unclear(error) from error
            raise
        return None if written is None else (jobs, written)

    def _write_stepwise(
        self, connection: BaseDatabaseWrapper, jobs: Sequence[Job]
    ) -> tuple[Sequence[Job], Written]:
        committing = False
        try:
            with transaction(connection):
                # On SQLite it has waited for the other writers by now.
                jobs = _taken(jobs)
                written = store.write(
                    connection, _events(jobs), self._known.number, self._limits.max_age
                )
                committing = True
        except Error as error:
            if committing:
                raise _Unclear(error) from error
            raise
        return jobs, written

    def _finish(self, jobs: Sequence[Job], written: Written) -> None:
        if written.numbers:
            self._known.note(max(written.numbers))
        self._wrote()
        given = iter(written.numbers)
        for job in jobs:
            number = None if job.event is None else next(given)
            _succeed(job, None if number is None else store.id_of(number))
        self._written += len(written.numbers) + written.pending
        self._count(written.topics)
        if self._written >= TRIM_EVERY:
            self._tidy()
        elif self._turns:
            self._tidy_topics()

    def _count(self, topics: Iterable[str]) -> None:
        if len(self._new) > COUNTED:
            self._new.clear()
        for topic in topics:
            new = self._new.get(topic)
            if new is None:
                # Processes that write little have their turn too, so each begins somewhere.
                new = random.randrange(self._trim_topic_every)  # noqa: S311
            self._new[topic] = (new + 1) % self._trim_topic_every
            if self._new[topic] == 0:
                self._turns.setdefault(topic, time.monotonic() + GRACE)

    def _tidy(self) -> None:
        """Delete old events, unless events wait to be written: writing comes first."""
        more = self._written > 0
        with self._tidying() as connection:
            while more and connection and self._has_time(self._tidied):
                more = trimming.trim_old(connection, self._limits)
                if not self._jobs.empty():
                    break
            if not more:
                self._written = 0
                self._tidied = time.monotonic()
        self._tidy_topics()

    def _tidy_topics(self) -> None:
        with self._tidying() as connection:
            while self._turns and connection is not None:
                topic, due = next(iter(self._turns.items()))
                if due > time.monotonic() or not self._has_time(due):
                    return
                self._trim(connection, topic)
                if not self._jobs.empty():
                    return

    def _has_time(self, due: float) -> bool:
        """Return whether nothing waits to be written, or tidying was put off for long."""
        return self._jobs.empty() or time.monotonic() - due > PATIENCE

    def _trim(self, connection: BaseDatabaseWrapper, topic: str) -> None:
        """Delete a batch of a topic's events; its turn is over when that was the last one."""
        if self._trimming is None:
            # To count a topic takes long, so what it found is kept until all is deleted.
            excess = trimming.excess(connection, topic, self._limits.history)
            old = store.now() - (int(GRACE * 1000) << store.SEQUENCE_BITS)
            self._trimming = excess, old
        excess, old = self._trimming
        if self._functions is not None:
            more = self._functions.trim_topic(topic, min(excess, old))
        else:
            more = trimming.trim_topic(connection, topic, min(excess, old))
        if not more:
            self._trimming = None
            del self._turns[topic]
            if excess > old:
                self._turns[topic] = time.monotonic() + GRACE

    @contextmanager
    def _tidying(self) -> Iterator[BaseDatabaseWrapper | None]:
        try:
            yield self._connection
        except Error:
            # It is tried again later, here or by another process.
            self._disconnect()
        except Exception:
            # The thread must not end: nothing would be published any more.
            logger.exception("Old events cannot be deleted in the database %r.", self._alias)
            self._disconnect()

    def _connected(self) -> BaseDatabaseWrapper:
        idle = time.monotonic() - self._used
        if self._functions is not None and idle > UNTRIED_SECONDS and self._functions.is_lost():
            self._disconnect()
        if self._connection is None:
            connection = own_connection(self._alias)
            connection.ensure_connection()
            if origins.is_elsewhere(connection):
                with transaction(connection):
                    store.renew(connection)
            self._functions = Functions.of(connection)
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection, self._functions = self._connection, None, None
        if connection is not None:
            close(connection)


def _taken(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that are written from now on; their publishers cannot withdraw them any more."""
    for job in jobs:
        job.writing = True
    return [job for job in jobs if not job.dropped]


def _events(jobs: Sequence[Job]) -> list[Draft]:
    return [job.event for job in jobs if job.event is not None]


class _Unclear(Exception):
    """A database's error after which it is unknown whether the events are stored."""

    def __init__(self, error: Error) -> None:
        super().__init__(str(error))
        self.error = error


def _in_time(jobs: Sequence[Job], alias: str) -> list[Job]:
    """Return the jobs whose publishers still wait, and let the others fail."""
    alive = []
    for job in jobs:
        if job.dropped or time.monotonic() > job.deadline:
            _fail(job, job.give_up(alias))
        else:
            alive.append(job)
    return alive


def _succeed(job: Job, id: EventId | None) -> None:
    if not job.future.cancelled():
        job.future.set_result(id)


def _fail(job: Job, error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)
