"""Work on a job outside of its view: in threads, in coroutines, and in Django's tasks."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.exceptions import SynchronousOnlyOperation
from django.test import override_settings
from rest_framework import serializers

from django_sse import InvalidEvent, JobCancelled, JobView, JobWriter, ServerSentEvent, StreamClosed
from django_sse.jobs.records import find
from django_sse.testing import StreamClient, connect
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("broker")

DONE = ("end", '{"state": "done"}')
FAILED = ("end", '{"state": "failed"}')
CANCELLED = ("end", '{"state": "cancelled"}')


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["username"]


class Queued(JobView):
    """Its work is done by whatever the test lets do it."""

    started: list[str]
    task: Callable[[str], None] | None = None

    async def enqueue(self, job_id: str) -> None:
        type(self).started.append(job_id)


@pytest.fixture(autouse=True)
def started() -> list[str]:
    Queued.started = []
    return Queued.started


def start() -> Any:
    return connect(Queued, method="POST")


def read(job: str, method: str = "GET", seen: str | None = None) -> Any:
    headers = {} if seen is None else {"Last-Event-ID": seen}
    return connect(Queued, kwargs={"job": job}, method=method, headers=headers)


async def rest(stream: StreamClient) -> list[tuple[str | None, Any]]:
    """The events up to the end of the response, after the first."""
    await stream.read()
    found = [(it.event, it.data) for it in stream.blocks if it.data is not None]
    assert found[0][0] == "job"
    return found[1:]


async def in_thread(work: Callable[[], Any]) -> Any:
    """Do what a task of a worker does, beside the test's event loop."""
    return await asyncio.to_thread(work)


async def test_task_sends_and_finishes(started: list[str]) -> None:
    def task() -> None:
        with JobWriter(started[0]) as job:
            job.progress(1, 2)
            job.send({"name": "Ann"}, event="person")
            job.send(ServerSentEvent("text", comments="a comment"))
            assert not job.cancelled

    async with start() as stream:
        await in_thread(task)
        assert await rest(stream) == [
            ("progress", '{"done": 1, "total": 2}'),
            ("person", '{"name":"Ann"}'),
            (None, "text"),
            DONE,
        ]
    assert not [it for it in threading.enumerate() if it.name == "django_sse-job"]


async def test_task_in_a_coroutine(started: list[str]) -> None:
    async with start() as stream:
        async with JobWriter(started[0]) as job:
            await job.aprogress(1)
            await job.asend("text")
            assert not job.cancelled
        assert await rest(stream) == [
            ("progress", '{"done": 1, "total": null}'),
            (None, "text"),
            DONE,
        ]


@pytest.mark.django_db(transaction=True)
async def test_query_set_is_sent(started: list[str]) -> None:
    await User.objects.acreate(username="ann")
    async with start() as stream:
        async with JobWriter(started[0]) as job:
            await job.asend(User.objects.all(), serializer=UserSerializer)
        assert "ann" in (await rest(stream))[0][1]


async def test_task_that_raises_fails_the_job(started: list[str]) -> None:
    def task() -> None:
        with JobWriter(started[0]) as job:
            job.send("begun")
            raise ValueError("no")

    async with start() as stream:
        with pytest.raises(ValueError, match="no"):
            await in_thread(task)
        assert await rest(stream) == [(None, "begun"), FAILED]
    async with start() as stream:
        with pytest.raises(ValueError, match="no"):
            async with JobWriter(started[1]):
                raise ValueError("no")
        assert await rest(stream) == [FAILED]


async def test_task_without_a_block(started: list[str]) -> None:
    def task() -> None:
        job = JobWriter(started[0])
        job.send("begun")
        job.fail()
        job.finish()  # Changes nothing any more.
        with pytest.raises(StreamClosed):
            job.send("too late")

    async with start() as stream:
        await in_thread(task)
        assert await rest(stream) == [(None, "begun"), FAILED]
    async with start() as stream:
        job = JobWriter(started[1])
        await job.asend("begun")
        await job.afail()
        with pytest.raises(StreamClosed):
            await job.asend("too late")
        with pytest.raises(StreamClosed):
            await in_thread(lambda: job.send("of the other kind"))
        assert await rest(stream) == [(None, "begun"), FAILED]


async def test_cancelled_task_ends(started: list[str]) -> None:
    begun = threading.Event()

    def task() -> bool:
        with JobWriter(started[0]) as job:
            begun.set()
            while True:
                job.send("again")

        return job.cancelled

    async with start() as stream:
        work = asyncio.create_task(in_thread(task))
        await eventually(begun.is_set)
        async with read(started[0], "DELETE") as answer:
            assert answer.status_code == 204
        assert await work
        assert (await rest(stream))[-1] == CANCELLED


