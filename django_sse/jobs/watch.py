"""Watch the jobs that clients of this process follow, and fail those whose process has died."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from contextvars import Context

from django_sse.brokers.base import Message
from django_sse.connection.tasks import stop
from django_sse.exceptions import BrokerError
from django_sse.topics.listening import TopicListener

from .background import background
from .records import Job, decode, find, record_topic
from .run import end

logger = logging.getLogger("django_sse")


class Watch:
    """Fails a job once nothing was heard of it for as long as its lease.

    Each event loop has one for a job, however many of its clients follow the job.
    """

    def __init__(self, job: Job) -> None:
        """Watch nothing yet."""
        self.followers = 0
        self._job = job
        self._listener = TopicListener(record_topic(job.id), self._hear)
        # When something was heard last, and what; the time is that of the event loop.
        self._heard = asyncio.get_running_loop().time()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin to watch."""
        self._task = asyncio.get_running_loop().create_task(self._watch(), context=Context())

    async def close(self) -> None:
        """End the watch."""
        if self._task is not None:
            await stop(self._task)

    def _hear(self, message: Message) -> None:
        self._job = decode(message)
        self._heard = asyncio.get_running_loop().time()
        self._news.set()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await self._listener.open()
            while not self._job.ended:
                left = self._heard + self._job.lease - loop.time()
                if left > 0:
                    # A job whose task begins has a shorter lease from then on.
                    self._news.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), left)
                elif self._job.id in background:
                    self._heard = loop.time()
                else:
                    await self._fail()
        finally:
            self._listener.close()

    async def _fail(self) -> None:
        """End the job as failed, unless something is heard of it after all."""
        # The broker may have been away, for the job's process as well. Now that it answers, give the
        # job the time of one more lease.
        loop = asyncio.get_running_loop()
        before, asked = self._job, loop.time()
        try:
            found = await find(before.id)
            if found is not None and found.record_id > before.record_id:
                self._job = found
            elif loop.time() - asked < 1:
                logger.warning("The job %s has failed: its process has died.", before.id)
                await end(before, "failed")
                return
        except BrokerError:
            logger.debug("A job cannot be looked up while the broker is away.")
        self._heard = loop.time()


_watches: dict[tuple[asyncio.AbstractEventLoop, str], Watch] = {}
_closing: set[asyncio.Task[None]] = set()


def follow(job: Job) -> None:
    """Watch a job for one more client, on the running event loop."""
    key = asyncio.get_running_loop(), job.id
    watch = _watches.get(key)
    if watch is None:
        watch = _watches[key] = Watch(job)
        watch.begin()
    watch.followers += 1


def unfollow(job_id: str) -> None:
    """Note that a client has left; the last one ends the watch."""
    loop = asyncio.get_running_loop()
    watch = _watches[loop, job_id]
    watch.followers -= 1
    if not watch.followers:
        del _watches[loop, job_id]
        task = loop.create_task(watch.close(), context=Context())
        _closing.add(task)
        task.add_done_callback(_closing.discard)
