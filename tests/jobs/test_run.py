"""The first record of a job, its lease and its end, over each broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from django_sse.brokers import use_broker
from django_sse.brokers.base import FIRST, LAST, Broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.exceptions import BrokerError
from django_sse.jobs.records import Ending, Job, find
from django_sse.jobs.run import Run, ask_to_end, create, end, end_now, new_run
from django_sse.topics.hub import close_idle_hub, get_hub

ID = "0123456789abcdef"


def job(**values: Any) -> Job:
    return Job(
        **{"id": ID, "view": "shop.A", "owner": "7", "state": "running", "lease": 60.0} | values
    )


@pytest.fixture(autouse=True)
def used(make_broker: Callable[..., Broker]) -> Iterator[Broker]:
    """The broker of this process."""
    broker = make_broker()
    before = use_broker(broker)
    yield broker
    use_broker(before)


async def last_events() -> list[tuple[bytes, str | None]]:
    found = await get_hub().listener.replay([f"job:{ID}"], (await known()).start)
    return [(it.head, it.key) for it in found]


async def known() -> Job:
    found = await find(ID)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
async def closed_hub() -> Any:
    yield
    await close_idle_hub()


async def test_a_job_of_one_id_is_created_once() -> None:
    first, second = job(run=new_run()), job(run=new_run(), owner="8")
    created = await create(first, once=True)
    assert created is not None
    assert created == replace(first, start=created.record_id, record_id=created.record_id)
    assert created.record_id > FIRST
    assert await create(second, once=True) is None
    # The second one has left no trace, and what came of the first meanwhile counts.
    assert await known() == created
    await end(created, "done")
    assert await create(second, once=True) is None
    assert (await known()).state == "done"


async def test_the_first_end_counts() -> None:
    created = await create(job(), once=False)
    assert created is not None
    assert await find("0" * 16) is None
    await ask_to_end(created)
    assert (await known()).state == "cancelling"
    await end(await known(), "cancelled")
    await end(created, "failed")
    ended = await known()
    assert (ended.state, ended.owner, ended.start) == ("cancelled", "7", created.record_id)
    assert await last_events() == [(b'event: end\ndata: {"state": "cancelled"}\n', LAST)]
    await ask_to_end(ended)
    assert await known() == ended


@pytest.mark.parametrize("ending", ["done", "failed"])
async def test_an_order_that_comes_after_the_end_changes_nothing(ending: Ending) -> None:
    created = await create(job(), once=False)
    assert created is not None
    await end(created, ending)
    ended = await known()
    # Two clients have read the record before the end.
    await asyncio.gather(ask_to_end(created), ask_to_end(created))
    assert replace(await known(), record_id=FIRST) == replace(ended, record_id=FIRST)
    assert len(await last_events()) == 1


async def test_a_job_is_ended_without_an_event_loop() -> None:
    created = await create(job(), once=False)
    assert created is not None
    # Django's databases may not be asked on an event loop.
    await asyncio.to_thread(end_now, created, "failed", timeout=20)
    ended = await known()
    assert ended.state == "failed"
    assert ended.end is not None
    assert ended.ended_at is not None
    assert await last_events() == [(b'event: end\ndata: {"state": "failed"}\n', LAST)]


def test_job_is_ended_within_one_timeout() -> None:
    class Noting(MemoryBroker):
        timeouts: list[float] = []

        def publish(self, *args: Any, timeout: float, **options: Any) -> Any:
            self.timeouts.append(timeout)
            return super().publish(*args, timeout=timeout, **options)

    use_broker(Noting())
    end_now(job(), "failed", timeout=20)
    event, record = Noting.timeouts
    assert record < event == 20


async def test_work_that_cannot_begin_listens_to_nothing() -> None:
    class Deaf(MemoryBroker):
        def listen(self, *args: Any) -> Any:
            listener = super().listen(*args)

            async def newest(*args: Any, **options: Any) -> Any:
                raise BrokerError("The broker is away.")

            listener.newest = newest  # type: ignore[method-assign]
            return listener

    use_broker(Deaf())
    run = Run(job())
    with pytest.raises(BrokerError):
        await run.begin()
    assert get_hub().unused
