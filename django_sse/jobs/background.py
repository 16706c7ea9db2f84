"""The jobs that this process works on itself: so many at once, and ended before the process ends."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from django_sse.brokers import get_broker
from django_sse.brokers.base import INTERNAL, LAST
from django_sse.conf import conf
from django_sse.connection.shutdown import shutdown
from django_sse.connection.tasks import LAST_PATIENCE, settle
from django_sse.connection.threads import Lane, pool
from django_sse.exceptions import JobCancelled

from .records import Ending, Job
from .run import Run

logger = logging.getLogger("django_sse")

#: Seconds that a process which has ended its event loops takes to tell the broker of a job's end.
FAREWELL_SECONDS = 1.0


class _Work:
    """One job that this process works on, in a task of its own."""

    def __init__(self, job: Job, work: Callable[[Run], Coroutine[Any, Any, None]]) -> None:
        self.loop = asyncio.get_running_loop()
        self.run = Run(job, self.cancel)
        self._work = work
        self._lane: Lane = pool.lease()
        # The work keeps the request's context variables: its language, its time zone.
        context = contextvars.copy_context()
        self._lane.adopt(context)
        self.task = self.loop.create_task(self._perform(), context=context)

    def cancel(self) -> None:
        self.task.cancel()

    async def _perform(self) -> None:
        run = self.run
        ending: Ending = "failed"
        try:
            await run.begin(take_over=run.job.state == "queued")
            await self._work(run)
            ending = "done"
        except (asyncio.CancelledError, JobCancelled):
            # Without an order to cancel the job, it is the process that ends.
            if run.cancelled:
                ending = "cancelled"
        except Exception:
            logger.exception("The job %s of %s has failed.", run.job.id, run.job.view)
        finally:
            # In a task of its own, since the server may cancel this one again meanwhile.
            closing = self.loop.create_task(run.close(ending))
            await settle(closing)
            pool.give_back(self._lane)
            background.forget(run.job.id)


class Background:
    """The jobs that this process works on itself."""

    def __init__(self) -> None:
        """Begin without jobs."""
        self._works: dict[str, _Work] = {}

    def __contains__(self, job_id: str) -> bool:
        """Return whether this process works on a job."""
        return job_id in self._works

    def __len__(self) -> int:
        """Return how many jobs this process works on."""
        return len(self._works)

    @property
    def full(self) -> bool:
        """Whether this process works on as many jobs as ``MAX_JOBS`` says."""
        return conf.max_jobs is not None and len(self) >= conf.max_jobs

    def begin(self, job: Job, work: Callable[[Run], Coroutine[Any, Any, None]]) -> None:
        """Work on a job in a task, with the context variables and the pool of threads of a stream.

        The process owns the task. It cancels it, and tells of its end, when it shuts down.
        """
        if self not in shutdown.also:
            shutdown.also.append(self)
            atexit.register(self.say_goodbye)
        self._works[job.id] = _Work(job, work)

    def forget(self, job_id: str) -> None:
        """Note that the work on a job is over."""
        del self._works[job_id]

    def end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the jobs of an event loop, whose process is about to end."""
        for work in self._of(loop):
            work.cancel()

    async def settle(self) -> None:
        """Wait for the end of the jobs of the running event loop, which were cancelled."""
        for work in self._of(asyncio.get_running_loop()):
            await settle(work.task, shutdown.seconds_left() or LAST_PATIENCE)

    def say_goodbye(self) -> None:
        """Tell the end of jobs whose server has stopped their event loop before they could.

        Daphne does so.
        """
        for work in list(self._works.values()):
            job = work.run.job
            try:
                get_broker().publish(
                    [job.topic],
                    job.last_event("failed"),
                    key=LAST,
                    timeout=FAREWELL_SECONDS,
                    idempotency_key=f"{INTERNAL}job:{job.id}:last",
                )
            except Exception:
                # Those who watch it find out, once its lease is over.
                logger.debug("The end of a job could not be told.", exc_info=True)

    def _of(self, loop: asyncio.AbstractEventLoop) -> list[_Work]:
        return [work for work in self._works.values() if work.loop is loop]


background = Background()
