"""``JobWriter``: work on a job in a task of Celery, of Django, or of any other process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from asgiref.sync import sync_to_async
from django.db.models import QuerySet
from django.utils.asyncio import async_unsafe

from django_sse.exceptions import InvalidEvent, JobCancelled, StreamClosed
from django_sse.topics.hub import close_idle_hub, close_unused_hub
from django_sse.topics.publishing import Words
from django_sse.wire.events import ServerSentEvent, check_fields, encode_head, encode_tail
from django_sse.wire.serialization import SerializerClass, evaluated, look_through

from .records import Ending, find, progress_head
from .run import Run

T = TypeVar("T")

_WAIT = "it waits for the broker: use the method of the same name with an `a` before it."


class JobWriter:
    """The work on a job that a ``JobView`` has queued: sends its events, keeps its lease, and ends it.

    Use it in a ``with`` block, or in an ``async with`` block in a coroutine. The job is ``done`` at
    the end of the block, ``failed`` where the block raises, and ``cancelled`` once it was
    cancelled: then ``send()`` raises ``JobCancelled``, which does not leave the block. Without a
    block, call ``finish()`` or ``fail()``: until then, the lease is kept while the process lives.

    A task that runs again, after its process died, goes on where the job has not ended; clients get
    a ``reset`` before its first event. Where the job has ended, ``cancelled`` is True.

    In a synchronous block, a thread keeps the lease. Events are sent at once: they do not wait for
    the transaction of the database. Only one thread at a time may use a writer.
    """

    def __init__(self, job_id: str) -> None:
        """Take the id that ``JobView.enqueue()`` was given; nothing is sent yet."""
        self.id = job_id
        self._run: Run | None = None
        self._thread: _Thread | None = None
        self._over = False

    # In threads, and in synchronous tasks.

    @property
    def cancelled(self) -> bool:
        """Whether the work is to end: the job was cancelled, or has ended. Does not wait."""
        return self._run is not None and self._run.cancelled

    @async_unsafe(f"JobWriter.begin(): {_WAIT}")
    def begin(self) -> None:
        """Begin to work; the block and the first event do it, too.

        Raises ``LookupError`` where the broker knows no such job, and ``BrokerError``.
        """
        if self._run is None:
            self._thread = _Thread()
            try:
                self._thread.call(self.abegin())
            except BaseException:
                self._thread.close()
                raise

    @async_unsafe(f"JobWriter.send(): {_WAIT}")
    def send(
        self,
        data: Any = None,
        event: str | None = None,
        *,
        comments: str | None = None,
        serializer: SerializerClass | None = None,
    ) -> None:
        """Send an event to all clients of the job, now and later.

        Objects become text as by ``publish()``. It returns when the broker has stored the event,
        and waits while the broker is away, for a minute at most.

        Raises ``JobCancelled`` once the work is to end, what ``publish()`` raises, and what
        ``begin()`` does.
        """
        self.begin()
        self._publish(*_encoded(data, event, comments, serializer))

    @async_unsafe(f"JobWriter.progress(): {_WAIT}")
    def progress(self, done: float, total: float | None = None) -> None:
        """Send ``event: progress`` with ``{"done": …, "total": …}``, as ``send()`` does."""
        self.begin()
        self._publish(progress_head(done, total), b"", "progress")

    @async_unsafe(f"JobWriter.finish(): {_WAIT}")
    def finish(self) -> None:
        """End the job as ``done``, or as ``cancelled`` where it was cancelled meanwhile."""
        self._end("done")

    @async_unsafe(f"JobWriter.fail(): {_WAIT}")
    def fail(self) -> None:
        """End the job as ``failed``."""
        self._end("failed")

    def __enter__(self) -> Self:
        """Begin to work."""
        self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """End the job; a ``JobCancelled`` ends here."""
        if kind is None or issubclass(kind, JobCancelled):
            self.finish()
            return kind is not None
        self.fail()
        return False

    # In coroutines.

    async def abegin(self) -> None:
        """Do the same as ``begin()`` from a coroutine."""
        if self._run is None:
            try:
                self._run = await self._begun()
            except BaseException:
                await close_unused_hub()
                raise

    async def asend(
        self,
        data: Any = None,
        event: str | None = None,
        *,
        comments: str | None = None,
        serializer: SerializerClass | None = None,
    ) -> None:
        """Do the same as ``send()`` from a coroutine."""
        await self.abegin()
        assert self._run is not None
        if isinstance(data, QuerySet):
            data = await sync_to_async(evaluated)(data)
        await self._run.publish(*_encoded(data, event, comments, serializer))

    async def aprogress(self, done: float, total: float | None = None) -> None:
        """Do the same as ``progress()`` from a coroutine."""
        await self.abegin()
        assert self._run is not None
        await self._run.publish(progress_head(done, total), key="progress")

    async def afinish(self) -> None:
        """Do the same as ``finish()`` from a coroutine."""
        await self._aend("done")

    async def afail(self) -> None:
        """Do the same as ``fail()`` from a coroutine."""
        await self._aend("failed")

    async def __aenter__(self) -> Self:
        """Begin to work."""
        await self.abegin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """End the job; a ``JobCancelled`` ends here."""
        if kind is None or issubclass(kind, JobCancelled):
            await self.afinish()
            return kind is not None
        await self.afail()
        return False

    async def _begun(self) -> Run:
        job = await find(self.id)
        if job is None:
            raise LookupError(
                f"There is no job {self.id!r}: a JobView starts it, and the broker keeps it."
            )
        run = Run(job)
        await run.begin(take_over=True)
        return run

    def _publish(self, head: bytes, tail: bytes, key: str | None = None) -> None:
        assert self._run is not None
        if self._thread is None or self._over:
            raise StreamClosed(f"The job {self.id} is over, or is worked on in a coroutine.")
        self._thread.call(self._run.publish(head, tail, key))

    def _end(self, ending: Ending) -> None:
        self.begin()
        assert self._thread is not None
        if not self._over:
            try:
                self._thread.call(self._aend(ending))
            finally:
                self._thread.close()

    async def _aend(self, ending: Ending) -> None:
        await self.abegin()
        assert self._run is not None
        if not self._over:
            self._over = True
            try:
                await self._run.close("cancelled" if self._run.cancelled else ending)
            finally:
                # The event loop of a task ends with it, and would leave the broker's connections open.
                await close_unused_hub()


class _Thread:
    """A thread with an event loop, for a writer that is used outside of one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="django_sse-job", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """End the thread, and all that its loop holds."""
        try:
            self.call(close_idle_hub())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()


def _encoded(
    data: Any, event: str | None, comments: str | None, serializer: SerializerClass | None
) -> tuple[bytes, bytes]:
    data, _ = look_through(data)
    if isinstance(data, ServerSentEvent):
        if data.id is not None or data.retry is not None:
            raise InvalidEvent(
                "An event of a job must have neither an id nor a retry: the broker gives its id.",
                field="id",
                value=data.id,
            )
        data, event, comments = data.data, data.event, data.comments
    check_fields(data, event, None, None, comments)
    text = None if data is None else Words(serializer, None, None).text(data)
    return encode_head(text, event), encode_tail(None, comments)
