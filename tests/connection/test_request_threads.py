"""The thread of a request: one for all of its work, and the next request's when it is done."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import connection, connections, transaction

from django_sse.connection import request_threads
from django_sse.connection.request_threads import RequestThread


@pytest.fixture(autouse=True)
async def _no_idle_thread() -> None:
    async with asyncio.timeout(10):
        while request_threads._idle:  # noqa: ASYNC110 - threads tell nobody that they end
            await asyncio.sleep(0.02)


async def idle() -> None:
    """Wait until a thread waits for a request."""
    async with asyncio.timeout(10):
        while not request_threads._idle:  # noqa: ASYNC110 - threads tell nobody
            await asyncio.sleep(0.001)


def where() -> threading.Thread:
    return threading.current_thread()


async def test_all_work_of_a_request_has_one_thread_which_the_next_one_takes() -> None:
    async with RequestThread():
        first = await sync_to_async(where)()
        assert first is not threading.current_thread()
        # Also from another task, and from synchronous work that goes back to the loop.
        assert await asyncio.create_task(sync_to_async(where)()) is first
        back = async_to_sync(sync_to_async(where))
        assert await sync_to_async(back)() is first
    await idle()
    async with RequestThread():
        assert await sync_to_async(where)() is first
        # As asgiref's, it stands back where there is one already.
        async with RequestThread(), ThreadSensitiveContext():
            assert await sync_to_async(where)() is first
        assert await sync_to_async(where)() is first
    async with asyncio.timeout(10):
        while first.is_alive():  # noqa: ASYNC110 - threads tell nobody that they end
            await asyncio.sleep(0.05)


async def test_a_block_within_one_of_asgirefs_uses_that_ones_thread() -> None:
    async with ThreadSensitiveContext():
        outer = await sync_to_async(where)()
        async with RequestThread():
            assert await sync_to_async(where)() is outer
        assert await sync_to_async(where)() is outer


async def test_requests_beside_each_other_have_their_own_threads() -> None:
    barrier = threading.Barrier(20)

    async def request() -> threading.Thread:
        async with RequestThread():
            await sync_to_async(barrier.wait)(10)
            return await sync_to_async(where)()

    assert len(set(await asyncio.gather(*(request() for _ in range(20))))) == 20
    await asyncio.sleep(0.05)
    assert len(request_threads._idle) <= request_threads.MOST_IDLE


async def test_two_other_threads_that_begin_its_work_at_once_take_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[threading.Thread] = []
    take, both = request_threads._take, threading.Event()

    def slow_take() -> request_threads._Worker:
        both.wait(0.5)
        both.set()
        return take()

    def work() -> threading.Thread:
        thread = asyncio.run(sync_to_async(where)())
        started.append(thread)
        return thread

    monkeypatch.setattr(request_threads, "_take", slow_take)
    async with RequestThread():
        # They copy the context, as asyncio.to_thread() does, and have event loops of their own.
        first, second = await asyncio.gather(asyncio.to_thread(work), asyncio.to_thread(work))
    assert first is second
    async with asyncio.timeout(10):
        while any(it.is_alive() for it in started):  # noqa: ASYNC110 - threads tell nobody
            await asyncio.sleep(0.05)


async def test_work_that_another_thread_submits_after_the_end_is_refused() -> None:
    async with RequestThread() as thread:
        pass
    with pytest.raises(RuntimeError, match="The request is over"):
        thread.submit(where)


async def test_a_request_without_synchronous_work_takes_no_thread() -> None:
    before = threading.active_count()
    async with RequestThread():
        await asyncio.sleep(0)
    assert threading.active_count() == before


async def test_the_end_waits_for_work_that_was_left_behind() -> None:
    began, gate = threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> None:
        began.set()
        gate.wait(10)
        done.append("slow")

    async with RequestThread():
        task = asyncio.create_task(sync_to_async(slow)())
        await asyncio.to_thread(began.wait, 10)
        task.cancel()
        asyncio.get_running_loop().call_later(0.1, gate.set)
    assert done == ["slow"]


async def test_an_exception_is_raised_and_the_thread_goes_on() -> None:
    def fail() -> None:
        raise LookupError("nothing here")

    async with RequestThread():
        first = await sync_to_async(where)()
        with pytest.raises(LookupError, match="nothing here"):
            await sync_to_async(fail)()
        assert await sync_to_async(where)() is first


async def test_exceptions_that_an_event_loop_treats_apart_arrive_as_they_would_without_us() -> None:
    def stop() -> None:
        raise StopIteration

    def cancel() -> None:
        raise CancelledError("work")

    async with asyncio.timeout(10), RequestThread():
        with pytest.raises(RuntimeError, match="StopIteration"):
            await sync_to_async(stop)()
        with pytest.raises(asyncio.CancelledError):
            await sync_to_async(cancel)()


async def test_a_cancellation_that_nothing_awaits_any_more_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def cancel() -> None:
        raise asyncio.CancelledError

    async with RequestThread() as thread:
        await asyncio.wait([thread.submit(cancel)])
        gc.collect()
    assert not caplog.records


async def test_a_call_that_is_cancelled_before_its_turn_is_not_made() -> None:
    began, gate = threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> None:
        began.set()
        gate.wait(10)

    async with RequestThread():
        first = asyncio.create_task(sync_to_async(slow)())
        await asyncio.to_thread(began.wait, 10)
        second = asyncio.create_task(sync_to_async(done.append)("second"))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.sleep(0.01)
        gate.set()
        await first
        await sync_to_async(done.append)("third")
    assert second.cancelled()
    assert done == ["third"]


@pytest.mark.django_db(transaction=True)
async def test_a_thread_with_an_open_connection_serves_no_other_request() -> None:
    def query() -> threading.Thread:
        connection.ensure_connection()
        return where()

    async with RequestThread():
        first = await sync_to_async(query)()
    await asyncio.to_thread(first.join, 10)
    assert not first.is_alive()


@pytest.mark.django_db(transaction=True)
async def test_a_connection_that_may_be_kept_serves_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 60)

    def query(*, leave_open: bool = False) -> tuple[threading.Thread, object]:
        connection.ensure_connection()
        if leave_open:
            transaction.atomic().__enter__()
        return where(), connection.connection

    async with RequestThread():
        first = await sync_to_async(query)()
    await idle()
    async with RequestThread():
        # But not one that an interrupted request has left in a transaction.
        assert await sync_to_async(query)(leave_open=True) == first
    await asyncio.to_thread(first[0].join, 10)
    assert not first[0].is_alive()
    async with RequestThread():
        second = await sync_to_async(query)()
    await idle()
    # The kit's, so that the test database can be deleted.
    await request_threads.settle()
    await asyncio.to_thread(second[0].join, 10)
    assert not second[0].is_alive()


def test_a_process_ends_with_idle_threads_and_waits_for_those_at_work() -> None:
    code = (
        "import django; from django.conf import settings; settings.configure(); django.setup()\n"
        "import asyncio\n"
        "from asgiref.sync import sync_to_async\n"
        "from django_sse.connection import request_threads\n"
        "request_threads.IDLE_SECONDS = 60.0\n"
        "async def main():\n"
        "    async with request_threads.RequestThread():\n"
        "        await sync_to_async(print)('done')\n"
        "asyncio.run(main())\n"
        "import time\n"
        "loop = asyncio.new_event_loop()\n"
        "def slow():\n"
        "    loop.call_soon_threadsafe(loop.stop)\n"
        "    time.sleep(0.5)\n"
        "    print('slow', flush=True)\n"
        # A request whose loop is stopped never gives its thread back.
        "async def left_behind():\n"
        "    async with request_threads.RequestThread():\n"
        "        await sync_to_async(slow)()\n"
        "task = loop.create_task(left_behind())\n"
        "loop.run_forever()\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, timeout=50
    )
    assert done.stdout == "done\nslow\n"
    assert time.monotonic() - began < 40
