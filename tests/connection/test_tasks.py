"""Ending tasks, and being ended meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from django_sse.connection import tasks
from django_sse.connection.tasks import settle


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "GOODBYE_SECONDS", 0.05)


@pytest.mark.parametrize("heeds", [0, 1, None], ids=["by itself", "when cancelled", "never"])
async def test_settle_gives_a_task_time_then_cancels_it_then_leaves_it(heeds: int | None) -> None:
    free = asyncio.Event()
    cancelled = 0

    async def clean_up() -> None:
        nonlocal cancelled
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                cancelled += 1
                if heeds is not None:
                    await asyncio.sleep(0.01)
                    raise

    cleaning = asyncio.ensure_future(clean_up())
    settling = asyncio.ensure_future(settle(cleaning))
    await asyncio.sleep(0)
    settling.cancel()
    if heeds == 0:
        asyncio.get_running_loop().call_later(0.01, free.set)
    await asyncio.wait_for(settling, 5)
    # The cancellation did not leave settle(), and did not reach the task at once.
    assert cancelled == (0 if heeds == 0 else 1)
    assert cleaning.done() is (heeds is not None)
    free.set()
    await asyncio.wait([cleaning])


async def test_settle_waits_for_as_long_as_nobody_hurries_it() -> None:
    cleaning = asyncio.ensure_future(asyncio.sleep(0.15, "done"))
    await settle(cleaning)
    assert cleaning.result() == "done"
