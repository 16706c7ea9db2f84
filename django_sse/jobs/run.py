"""The work on a job, in the process that does it: its events, its lease, and its end."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextvars import Context
from dataclasses import replace

from django_sse.brokers import get_broker
from django_sse.brokers.base import INTERNAL, LAST, EventId, Message
from django_sse.conf import conf
from django_sse.connection.tasks import stop
from django_sse.exceptions import BrokerError, JobCancelled, PublishFailed, StreamClosed
from django_sse.monitoring.metrics import counters
from django_sse.topics.listening import TopicListener
from django_sse.topics.publishing import check_size
from django_sse.wire.events import encode_head

from .records import Ending, Job, decode, find, newest_message, newest_messages, record_topic

logger = logging.getLogger("django_sse")

#: Seconds for which an event is tried again while the broker is away, and between two attempts.
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.5
#: How many of a job's newest records are searched for the record of its end. More orders to cancel
#: one job are not expected at once.
RECENT = 10


def new_run() -> str:
    """Return a name for the work on a job, which no other work has."""
    return secrets.token_hex(8)


async def create(job: Job, *, once: bool) -> Job | None:
    """Store a new job's first record, and return the job as it is stored.

    With ``once``, the job may exist; then ``None`` is returned, and nothing is stored. Raises
    ``PublishFailed``.
    """
    start = await get_broker().apublish(
        [record_topic(job.id)],
        job.encode(),
        timeout=conf.publish_timeout,
        idempotency_key=f"{INTERNAL}job:{job.id}:start" if once else None,
    )
    if once:
        found = await find(job.id)
        if found is None or found.run != job.run:
            return None
    return replace(job, start=start, record_id=start)


async def end(job: Job, ending: Ending) -> None:
    """End a job: send its last event to its clients, and store the record of its end.

    Where several processes end a job at once, the first one counts. Raises ``PublishFailed``.
    """
    broker, timeout = get_broker(), conf.publish_timeout
    topic, head, once = _last_event(job, ending)
    last = await broker.apublish([topic], head, key=LAST, timeout=timeout, idempotency_key=once)
    topic, head, once = _last_record(job, ending, last)
    await broker.apublish([topic], head, timeout=timeout, idempotency_key=once)


def end_now(job: Job, ending: Ending, *, timeout: float) -> None:
    """Do the same as ``end()`` without an event loop, within ``timeout`` seconds."""
    broker, deadline = get_broker(), time.monotonic() + timeout
    topic, head, once = _last_event(job, ending)
    last = broker.publish([topic], head, key=LAST, timeout=timeout, idempotency_key=once)
    topic, head, once = _last_record(job, ending, last)
    # The least time is for a broker that took all of the time, and has stored the event.
    left = max(deadline - time.monotonic(), 0.01)
    broker.publish([topic], head, timeout=left, idempotency_key=once)


def _last_event(job: Job, ending: Ending) -> tuple[str, bytes, str]:
    return job.topic, job.last_event(ending), f"{INTERNAL}job:{job.id}:last"


def _last_record(job: Job, ending: Ending, last: EventId) -> tuple[str, bytes, str]:
    record = job.as_ended(ending, last).encode()
    return record_topic(job.id), record, f"{INTERNAL}job:{job.id}:end"


async def ask_to_end(job: Job) -> None:
    """Cancel a job, wherever it runs; does nothing for one that has ended.

    Returns when the broker has the order. Raises ``BrokerError``, as a rule ``PublishFailed``.
    """
    if job.state == "queued":
        await end(job, "cancelled")  # No process works on it that could end it.
    elif not job.ended:
        topic, timeout = record_topic(job.id), conf.publish_timeout
        await get_broker().apublish(
            [topic], replace(job, state="cancelling").encode(), timeout=timeout
        )
        # The job may have ended since its record was read. The record of the end, which is the last
        # one, would then be one of those before the order.
        for message in await newest_messages(topic, RECENT):
            if decode(message).ended:
                await get_broker().apublish([topic], message.head, timeout=timeout)
                return


class Run:
    """The work on one job. All methods belong to one event loop.

    ``cancelled`` is True once the job is to end: it was cancelled, has ended, or another process
    works on it now. ``on_cancel`` is called then, once.
    """

    def __init__(self, job: Job, on_cancel: Callable[[], None] | None = None) -> None:
        """Take a job that this process is to work on."""
        self.job = job
        self.cancelled = False
        # Whether this work has to end the job. False once it has, or where the job was ended or
        # taken over elsewhere.
        self.owns = True
        self._on_cancel = on_cancel
        self._closed = False
        self._listener = TopicListener(record_topic(job.id), self._hear)
        self._renewing: asyncio.Task[None] | None = None
        self._last: EventId | None = None
        # Held while an event is published, so that they leave in the order of the calls.
        self._turn = asyncio.Lock()

    async def begin(self, *, take_over: bool = False) -> None:
        """Listen to the job's cancellation, and keep its lease until ``close()``.

        With ``take_over``, the job was started elsewhere, and may have been worked on before: then
        its clients get a ``reset``. Raises ``BrokerError``.
        """
        try:
            await self._listener.open()
            found = await find(self.job.id)
            if found is not None:
                self._consider(found, new=take_over)
            if take_over and not self.cancelled:
                await self._take_over()
        except BaseException:
            self._listener.close()
            raise
        if not self.cancelled:
            loop = asyncio.get_running_loop()
            self._renewing = loop.create_task(self._keep_renewing(), context=Context())

    async def _take_over(self) -> None:
        before = self.job
        self.job = replace(
            before,
            state="running",
            run=new_run(),
            attempt=before.attempt + 1,
            lease=conf.job_lease,
        )
        await self._renew()
        if before.state == "running":
            # The new work begins again: clients have to throw away the events of the work before.
            await self.publish(encode_head("{}", "reset"))

    async def publish(self, head: bytes, tail: bytes = b"", key: str | None = None) -> None:
        """Send an event to the job's clients; waits while the broker is away.

        An event is stored once, also where it had to be tried again. Raises ``JobCancelled``,
        ``StreamClosed`` after ``close()``, ``EventTooLarge``, and ``BrokerError``, as a rule
        ``PublishFailed``, after ``PATIENCE_SECONDS``.
        """
        check_size(self.job.topic, len(head) + len(tail))
        async with self._turn:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + PATIENCE_SECONDS
            unclear = False
            while True:
                if self._closed:
                    raise StreamClosed(f"The job {self.job.id} is over: send before its end.")
                if self.cancelled:
                    raise JobCancelled(f"The job {self.job.id} was cancelled, or has ended.")
                try:
                    if unclear and await self._was_stored(head, tail):
                        break
                    unclear = False
                    self._last = await self._publish(head, tail, key)
                    break
                except BrokerError as error:
                    unclear = unclear or getattr(error, "may_be_stored", False)
                    if loop.time() >= deadline:
                        raise
                    await asyncio.sleep(PAUSE_SECONDS)
            counters.add_published()

    async def _publish(self, head: bytes, tail: bytes, key: str | None) -> EventId:
        timeout = conf.publish_timeout
        return await get_broker().apublish([self.job.topic], head, tail, key, timeout=timeout)

    async def _was_stored(self, head: bytes, tail: bytes) -> bool:
        """Return whether an event was stored whose publishing was not confirmed.

        Nothing else publishes to the topic while this is the job's work. Raises ``BrokerError``.
        """
        # The broker may still be about to store it. Most brokers do so before they store what comes
        # later. MariaDB works on another connection at the same time, so give it a moment.
        await self._renew()
        await asyncio.sleep(PAUSE_SECONDS)
        newest = await newest_message(self.job.topic)
        if newest is None or newest.id == self._last or (newest.head, newest.tail) != (head, tail):
            return False
        self._last = newest.id
        return True

    async def close(self, ending: Ending) -> None:
        """Stop renewing the lease, and end the job, unless other work has taken it over."""
        self._closed = True
        if self._renewing is not None:
            await stop(self._renewing)
        self._listener.close()
        await self._end(ending)

    async def _end(self, ending: Ending) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_SECONDS
        # Work that goes on after its cancellation is closed twice, the second time long after.
        while self.owns:
            try:
                await end(self.job, ending)
                self.owns = False
                return
            except PublishFailed:
                if loop.time() >= deadline:
                    logger.warning(
                        "The end of the job %s could not be stored. Its clients get the end "
                        "'failed' when its lease runs out.",
                        self.job.id,
                        exc_info=True,
                    )
                    return
            await asyncio.sleep(PAUSE_SECONDS)

    async def _keep_renewing(self) -> None:
        pause = self.job.lease / 3
        while True:
            await asyncio.sleep(pause)
            if not self.owns:
                return  # A renewal would replace the record of the end, or of the other work.
            try:
                await self._renew()
                pause = self.job.lease / 3
            except BrokerError:
                # Watches give the job a third of its lease once the broker is back.
                pause = min(PAUSE_SECONDS, self.job.lease / 9)

    async def _renew(self) -> None:
        record = self.job.encode()
        await get_broker().apublish(
            [record_topic(self.job.id)], record, timeout=conf.publish_timeout
        )

    def _hear(self, message: Message) -> None:
        self._consider(decode(message))

    def _consider(self, found: Job, *, new: bool = False) -> None:
        """See in a record whether the work is to end; ``new`` work goes on from the record."""
        if self.cancelled:
            return
        # Work that was taken over may still renew its lease once. Its number is lower.
        taken_over = not new and (found.attempt, found.run) > (self.job.attempt, self.job.run)
        if found.ended or taken_over:
            self.owns = False
        if found.ended or taken_over or found.state == "cancelling":
            # The next renewal replaces the record with the order. It has to repeat the order, for a
            # task that takes over when this process dies.
            self.job = replace(self.job, state="cancelling")
            self.cancelled = True
            if self._on_cancel is not None:
                self._on_cancel()
        elif new:
            self.job = found
