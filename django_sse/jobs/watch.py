"""Watch the jobs that clients of this process follow, and fail those whose process has died."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
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

    Each event loop has one for a job, however many of its clients follow the job. It calls
    ``followers`` once it knows of the job's end.
    """

    def __init__(self, job: Job) -> None:
        """Watch nothing yet."""
        self.followers: set[Callable[[Job], None]] = set()
        self._job = job
        self._listener = TopicListener(record_topic(job.id), self._hear)
        # When something was heard last, and what; the time is that of the event loop.
        self._heard = asyncio.get_running_loop().time()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def job(self) -> Job:
        """The newest record that was heard."""
        return self._job

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
            with suppress(BrokerError):
                # A record may have come before the listener was open.
                self._see(await find(self._job.id))
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
            for tell in tuple(self.followers):
                tell(self._job)
        finally:
            self._listener.close()

    def _see(self, found: Job | None) -> bool:
        """Take over a record that is newer; return whether it is."""
        if found is None or found.record_id <= self._job.record_id:
            return False
        self._job = found
        return True

    async def _fail(self) -> None:
        """End the job as failed, unless something is heard of it after all."""
        # The broker may have been away, for the job's process as well. Now that it answers, give the
        # job the time of one more lease.
        loop = asyncio.get_running_loop()
        before, asked = self._job, loop.time()
        try:
            if not self._see(await find(before.id)) and loop.time() - asked < 1:
                logger.warning("The job %s has failed: its process has died.", before.id)
                await end(before, "failed")
                self._see(await find(before.id))
                return
        except BrokerError:
            logger.debug("A job cannot be looked up while the broker is away.")
        self._heard = loop.time()


_watches: dict[tuple[asyncio.AbstractEventLoop, str], Watch] = {}
_closing: set[asyncio.Task[None]] = set()


def follow(job: Job, tell: Callable[[Job], None]) -> None:
    """Watch a job for one more client, on the running event loop; ``tell`` is called at its end."""
    key = asyncio.get_running_loop(), job.id
    watch = _watches.get(key)
    if watch is None:
        watch = _watches[key] = Watch(job)
        watch.begin()
    watch.followers.add(tell)
    if watch.job.ended:
        tell(watch.job)


def unfollow(job_id: str, tell: Callable[[Job], None]) -> None:
    """Note that a client has left; the last one ends the watch."""
    loop = asyncio.get_running_loop()
    watch = _watches[loop, job_id]
    watch.followers.remove(tell)
    if not watch.followers:
        del _watches[loop, job_id]
        task = loop.create_task(watch.close(), context=Context())
        _closing.add(task)
        task.add_done_callback(_closing.discard)
