"""``JobView``: a POST starts work that outlives its connection, and any number of clients read it."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterable, Mapping
from datetime import timedelta
from inspect import isasyncgenfunction
from typing import Any, ClassVar

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from rest_framework.exceptions import NotFound

from django_sse.brokers.base import FIRST, EventId
from django_sse.conf import conf
from django_sse.connection.stream import defines
from django_sse.connection.users import is_authenticated, user_key
from django_sse.exceptions import BrokerError, InvalidEvent, StreamFinished
from django_sse.handshake.limits import ComeBackLater
from django_sse.handshake.page import shows_page
from django_sse.streams.sending import T, coroutine_or_generator
from django_sse.topics.declarations import Declaration, check_event
from django_sse.views import SSEView
from django_sse.wire.events import ServerSentEvent, check_fields, encode_head, encode_tail
from django_sse.wire.serialization import check_serializer, is_proxy

from . import watch
from .background import background
from .defined import defined
from .records import ENDINGS, EVENTS, Ending, Job, find, find_last_event, is_job_id, progress_head
from .run import Run, ask_to_end, new_run
from .starting import find_started, id_of_key, start, stored_event

#: The header of the response with the job's id.
HEADER = "SSE-Job"
#: More events than any history has.
_ALL = 1_000_000

#: Attributes of ``SSEView`` that a job does not use, and what a job does instead.
_UNUSED = {
    "stream": "sends what work() sends",
    "topics": "follows the topic of its job; add others in get_topics(), beside super()'s",
    "rewind": "sends all events of its job that are kept",
}


class JobView(SSEView[T], base=True):
    """A stream of work that outlives its connection: a POST starts it, a GET reads it, a DELETE cancels it.

    The POST runs ``work()`` in the background, and streams what it sends. A client that comes back
    with ``Last-Event-ID``, or with the job's id, gets the rest: every event once and in order, also
    from another process. Each response has the job's id in its header ``SSE-Job``. The route of the
    GET and the DELETE has it as ``job``, or the query has.

    After the last event, which is ``event: end`` by default, the response ends. A client that has
    seen it and reconnects gets 204. A finished job can be read for ``keep`` seconds, within what
    the broker keeps. Where more events were sent than the broker's ``HISTORY``, a client that needs
    the older ones gets a ``reset`` first, and then ``snapshot()``, or without one the events that
    are left.

    Only the user who started a job may read and cancel it. The job of an anonymous client is open
    to every client that knows its id. ``has_job_permission()`` decides.
    """

    http_method_names = ["get", "post", "delete", "head", "options"]

    #: Seconds, or a ``timedelta``, for which a job that has ended can be read.
    keep: float | timedelta = 3600
    #: Seconds, or a ``timedelta``, for which a job may wait for its task to begin. After that, it
    #: fails.
    queue_timeout: float | timedelta = 3600

    #: What the request's serializer has validated, where the view has a ``serializer_class``.
    data: Any = None
    #: The job of this connection; ``None`` for the page of a view without one.
    job: Job | None = None
    # The writer that work() sends to; None on a connection.
    _run: Run | None = None
    # Whether this connection counts as a follower of the job's watch.
    _watching: bool = False

    serializer_class: ClassVar[Any] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the hooks of a subclass as ``SSEView`` does."""
        super().__init_subclass__(**kwargs)
        for name in ("prepare_work", "enqueue", "get_job_id", "has_job_permission"):
            if defines(cls, JobView, name) and not iscoroutinefunction(getattr(cls, name)):
                raise ImproperlyConfigured(
                    f"{cls.__qualname__}.{name}() must be an `async def`. Call what is synchronous "
                    "in it with `await sync_to_async(…)()`."
                )
        work = cls.work
        if not (iscoroutinefunction(work) or isasyncgenfunction(work)):
            raise ImproperlyConfigured(
                f"{cls.__qualname__}.work() must be an `async def` (a coroutine, or an async "
                "generator). Call what is synchronous in it with `await sync_to_async(…)()`."
            )
        defined.add(cls)

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the view for ``urls.py``, as ``SSEView.as_view()`` does."""
        if not (defines(cls, JobView, "work") or defines(cls, JobView, "enqueue")):
            raise ImproperlyConfigured(
                f"{cls.__qualname__} must define `async def work(self)`, or `async def "
                "enqueue(self, job_id)` for a task that does the work."
            )
        given = {it: initkwargs.get(it, getattr(cls, it)) for it in (*_UNUSED, "events")}
        for name, instead in _UNUSED.items():
            if given[name] and given[name] != getattr(JobView, name):
                raise ImproperlyConfigured(
                    f"{cls.__qualname__} must not have {name}: a JobView {instead}."
                )
        serializer_class = initkwargs.get("serializer_class", cls.serializer_class)
        if serializer_class is not None and not hasattr(serializer_class, "__get__"):
            check_serializer(f"{cls.__qualname__}.serializer_class", serializer_class)
        for name in cls._own_events():
            if isinstance(given["events"], Mapping) and name in given["events"]:
                raise ImproperlyConfigured(
                    f"{cls.__qualname__}.events must not have {name!r}: a job sends it by itself, "
                    "and it is declared already. Give yours another name."
                )
        return super().as_view(**initkwargs)

    @classmethod
    def _own_events(cls) -> dict[str, type]:
        """Return the events that jobs of this view send by themselves, and their data."""
        found = dict(EVENTS)
        # The view declares what it sends in the place of these.
        if defines(cls, JobView, "start_event"):
            del found["job"]
        if defines(cls, JobView, "end_event"):
            del found["end"]
        return found

    def declarations(self, topics: Iterable[str]) -> tuple[Declaration, ...]:
        """Return what the view and these topics declare, with the events of jobs."""
        held = super().declarations(topics)
        return (*held, Declaration("JobView", self._own_events())) if held else held

    # A project defines these.

    @coroutine_or_generator
    async def work(self) -> None:
        """Do the work: ``await self.send(…)`` reaches every client, now and later. May be an async generator.

        It runs in the process, in a task of its own, whether there are clients or not. ``self`` has
        the request, the user, and what ``prepare_work()`` has set, but no connection. A cancelled
        job raises ``CancelledError`` in it. Any other exception is logged, and ends the job as
        ``failed``.
        """

    async def enqueue(self, job_id: str) -> None:
        """Start the work. By default, ``work()`` begins in this process.

        Override it to start a task of Celery's or Django's, which works with ``JobWriter(job_id)``.
        When it raises, the job has failed.
        """
        assert self.job is not None
        worker = self._worker()
        background.begin(self.job, worker._work_on)

    async def prepare_work(self) -> None:
        """Check a POST before its work starts; raise an exception of DRF to refuse it.

        By default, the ``serializer_class`` validates the request's data, and ``self.data`` has the
        result.
        """
        if self.serializer_class is not None:
            self.data = await sync_to_async(self._validated)()

    async def get_job_id(self) -> str | None:
        """Return the id of the job that a GET or a DELETE is about, or ``None`` where there is none.

        By default, it is the route's argument ``job``, or the query's. Raise ``StreamFinished`` to
        answer 204: there is nothing to read at the moment.
        """
        return self.kwargs.get("job") or self.request.GET.get("job")

    def get_idempotency_key(self) -> str | None:
        """Return what makes a repeated POST the same job; by default, the header ``Idempotency-Key``.

        The key belongs to the user; the same key of another user is another job.
        """
        key = str(self.request.headers.get("Idempotency-Key", "")).strip().strip('"')
        return key or None

    async def has_job_permission(self, job: Job) -> bool:
        """Return whether the client may read and cancel a job; otherwise, it gets 404.

        By default, a user's job is for that user; the one of an anonymous client is for all who
        know its id.
        """
        return job.owner is None or job.owner == self._owner()

    def start_event(self, job_id: str) -> ServerSentEvent | None:
        """Return the job's first event; by default ``event: job``, with its id. ``None`` sends none.

        It may have data and a name, but no ``id``, ``retry`` or ``comments``.
        """
        return ServerSentEvent({"id": job_id}, event="job")

    def end_event(self, ending: Ending) -> ServerSentEvent:
        """Return the job's last event, for ``"done"``, ``"failed"`` and ``"cancelled"``.

        By default, it is ``event: end`` with ``{"state": ending}``. All three are made as the job
        starts: another process may have to send it. They may have data and a name, but no ``id``,
        ``retry`` or ``comments``.
        """
        return ServerSentEvent({"state": ending}, event="end")

    async def progress(self, done: float, total: float | None = None) -> None:
        """Send ``event: progress`` with ``{"done": …, "total": …}``, from ``work()``.

        Raises ``RuntimeError`` elsewhere, ``ValueError`` for a number that JSON does not know, and
        what ``send()`` does.
        """
        if self._run is None:
            raise RuntimeError(
                f"{type(self).__qualname__}.progress() sends to the clients of a job: call it in "
                "work()."
            )
        await self._run.publish(progress_head(done, total), key="progress")

    # The work, on a copy of the view without a connection.

    async def send(
        self,
        data: T | ServerSentEvent | str | None = None,
        event: str | None = None,
        id: str | None = None,
        retry: int | timedelta | None = None,
        comments: str | None = None,
    ) -> None:
        """Send an event: in ``work()``, to all clients of the job; elsewhere, as ``SSEView`` does.

        In ``work()``, it returns when the broker has stored the event, and waits while the broker
        is away, for a minute at most. It raises ``JobCancelled`` once the job was cancelled, and
        ``PublishFailed``. The broker gives the event its ``id``.
        """
        run = self._run
        if run is None:
            await super().send(data, event, id, retry, comments)
            return
        given: Any = data
        if is_proxy(given):
            given = await self._behind(given)
        if isinstance(given, ServerSentEvent):
            if not (event is None and id is None and retry is None and comments is None):
                raise TypeError("send() takes a ServerSentEvent alone: use dataclasses.replace().")
            given, event, id = given.data, given.event, given.id
            retry, comments = data.retry, data.comments  # type: ignore[union-attr]
        if id is not None:
            raise InvalidEvent(
                f"An event of a job must have no id of its own, got {id!r}: the broker gives it one, "
                "with which clients resume.",
                field="id",
                value=id,
            )
        wait = check_fields(given, event, None, retry, comments)
        if self._held:
            check_event(self._held, event, given, view=type(self))
        if given is not None and not isinstance(given, str):
            given = await self._as_text(given)
        await run.publish(encode_head(given, event), encode_tail(wait, comments))

    def _validated(self) -> Any:
        context = self.get_serializer_context()
        serializer = self.serializer_class(data=self.request.data, context=context)
        serializer.is_valid(raise_exception=True)
        return serializer.validated_data

    def _check_open(self) -> None:
        if self._run is None:
            super()._check_open()

    def _worker(self) -> JobView[T]:
        """Return a copy of the view that does the work, before the view has a connection."""
        worker = copy.copy(self)
        worker._writer = None  # Its serializers are bound to this view.
        worker._hold_to_declarations(())
        return worker

    async def _work_on(self, run: Run) -> None:
        self._run = run
        await self._send_all(self.work())

    # A client of the job.

    async def get_topics(self) -> Iterable[str]:
        """Return the topic with the job's events."""
        return [] if self.job is None else [self.job.topic]

    async def get_rewind(self) -> int:
        """Return how many events a client gets that cannot resume: all, unless there is a ``snapshot()``."""
        return 0 if defines(type(self), JobView, "snapshot") else _ALL

    def _only_follows(self) -> bool:
        return True

    async def _prepare_topics(self) -> None:
        try:
            await self._prepare_job()
        except BrokerError as error:
            raise ComeBackLater("The broker of this server is away.", status=503) from error
        await super()._prepare_topics()

    async def _prepare_job(self) -> None:
        method = self.request.method
        if method == "POST":
            await self.prepare_work()
            self.job = await self._start()
        else:
            self.job = await self._find(await self.get_job_id())
        if self.job is None:
            return
        if method == "DELETE":
            await ask_to_end(self.job)
            raise StreamFinished
        self.headers.setdefault(HEADER, self.job.id)
        seen = self._seen()
        if seen is not None and await self._was_last(self.job, seen):
            raise StreamFinished  # The client has seen the last event.

    async def _was_last(self, job: Job, seen: EventId) -> bool:
        """Return whether the event that the client has seen was the last one."""
        if job.ended or seen <= job.start:
            return seen == job.end
        # Nothing more would come for this client.
        last = await find_last_event(job)
        return last is not None and last[0] == seen

    async def _find(self, job_id: str | None) -> Job | None:
        if job_id is None and shows_page(self.request):
            return None
        job = await find(job_id) if job_id is not None and is_job_id(job_id) else None
        if job is None or not job.is_kept(_seconds(self.keep)) or not await self._may_see(job):
            # The same answer for a job that does not exist and for one of another user.
            raise NotFound
        return job

    async def _may_see(self, job: Job) -> bool:
        return job.view == self._label() and await self.has_job_permission(job)

    async def _start(self) -> Job:
        """Start a job, or return the one that was started with the same ``Idempotency-Key``."""
        key, keep = self.get_idempotency_key(), _seconds(self.keep)
        if key is None:
            job_id = secrets.token_hex(16)
        else:
            job_id = id_of_key(key, view=self._label(), owner=self._owner())
            if (job := await find_started(job_id, keep=keep)) is not None:
                return job
        in_process = not defines(type(self), JobView, "enqueue")
        new = Job(
            id=job_id,
            view=self._label(),
            owner=self._owner(),
            state="running" if in_process else "queued",
            run=new_run(),
            lease=conf.job_lease if in_process else _seconds(self.queue_timeout),
            endings=self._endings(),
        )
        return await start(
            new,
            self._begin_job,
            once=key is not None,
            keep=keep,
            # A view that only starts a task of another process defines no work().
            needs_place=defines(type(self), JobView, "work"),
        )

    async def _begin_job(self, job: Job) -> None:
        self.job = job
        if (event := self.start_event(job.id)) is not None:
            text, name = stored_event(event, self._serialized)
            await Run(job).publish(encode_head(text, name))
        await self.enqueue(job.id)

    def _endings(self) -> dict[str, tuple[str | None, str | None]]:
        if not defines(type(self), JobView, "end_event"):
            return {}
        return {it: stored_event(self.end_event(it), self._serialized) for it in ENDINGS}

    def _owner(self) -> str | None:
        return user_key(self.user) if is_authenticated(self.user) else None

    @classmethod
    def _label(cls) -> str:
        return f"{cls.__module__}.{cls.__qualname__}"

    def _seen(self) -> EventId | None:
        seen = self.last_event_id
        return EventId.parse(seen) if seen else None

    def _resumes_after(self) -> str | None:
        assert self.job is not None, "The page without a job opens no stream."
        seen = self.last_event_id or None
        known = self._seen()
        if seen is None or (known is not None and known < self.job.start):
            # A fresh client gets the job from its beginning; so does one with the id of an older job.
            return str(self.job.start)
        if known is not None and self.job.end is not None and known > self.job.end:
            # It is no event of this job. Nothing comes after it: let the client begin anew.
            return str(FIRST)
        return seen

    async def _subscribe(self, *, anew: bool) -> None:
        await super()._subscribe(anew=anew)
        if self.job is not None and self.close_reason is None and not self._watching:
            self._watching = True
            watch.follow(self.job)

    async def _catch_up(self) -> None:
        await super()._catch_up()
        if self.job is not None and not (self.resumed or self._rewinds):
            # The snapshot took the place of events, and the last one may have been among them.
            await self._send_missed_end(self.job)

    async def _send_missed_end(self, job: Job) -> None:
        last = await find_last_event(job)
        # Where it is newer than the snapshot, the hub delivers it, after the events before it.
        if last is not None and self._outbox is not None and self._subscription is not None:
            end, block = last
            if self.is_open and end <= self._subscription.cursor:
                self._outbox.put(block)
                self.end("completed")

    def wind_up(self, reason: str) -> None:
        """End the stream as ``SSEView`` does, and the watch over the job."""
        if self._watching and self.job is not None:
            watch.unfollow(self.job.id)
        super().wind_up(reason)


def _seconds(duration: float | timedelta) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration
