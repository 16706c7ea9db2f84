"""Jobs whose process has died, and clients that wait for what they have had."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.test import override_settings

from django_sse import JobView, ServerSentEvent
from django_sse.brokers import use_broker
from django_sse.brokers.base import INTERNAL
from django_sse.brokers.memory import MemoryBroker
from django_sse.exceptions import BrokerError
from django_sse.jobs import watch
from django_sse.jobs.background import Background, background
from django_sse.jobs.records import Job, find
from django_sse.jobs.run import create
from django_sse.testing import connect
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("broker")

ID = "0123456789abcdef"


class Waiting(JobView):
    """Its work waits for the test."""

    go: asyncio.Event

    async def work(self) -> None:
        await self.send("begun")
        await type(self).go.wait()


@pytest.fixture(autouse=True)
async def go() -> asyncio.Event:
    Waiting.go = asyncio.Event()
    return Waiting.go


def read(job: str, seen: str | None = None) -> Any:
    headers = {} if seen is None else {"Last-Event-ID": seen}
    return connect(Waiting, kwargs={"job": job}, headers=headers)


async def test_client_that_had_the_end_before_the_record_tells_of_it(go: asyncio.Event) -> None:
    class Slow(MemoryBroker):
        """Stores the record of a job's end when the test lets it."""

        held = asyncio.Event()

        async def apublish(self, topics: Any, head: bytes, *args: Any, **options: Any) -> Any:
            if topics[0].startswith(INTERNAL) and b'"done"' in head:
                await self.held.wait()
            return await super().apublish(topics, head, *args, **options)

    broker = Slow()
    use_broker(broker)
    async with connect(Waiting, method="POST") as first:
        go.set()
        await first.read()
        job, last = first.headers["SSE-Job"], first.last_event_id
    async with read(job, last) as stream:
        assert stream.status_code == 204
    broker.held.set()
    async with read(job) as stream:
        await stream.read()
        assert stream.last_event_id == last


async def test_job_at_work_in_this_process_has_not_died(
    go: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewals of its lease may be late, where the event loop is busy."""
    checks = []

    def contains(self: Background, job_id: str) -> bool:
        checks.append(job_id)
        return job_id in self._works

    with override_settings(DJANGO_SSE={"JOB_LEASE": 0.05}):
        async with connect(Waiting, method="POST") as stream:
            job = stream.headers["SSE-Job"]
            work = background._works[job]
            renewing = work.run._renewing
            assert renewing is not None
            renewing.cancel()
            monkeypatch.setattr(Background, "__contains__", contains)
            await eventually(lambda: len(checks) >= 2)
            assert not work.task.done()
            go.set()
            await stream.read()
            assert stream.blocks[-1].data == '{"state": "done"}'


async def test_job_does_not_fail_while_the_broker_is_away(caplog: pytest.LogCaptureFixture) -> None:
    class Leaving(MemoryBroker):
        away = False
        asked = 0

        def listen(self, *args: Any) -> Any:
            listener = super().listen(*args)
            known = listener.newest

            async def newest(*args: Any, **options: Any) -> Any:
                if self.away:
                    self.asked += 1
                    raise BrokerError("The broker is away.")
                return await known(*args, **options)

            listener.newest = newest  # type: ignore[method-assign]
            return listener

    broker = Leaving()
    use_broker(broker)
    label = Waiting._label()
    given = Job(id=ID, view=label, owner=None, state="running", run="x", lease=0.1)
    assert await create(given, once=False) is not None
    async with read(ID) as stream:
        broker.away = True
        await eventually(lambda: broker.asked >= 3)
        broker.away = False
        await stream.read()
        # It gets the time of one more lease, and nothing is heard.
        assert stream.blocks[-1] == ServerSentEvent(
            '{"state": "failed"}', event="end", id=stream.last_event_id
        )
    assert "its process has died" in caplog.text
    found = await find(ID)
    assert found is not None
    assert found.state == "failed"


async def test_one_answer_without_news_does_not_fail_a_job(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker may have come back a moment ago, and the job's process renews its lease next."""
    given = Job(id=ID, view=Waiting._label(), owner=None, state="running", run="x", lease=0.6)
    asked = asyncio.Event()

    async def find_and_note(job_id: str) -> Job | None:
        found = await find(job_id)
        asked.set()
        return found

    assert await create(given, once=False) is not None
    async with read(ID):
        monkeypatch.setattr(watch, "find", find_and_note)
        for _ in range(3):
            asked.clear()
            async with asyncio.timeout(10):
                await asked.wait()
            await create(given, once=False)  # A renewal is one more record.
        found = await find(ID)
        assert found is not None
        assert found.state == "running"
        assert "its process has died" not in caplog.text
