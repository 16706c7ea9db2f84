"""The jobs that this process works on itself: how many they may be, and how the process ends them."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from django_sse.conf import conf
from django_sse.connection.shutdown import shutdown
from django_sse.connection.tasks import LAST_PATIENCE, settle, stop
from django_sse.connection.threads import Lane, pool
from django_sse.exceptions import JobCancelled
from django_sse.handshake.response import current_exchange

from .records import Ending, Job
from .run import Run, end_now

logger = logging.getLogger("django_sse")

#: Seconds that an ending process takes at most to report the end of all jobs that its event loops
#: left behind.
REPORT_SECONDS = 1.0


class _Work:
    """One job that this process works on, in a task of its own."""

    def __init__(self, job: Job, work: Callable[[Run], Coroutine[Any, Any, None]]) -> None:
        self.loop = asyncio.get_running_loop()
        self.run = Run(job, self._stop_soon)
        self._work = work
        # Whether the process ends, and the work with it.
        self._ends = False
        self._begun = False
        # Done when the work has ended. After that, the task only reports the end.
        self._worked: asyncio.Future[None] = self.loop.create_future()
        self._stopping: asyncio.Task[None] | None = None
        self._lane: Lane = pool.lease()
        # The work keeps the request's context variables: its language, its time zone.
        context = contextvars.copy_context()
        self._lane.adopt(context)
        # The exchange would keep the server's connection in memory, long after the client has left.
        context.run(current_exchange.set, None)
        self.task = self.loop.create_task(self._perform(), context=context)

    def cancel(self) -> None:
        """End the work with its process."""
        self._ends = True
        # A task that is cancelled before its first turn would never run, and could not report the
        # job's end.
        if self._begun:
            self.task.cancel()

    def _stop_soon(self) -> None:
        self._stopping = self.loop.create_task(self._stop(), context=contextvars.Context())

    async def _stop(self) -> None:
        # Do not cancel the rest of the task: it sends the end to the clients, and tries again while
        # the broker is away.
        if not await stop(self.task, until=self._worked):
            job = self.run.job
            logger.warning(
                "The work on the job %s of %s goes on, although it was cancelled several times: let "
                "CancelledError pass.",
                job.id,
                job.view,
            )
            # End the job for its clients, although the work goes on.
            await self.run.close("cancelled")

    async def _perform(self) -> None:
        run = self.run
        ending: Ending = "failed"
        self._begun = True
        try:
            if self._ends:
                raise asyncio.CancelledError
            await run.begin(take_over=run.job.state == "queued")
            if run.cancelled:
                raise JobCancelled(f"The job {run.job.id} was cancelled before its work began.")
            await self._work(run)
            ending = "done"
        except (asyncio.CancelledError, JobCancelled):
            if run.cancelled:
                ending = "cancelled"
            elif not self._ends:
                logger.exception(
                    "The job %s of %s has failed: its work has cancelled itself.",
                    run.job.id,
                    run.job.view,
                )
        except Exception:
            logger.exception("The job %s of %s has failed.", run.job.id, run.job.view)
        finally:
            if not self._worked.done():
                self._worked.set_result(None)
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
        # The ids of the jobs that start, and how many POSTs want to start each.
        self._starting: Counter[str] = Counter()

    def __contains__(self, job_id: str) -> bool:
        """Return whether this process works on a job."""
        return job_id in self._works

    def __len__(self) -> int:
        """Return how many jobs this process works on, or is about to."""
        return len(self._works.keys() | self._starting)

    @contextmanager
    def place(self, job_id: str) -> Iterator[bool]:
        """Keep a place for a job that starts within the block.

        Yields False where this process works on as many jobs as ``MAX_JOBS`` says. Without the
        place, all POSTs that come at once would find one.
        """
        known = job_id in self._starting or job_id in self
        if not known and conf.max_jobs is not None and len(self) >= conf.max_jobs:
            yield False
        else:
            # POSTs with the same Idempotency-Key share a place. The last one gives it back.
            self._starting[job_id] += 1
            try:
                yield True
            finally:
                self._starting[job_id] -= 1
                if not self._starting[job_id]:
                    del self._starting[job_id]

    def begin(self, job: Job, work: Callable[[Run], Coroutine[Any, Any, None]]) -> None:
        """Work on a job in a task, with the context variables and the pool of threads of a stream.

        The process owns the task. When it shuts down, it cancels the task, which reports its end.
        """
        if self not in shutdown.also:
            shutdown.also.append(self)
            atexit.register(self.report_ends)
        new = self._works[job.id] = _Work(job, work)
        if shutdown.draining:
            # The shutdown has already cancelled the other jobs.
            new.cancel()

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

    def report_ends(self) -> None:
        """Report the end of jobs whose event loop was stopped before they could report it.

        Daphne stops its event loop like this.
        """
        deadline = time.monotonic() + REPORT_SECONDS
        for work in list(self._works.values()):
            run, left = work.run, deadline - time.monotonic()
            try:
                if left > 0 and run.owns:
                    end_now(run.job, "cancelled" if run.cancelled else "failed", timeout=left)
            except Exception:
                # The processes whose clients follow the job end it once its lease is over.
                logger.debug("The end of a job could not be stored.", exc_info=True)

    def _of(self, loop: asyncio.AbstractEventLoop) -> list[_Work]:
        return [work for work in self._works.values() if work.loop is loop]


background = Background()
