"""The threads and connections of a listener: when they end, and who waits for them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from django_sse.brokers.database import DatabaseBroker, listener, store
from django_sse.exceptions import BrokerError, HistoryLost
from tests.support.databases import database
from tests.support.ear import PATIENCE, TIMEOUT, Ear
from tests.support.postgres_server import PostgresServer
from tests.support.servers import HOST
from tests.support.waiting import eventually

from .conftest import Project

MakeProject = Callable[..., Project]


def threads(name: str) -> list[str]:
    return [it.name for it in threading.enumerate() if it.name.startswith(f"django_sse {name}")]


@pytest.fixture
def connected(on_postgres: Project, shared_postgres: PostgresServer) -> Callable[[], int]:
    """Return how many connections to the database of ``on_postgres`` are open."""
    name = on_postgres.name()

    def count() -> int:
        return int(
            shared_postgres.execute(
                f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
            )
        )

    return count


async def test_what_reads_for_clients_is_closed_when_it_is_not_used(
    on_postgres: Project, connected: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "IDLE_SECONDS", 0.3)
    ear = Ear(on_postgres.broker)
    for _ in range(2):
        start = await ear.listener.latest_id()
        assert await ear.listener.replay(["a"], start) == []
        on_postgres.broker.close()
        assert threads("database reader")
        async with asyncio.timeout(PATIENCE):
            while threads("database reader") or connected():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    await ear.listener.close()


async def test_connection_that_is_in_use_as_its_listener_is_closed_is_closed_later(
    on_postgres: Project, shared_postgres: PostgresServer, connected: Callable[[], int]
) -> None:
    ear = Ear(on_postgres.broker)
    start = await ear.listener.latest_id()
    name = on_postgres.name()
    where = f"host={HOST} port={shared_postgres.port} user=postgres dbname={name}"
    with psycopg.connect(where) as session:
        session.execute("LOCK TABLE django_sse_event, django_sse_entry")
        reading = [asyncio.create_task(ear.listener.replay(["a"], start)) for _ in range(4)]
        waiting = f"datname = '{name}' AND wait_event_type = 'Lock'"
        question = f"SELECT count(*) FROM pg_stat_activity WHERE {waiting}"
        async with asyncio.timeout(PATIENCE):
            while shared_postgres.execute(question) != str(listener.READERS):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await ear.listener.close()
        # Those whose turn did not come fail at once, as every later question does.
        done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            with pytest.raises(BrokerError, match="The listener is closed"):
                await task
    on_postgres.broker.close()
    await asyncio.wait(reading)
    async with asyncio.timeout(PATIENCE):
        while connected():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_listener_that_is_closed_lets_go_of_who_waits_for_the_database(
    postgres_server: PostgresServer, django_db_blocker: Any
) -> None:
    with django_db_blocker.unblock(), database(postgres_server.new_database()) as alias:
        broker = DatabaseBroker("", {"USING": alias})
        ear = Ear(broker)
        start = await ear.listener.latest_id()
        await asyncio.to_thread(postgres_server.kill)
        waiting = [
            asyncio.create_task(ear.listener.replay(["a"], start)),
            asyncio.create_task(ear.listener.subscribe(["a"])),
        ]
        await asyncio.wait(waiting, timeout=1)
        await ear.listener.close()
        for task in waiting:
            with pytest.raises(BrokerError, match="The listener is closed"):
                async with asyncio.timeout(PATIENCE):
                    await task
        broker.close()
        await asyncio.to_thread(postgres_server.start)


@pytest.mark.parametrize("when", ["before", "while"])
async def test_thread_ends_with_its_event_loop_also_where_nobody_closes_the_listener(
    project: Project, when: str
) -> None:
    blocked, published = threading.Event(), threading.Event()
    ears = []

    async def listen() -> None:
        ears.append(Ear(project.broker))
        await ears[0].listener.subscribe(["a"])

    def block() -> None:
        blocked.set()
        published.wait(PATIENCE)
        time.sleep(0.5)

    def run() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(listen())
        if when == "while":
            # The event is handed to the loop, which ends without another turn.
            loop.call_soon(loop.stop)
            loop.call_soon(block)
            loop.run_forever()
        loop.close()
        blocked.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert await asyncio.to_thread(blocked.wait, PATIENCE)
    assert threads("database listener")
    if when == "before":
        await asyncio.to_thread(thread.join)
    await project.broker.apublish(["a"], b"", timeout=TIMEOUT)
    published.set()
    await asyncio.to_thread(thread.join)
    await eventually(lambda: not threads("database listener"))
    assert ears[0].heard == []
    await ears[0].listener._queries.close()


async def test_ids_older_than_what_is_remembered_are_lost_but_never_the_newest(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MEMORY", 200)
    project = make_project(MAX_AGE=0.2)
    old = await project.broker.apublish(["b"], b"", timeout=TIMEOUT)
    newest = await project.broker.apublish(["b"], b"", timeout=TIMEOUT)
    ear = Ear(project.broker)
    # As far as is known, the topic was quiet.
    assert await ear.listener.replay(["a"], old) == []
    await asyncio.sleep(0.6)
    with pytest.raises(HistoryLost):
        await ear.listener.replay(["a"], old)
    assert await ear.listener.replay(["a"], newest) == []
    await ear.listener.close()