async def test_cancelled_coroutine_ends(started: list[str]) -> None:
    async with start() as stream:
        async with JobWriter(started[0]) as job:
            async with read(started[0], "DELETE"):
                pass
            await eventually(lambda: job.cancelled)
            with pytest.raises(JobCancelled):
                await job.aprogress(1)
            await job.asend("never sent")
        assert await rest(stream) == [CANCELLED]


async def test_job_that_is_cancelled_before_its_task_begins(started: list[str]) -> None:
    async with start() as stream:
        async with read(started[0], "DELETE"):
            pass
        assert await rest(stream) == [CANCELLED]
    async with JobWriter(started[0]) as job:
        assert job.cancelled
        await job.asend("never sent")
    async with read(started[0]) as stream:
        assert await rest(stream) == [CANCELLED]


async def test_task_that_runs_again_begins_anew(started: list[str]) -> None:
    async with start() as stream:
        first = JobWriter(started[0])
        await first.asend("first")
        async with JobWriter(started[0]) as second:
            await eventually(lambda: first.cancelled)
            with pytest.raises(JobCancelled):
                await first.asend("again")
            await first.afinish()  # The job is the second one's.
            await second.asend("second")
        assert await rest(stream) == [(None, "first"), ("reset", "{}"), (None, "second"), DONE]


async def test_lease_is_kept_while_the_task_works(started: list[str]) -> None:
    with override_settings(DJANGO_SSE={"JOB_LEASE": 0.1}):
        async with start() as stream:
            async with JobWriter(started[0]) as job:
                await asyncio.sleep(0.5)
                await job.asend("still here")
            assert await rest(stream) == [(None, "still here"), DONE]


async def test_job_whose_process_died_has_failed(
    started: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with override_settings(DJANGO_SSE={"JOB_LEASE": 0.2}):
        async with start() as stream, read(started[0]) as other:
            job = JobWriter(started[0])
            await job.asend("begun")
            await stop_renewing(job)
            for it in (stream, other):
                assert await rest(it) == [(None, "begun"), FAILED]
            assert "its process has died" in caplog.text
            # The process lives after all: it hears of the job's end.
            await eventually(lambda: job.cancelled)
            await job.afinish()
        found = await find(started[0])
        assert found is not None
        assert found.state == "failed"


async def stop_renewing(job: JobWriter) -> None:
    """Let the lease of a job run out, as if its process had died."""
    run = job._run
    assert run is not None
    assert run._renewing is not None
    run._renewing.cancel()


async def test_job_that_waits_for_too_long_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Queued, "queue_timeout", 0.2)
    async with start() as stream:
        assert await rest(stream) == [FAILED]


async def test_unknown_job(started: list[str]) -> None:
    with pytest.raises(LookupError, match="There is no job 'x'"):
        await in_thread(lambda: JobWriter("x").send("text"))
    with pytest.raises(LookupError, match="There is no job 'x'"):
        await JobWriter("x").asend("text")


async def test_synchronous_methods_are_refused_in_an_event_loop() -> None:
    with pytest.raises(
        SynchronousOnlyOperation, match="use the method of the same name with an `a`"
    ):
        JobWriter("x").send("text")


@pytest.mark.parametrize("event", [ServerSentEvent("x", id="7"), ServerSentEvent("x", retry=1)])
async def test_event_of_a_job_has_neither_id_nor_retry(
    event: ServerSentEvent, started: list[str]
) -> None:
    async with start():
        with pytest.raises(InvalidEvent, match="neither an id nor a retry"):
            await JobWriter(started[0]).asend(event)
        await JobWriter(started[0]).afinish()


async def test_job_is_found_as_json(started: list[str]) -> None:
    async with start() as stream:
        assert json.loads(str((await stream.receive()).data)) == {"id": started[0]}
        await sync_to_async(JobWriter(started[0]).finish)()


async def test_thread_ends_also_where_its_hub_cannot_be_closed(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing() -> None:
        raise OSError("no connection")

    def task() -> None:
        job = JobWriter(started[0])
        job.begin()
        monkeypatch.setattr("django_sse.jobs.writer.close_idle_hub", failing)
        job.finish()

    async with start() as stream:
        with pytest.raises(OSError, match="no connection"):
            await in_thread(task)
        assert await rest(stream) == [DONE]
    assert not [it for it in threading.enumerate() if it.name == "django_sse-job"]
