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
    """Ends a job as failed if it gets no new record for as long as its lease.

    It asks the broker after two thirds of the lease and at its end. Both answers must come at once
    and know of nothing new. One answer is not enough: the broker may have been away until then, and
    the job's process may be about to renew the lease.

    Each event loop has one for a job, however many of its clients follow the job.
    """

    def __init__(self, job: Job) -> None:
        """Watch nothing yet."""
        self.followers = 0
        self._job = job
        self._listener = TopicListener(record_topic(job.id), self._hear)
        # When the last sign of life came, in the event loop's time.
        self._heard = asyncio.get_running_loop().time()
        self._news = asyncio.Event()
        # Whether the broker was asked once, and had no newer record.
        self._doubted = False
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
        self._note_life()
        self._news.set()

    def _note_life(self) -> None:
        self._heard = asyncio.get_running_loop().time()
        self._doubted = False

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await self._listener.open()
            while not self._job.ended:
                patience = self._job.lease * (1 if self._doubted else 2 / 3)
                left = self._heard + patience - loop.time()
                if left > 0:
                    # A job whose task begins has a shorter lease from then on.
                    self._news.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), left)
                elif self._job.id in background:
                    self._note_life()
                else:
                    await self._fail()
        finally:
            self._listener.close()

    async def _fail(self) -> None:
        """Ask for news of the job; end it as failed at the second answer in a row without any."""
        loop = asyncio.get_running_loop()
        before, asked = self._job, loop.time()
        try:
            found = await find(before.id)
            if found is not None and found.record_id > before.record_id:
                self._job = found
            elif loop.time() - asked < 1:
                if self._doubted:
                    logger.warning("The job %s has failed: its process has died.", before.id)
                    await end(before, "failed")
                self._doubted = not self._doubted
                return
        except BrokerError:
            logger.debug("A job cannot be looked up while the broker is away.")
        # There is news, or the broker was away, perhaps for the job's process as well. Begin again
        # with a whole lease.
        self._note_life()


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
