"""The pool of threads for the synchronous work of streams."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import override_settings

from django_sse.connection import databases, threads
from django_sse.connection.threads import Lane, Pool
from testproject.shop.models import Customer


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.05)


@pytest.fixture
def lane() -> Iterator[Lane]:
    lane = Lane()
    yield lane
    # Whatever the test has opened; the thread ends once nothing is open.
    if lane.running:
        lane.submit(connections.close_all).result(10)
        wait_until_idle(lane)


def wait_until_idle(lane: Lane) -> None:
    deadline = time.monotonic() + 10
    while lane.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lane.running


def test_lane_works_in_order_on_one_thread(lane: Lane) -> None:
    done: list[int] = []
    futures = [lane.submit(done.append, i) for i in range(50)]
    idents = {lane.submit(threading.get_ident).result(10) for _ in range(5)}
    for future in futures:
        future.result(10)
    assert done == list(range(50))
    assert len(idents) == 1
    assert threading.get_ident() not in idents


def test_lane_has_a_thread_only_while_there_is_work(lane: Lane) -> None:
    assert not lane.running
    thread = lane.submit(threading.current_thread).result(10)
    assert thread.name == "django_sse"
    assert thread.daemon
    wait_until_idle(lane)
    thread.join(10)
    assert not thread.is_alive()
    assert lane.submit(lambda: "again").result(10) == "again"


def test_work_that_comes_as_the_thread_ends_is_done(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = threading.Event()
    late: list[Future[int]] = []

    def work_comes() -> None:
        if not late:
            late.append(lane.submit(lambda: 7))
            came.set()

    monkeypatch.setattr(databases, "close_old_connections", work_comes)
    lane.submit(lambda: None).result(10)
    assert came.wait(10)
    assert late[0].result(10) == 7


def test_lane_outlives_a_connection_that_cannot_be_closed(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise RuntimeError("Database access not allowed")

    monkeypatch.setattr(databases, "close_old_connections", refuse)
    lane.submit(lambda: None).result(10)
    wait_until_idle(lane)
    assert lane.submit(lambda: 7).result(10) == 7
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_lane_passes_exceptions_on_and_lives(lane: Lane) -> None:
    def fail() -> None:
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        lane.submit(fail).result(10)
    assert lane.submit(lambda: 7).result(10) == 7


def test_lane_that_waits_holds_nothing_of_what_it_did(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "IDLE_SECONDS", 30)

    class Large:
        pass

    future = lane.submit(Large)
    result = weakref.ref(future.result(10))
    del future
    # The thread may still be on its way from the result to its wait.
    deadline = time.monotonic() + 10
    while result() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert result() is None
    assert lane.running
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.05)
    lane.submit(Large).result(10)


def test_lane_leaves_out_work_that_was_cancelled(lane: Lane) -> None:
    proceed = threading.Event()
    done: list[str] = []
    first = lane.submit(proceed.wait, 10)
    cancelled: Future[None] = lane.submit(done.append, "cancelled")
    assert cancelled.cancel()
    proceed.set()
    assert first.result(10)
    lane.submit(done.append, "next").result(10)
    assert done == ["next"]


@pytest.fixture
def closing(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of other threads are closed as those of any database: in memory, none is."""
    monkeypatch.setattr(type(connections["default"]), "is_in_memory_db", lambda self: False)


def opened() -> int:
    return sum(c.connection is not None for c in connections.all(initialized_only=True))


def ensure_connection() -> None:
    connections["default"].ensure_connection()


@pytest.mark.usefixtures("closing")
def test_lane_closes_its_connections_when_work_ends(lane: Lane) -> None:
    lane.submit(ensure_connection).result(10)
    assert lane.submit(opened).result(10) == 1
    wait_until_idle(lane)
    assert lane.submit(opened).result(10) == 0


@pytest.mark.usefixtures("closing")
def test_lane_keeps_a_connection_that_may_live_on(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "CONN_MAX_AGE", None)
    looked = threading.Semaphore(0)
    close_old_connections = databases.close_old_connections

    def look() -> None:
        close_old_connections()
        if threading.current_thread() is lane._thread:  # Others may be ending beside it.
            looked.release()

    monkeypatch.setattr(databases, "close_old_connections", look)
    lane.submit(ensure_connection).result(10)
    # It is looked at once, and not again before there is work: nothing would become of it.
    assert looked.acquire(timeout=10)
    assert not looked.acquire(timeout=0.2)
    assert lane.running
    assert lane.submit(opened).result(10) == 1


@pytest.mark.usefixtures("closing")
def test_lane_closes_a_connection_that_broke(lane: Lane) -> None:
    def break_it() -> None:
        connection = connections["default"]
        connection.ensure_connection()
        connection.errors_occurred = True
        connection.is_usable = lambda: False  # type: ignore[method-assign]
        raise RuntimeError("the database has gone away")

    with pytest.raises(RuntimeError, match="gone away"):
        lane.submit(break_it).result(10)
    assert lane.submit(opened).result(10) == 0


