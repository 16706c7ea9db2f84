"""The jobs that this process works on itself: how many, and how they end."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from django.test import override_settings
from rest_framework.exceptions import PermissionDenied

from django_sse import JobView, PublishFailed, StreamClosed, sse_path
from django_sse.asgi import get_asgi_application
from django_sse.brokers import use_broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.handshake.response import current_exchange
from django_sse.jobs.background import background
from django_sse.jobs.records import find
from django_sse.jobs.run import end
from django_sse.testing import StreamClient, connect
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("broker")


class Waiting(JobView):
    """Its work waits for ever."""

    async def work(self) -> None:
        await self.send("begun")
        await asyncio.Event().wait()


async def begun(stream: StreamClient) -> None:
    while (await stream.receive()).data != "begun":
        pass


async def end_of(stream: StreamClient) -> str:
    await stream.read()
    assert stream.blocks[-1].event == "end"
    return str(stream.blocks[-1].data)


async def cancel(job: str, view: type[JobView] = Waiting) -> None:
    async with connect(view, kwargs={"job": job}, method="DELETE") as answer:
        assert answer.status_code == 204


async def state_of(job: str) -> str:
    found = await find(job)
    assert found is not None
    return found.state


async def test_posts_at_once_start_no_more_jobs_than_the_process_takes() -> None:
    class Slow(MemoryBroker):
        """Lets all POSTs come before it has stored anything."""

        async def apublish(self, *args: Any, **options: Any) -> Any:
            await asyncio.sleep(0.05)
            return await super().apublish(*args, **options)

    async def post() -> int | None:
        async with connect(Waiting, method="POST") as stream:
            return stream.status_code

    with override_settings(DJANGO_SSE={"MAX_JOBS": 3}):
        use_broker(Slow())
        answers = await asyncio.gather(*(post() for _ in range(20)))
        assert sorted(answers, key=str) == [200] * 3 + [503] * 17
        assert len(background) == 3
        background.end(asyncio.get_running_loop())
        await background.settle()
        # The places of those that were refused are free again.
        assert await post() == 200


async def test_refused_start_gives_its_place_back() -> None:
    class Failing(Waiting):
        async def enqueue(self, job_id: str) -> None:
            raise PermissionDenied

    with override_settings(DJANGO_SSE={"MAX_JOBS": 1}):
        for _ in range(2):
            async with connect(Failing, method="POST") as stream:
                assert stream.status_code == 403


async def test_posts_of_one_key_keep_their_place_until_the_last_has_left() -> None:
    with override_settings(DJANGO_SSE={"MAX_JOBS": 1}):
        with background.place("a") as first:
            with background.place("a") as second:
                assert first
                assert second
            with background.place("b") as other:
                assert not other
        with background.place("b") as other:
            assert other


async def test_job_that_starts_while_the_process_ends_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Late(Waiting):
        begun = False

        async def enqueue(self, job_id: str) -> None:
            monkeypatch.setattr("django_sse.connection.shutdown.shutdown.draining", True)
            await super().enqueue(job_id)
            monkeypatch.setattr("django_sse.connection.shutdown.shutdown.draining", False)

        async def work(self) -> None:
            type(self).begun = True
            await super().work()

    async with connect(Late, method="POST") as stream:
        assert await end_of(stream) == '{"state": "failed"}'
    assert not Late.begun


async def test_work_that_does_not_end_is_cancelled_for_its_clients(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Ending(MemoryBroker):
        """Counts the ends of jobs."""

        ends = 0

        async def apublish(self, topics: Any, head: bytes, *args: Any, **options: Any) -> Any:
            self.ends += b"event: end" in head
            return await super().apublish(topics, head, *args, **options)

    class Stubborn(Waiting):
        free = asyncio.Event()
        cancelled = 0

        async def work(self) -> None:
            await self.send("begun")
            while not self.free.is_set():
                try:
                    await self.free.wait()
                except asyncio.CancelledError:
                    type(self).cancelled += 1
            with pytest.raises(StreamClosed):
                await self.send("too late")

    monkeypatch.setattr("django_sse.connection.tasks.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr("django_sse.connection.tasks.GOODBYE_SECONDS", 0.05)
    broker = Ending()
    use_broker(broker)
    async with connect(Stubborn, method="POST") as stream:
        job = stream.headers["SSE-Job"]
        await begun(stream)
        await cancel(job, Stubborn)
        assert await end_of(stream) == '{"state": "cancelled"}'
    assert Stubborn.cancelled > 1
    assert "goes on, although it was cancelled several times" in caplog.text
    # It still takes a place.
    assert job in background
    assert not background._works[job].run.owns
    Stubborn.free.set()
    await eventually(lambda: job not in background)
    assert broker.ends == 1
    assert await state_of(job) == "cancelled"


async def test_end_of_a_cancelled_job_waits_for_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaving(MemoryBroker):
        """Does not take the end of a job while it is away."""

        away = True
        refused = 0

        async def apublish(self, topics: Any, head: bytes, *args: Any, **options: Any) -> Any:
            if self.away and b"event: end" in head:
                self.refused += 1
                raise PublishFailed("The broker is away.", may_be_stored=False)
            return await super().apublish(topics, head, *args, **options)

    # The cancellation is far more impatient than the end.
    monkeypatch.setattr("django_sse.connection.tasks.PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr("django_sse.connection.tasks.GOODBYE_SECONDS", 0.01)
    monkeypatch.setattr("django_sse.jobs.run.PAUSE_SECONDS", 0.05)
    broker = Leaving()
    use_broker(broker)
    async with connect(Waiting, method="POST") as stream:
        job = stream.headers["SSE-Job"]
        await begun(stream)
        await cancel(job)
        await eventually(lambda: broker.refused >= 6)
        broker.away = False
        assert await end_of(stream) == '{"state": "cancelled"}'


async def test_order_to_cancel_outlives_the_renewals_of_the_lease() -> None:
    class Renewing(MemoryBroker):
        """Counts the renewals that tell of the order."""

        orders = 0

        async def apublish(self, topics: Any, head: bytes, *args: Any, **options: Any) -> Any:
            self.orders += b'"cancelling"' in head
            return await super().apublish(topics, head, *args, **options)

    class Careful(Waiting):
        go = asyncio.Event()

        async def work(self) -> None:
            try:
                await super().work()
            finally:
                await self.go.wait()

    broker = Renewing()
    with override_settings(DJANGO_SSE={"JOB_LEASE": 0.05}):
        use_broker(broker)
        async with connect(Careful, method="POST") as stream:
            job = stream.headers["SSE-Job"]
            await begun(stream)
            await cancel(job, Careful)
            # The first one is the order itself.
            await eventually(lambda: broker.orders >= 3)
            assert await state_of(job) == "cancelling"
            Careful.go.set()
            assert await end_of(stream) == '{"state": "cancelled"}'


async def test_work_does_not_renew_a_job_that_was_ended_elsewhere() -> None:
    class Careful(Waiting):
        cleans = asyncio.Event()
        go = asyncio.Event()

        async def work(self) -> None:
            try:
                await super().work()
            finally:
                self.cleans.set()
                await self.go.wait()

    with override_settings(DJANGO_SSE={"JOB_LEASE": 0.05}):
        async with connect(Careful, method="POST") as stream:
            job = stream.headers["SSE-Job"]
            await begun(stream)
            found = await find(job)
            assert found is not None
            await end(found, "failed")
            await Careful.cleans.wait()
            renewing = background._works[job].run._renewing
            assert renewing is not None
            await renewing
            assert await state_of(job) == "failed"
            Careful.go.set()
            assert await end_of(stream) == '{"state": "failed"}'


async def test_work_that_cancels_itself_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Cancelling(Waiting):
        async def work(self) -> None:
            task = asyncio.create_task(asyncio.Event().wait())
            task.cancel()
            await task

    async with connect(Cancelling, method="POST") as stream:
        assert await end_of(stream) == '{"state": "failed"}'
    assert "Cancelling has failed: its work has cancelled itself" in caplog.text
    assert "CancelledError" in caplog.text


class Unconnected(Waiting):
    """Its work says whether it knows the exchange of the POST's connection."""

    async def work(self) -> None:
        await self.send(f"exchange: {current_exchange.get()}")