@pytest.mark.usefixtures("closing")
async def test_lane_keeps_a_connection_while_a_query_is_iterated(lane: Lane) -> None:
    await Customer.objects.abulk_create(Customer(first_name=str(i)) for i in range(5))
    context = contextvars.copy_context()
    lane.adopt(context)

    async def read() -> list[str]:
        names = []
        async for customer in Customer.objects.order_by("pk").aiterator(chunk_size=1):
            names.append(customer.first_name)
            if len(names) == 2:
                await asyncio.sleep(6 * threads.IDLE_SECONDS)
                assert lane.running
        return names

    names = await asyncio.get_running_loop().create_task(read(), context=context)
    assert names == ["0", "1", "2", "3", "4"]
    await asyncio.to_thread(wait_until_idle, lane)


@pytest.mark.usefixtures("closing")
def test_lane_gives_a_pools_connection_back_after_each_call(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "CONN_MAX_AGE", None)
    monkeypatch.setattr(databases, "is_pooled", lambda settings: True)

    def begin() -> None:
        ensure_connection()
        connections["default"].in_atomic_block = True

    def end(*, fails: bool) -> None:
        connections["default"].in_atomic_block = False
        if fails:
            connections["default"].close = refuse  # type: ignore[method-assign]
        else:
            del connections["default"].close

    def refuse() -> None:
        raise RuntimeError("no")

    lane.submit(ensure_connection).result(10)
    assert lane.submit(opened).result(10) == 0
    # A transaction that a call has left open keeps it.
    lane.submit(begin).result(10)
    assert lane.submit(opened).result(10) == 1
    lane.submit(end, fails=True).result(10)
    assert lane.submit(opened).result(10) == 1
    assert "could not be closed" in caplog.text
    lane.submit(end, fails=False).result(10)
    assert lane.submit(opened).result(10) == 0


@pytest.mark.parametrize(
    ("settings", "pooled"),
    [
        ({"ENGINE": "django.db.backends.postgresql"}, False),
        ({"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"pool": False}}, False),
        ({"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"pool": True}}, True),
        ({"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"pool": {"max_size": 2}}}, True),
        ({"ENGINE": "dj_db_conn_pool.backends.postgresql"}, True),
    ],
)
def test_pool_is_known_by_its_settings(settings: dict[str, Any], pooled: bool) -> None:
    assert databases.is_pooled(settings) is pooled


@pytest.mark.usefixtures("closing")
@pytest.mark.parametrize("max_age", [0, 600])
def test_lane_that_is_asked_now_and_then_keeps_what_conn_max_age_says(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, max_age: int
) -> None:
    monkeypatch.setattr(threads, "IDLE_SECONDS", 30)
    monkeypatch.setattr(threads, "RELEASE_SECONDS", 0.02)
    monkeypatch.setitem(connections["default"].settings_dict, "CONN_MAX_AGE", max_age)
    for _ in range(3):
        lane.submit(ensure_connection).result(10)
        time.sleep(0.2)
        # The thread goes on; its connection was closed as at the end of a request.
        assert lane.running
        assert lane.submit(opened).result(10) == (max_age > 0)
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.05)


# The pool.


def test_pool_leases_the_lane_with_the_fewest_streams() -> None:
    pool = Pool()
    with override_settings(DJANGO_SSE={"THREADS": 3}):
        lanes = [pool.lease() for _ in range(6)]
        assert len(set(map(id, lanes))) == 3
        assert [lane.streams for lane in lanes] == [2] * 6
        pool.give_back(lanes[1])
        assert pool.lease() is lanes[1]
        pool.reset()
        assert pool.lease() not in lanes


def test_pool_begins_anew_when_the_setting_changes() -> None:
    before = threads.pool.lease()
    threads.pool.give_back(before)
    with override_settings(DJANGO_SSE={"THREADS": 1}):
        first, second = threads.pool.lease(), threads.pool.lease()
        assert first is second is not before
    assert threads.pool.lease() is not first
    threads.pool.reset()


async def test_lane_takes_the_synchronous_work_of_its_context(lane: Lane) -> None:
    context = contextvars.copy_context()
    lane.adopt(context)

    async def work() -> list[int]:
        return [await sync_to_async(threading.get_ident)() for _ in range(3)]

    idents = await asyncio.get_running_loop().create_task(work(), context=context)
    assert set(idents) == {await asyncio.wrap_future(lane.submit(threading.get_ident))}


@pytest.mark.usefixtures("closing")
async def test_settle_closes_what_lanes_without_streams_have_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "IDLE_SECONDS", 5)
    monkeypatch.setattr(threads, "RELEASE_SECONDS", 5)
    pool = Pool()
    with override_settings(DJANGO_SSE={"THREADS": 2}):
        busy, idle = pool.lease(), pool.lease()
    for lane in (busy, idle):
        await asyncio.wrap_future(lane.submit(ensure_connection))
    pool.give_back(idle)
    await pool.settle()
    assert await asyncio.wrap_future(idle.submit(opened)) == 0
    assert await asyncio.wrap_future(busy.submit(opened)) == 1
    pool.give_back(busy)
    await pool.settle()
    assert await asyncio.wrap_future(busy.submit(opened)) == 0


def test_lane_whose_thread_cannot_be_started_tries_again(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [RuntimeError("can't start new thread")]
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if faults:
            raise faults.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    done: list[str] = []
    with pytest.raises(RuntimeError, match="new thread"):
        lane.submit(done.append, "first")
    lane.submit(done.append, "second").result(10)
    assert done == ["second"]