urlpatterns = [sse_path("unconnected/", Unconnected)]


async def test_work_keeps_nothing_of_the_connection_that_started_it(settings: Any) -> None:
    settings.ROOT_URLCONF, settings.MIDDLEWARE = __name__, []
    async with connect(get_asgi_application(), "/unconnected/", method="POST") as stream:
        await stream.read()
    assert [it.data for it in stream.blocks][-2:] == ["exchange: None", '{"state": "done"}']


async def test_tasks_that_work_leaves_behind_cannot_send() -> None:
    errors: list[BaseException] = []

    class Leaving(Waiting):
        left: Any = None

        async def work(self) -> None:
            type(self).left = asyncio.create_task(self.later())

        async def later(self) -> None:
            try:
                while True:
                    await self.send("late")
                    await asyncio.sleep(0)
            except StreamClosed as error:
                errors.append(error)

    async with connect(Leaving, method="POST") as stream:
        assert await end_of(stream) == '{"state": "done"}'
    await Leaving.left
    assert "send before its end" in str(errors[0])


@pytest.fixture
async def abandoned() -> list[str]:
    """Jobs whose event loop was stopped before they could tell of their end."""
    jobs = []
    for _ in range(3):
        async with connect(Waiting, method="POST") as stream:
            jobs.append(stream.headers["SSE-Job"])
    return jobs


async def test_process_tells_at_its_end_of_jobs_whose_loop_was_stopped(
    abandoned: list[str],
) -> None:
    await asyncio.to_thread(background.report_ends)
    for job in abandoned:
        async with connect(Waiting, kwargs={"job": job}) as stream:
            assert await end_of(stream) == '{"state": "failed"}'
            last = stream.last_event_id
        assert await state_of(job) == "failed"
        headers = {"Last-Event-ID": str(last)}
        async with connect(Waiting, kwargs={"job": job}, headers=headers) as stream:
            assert stream.status_code == 204


async def test_process_does_not_wait_for_its_broker_at_its_end(
    abandoned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(MemoryBroker):
        calls = 0

        def publish(self, *args: Any, timeout: float, **options: Any) -> Any:
            self.calls += 1
            time.sleep(timeout)
            raise PublishFailed("The broker is away.", may_be_stored=False)

    monkeypatch.setattr("django_sse.jobs.background.REPORT_SECONDS", 0.1)
    broker = Away()
    before = use_broker(broker)
    await asyncio.to_thread(background.report_ends)
    assert len(background) == 3
    assert broker.calls == 1  # not one for each job
    use_broker(before)
