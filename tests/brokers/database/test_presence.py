"""What the tables keep of present users, and a database that is away."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from typing import Any

import pytest
from django.db import connections

from django_sse.brokers.base import Broker
from django_sse.brokers.database import DatabaseBroker, presence
from django_sse.brokers.database.connections import own_connection
from django_sse.brokers.presence import Change, Departure
from django_sse.exceptions import BrokerError
from tests.brokers.test_presence import assert_alternating, come_and_go
from tests.support.databases import database, in_thread, new_database
from tests.support.ear import TIMEOUT, Ear, publish

TABLES = ("holder", "present", "member")


async def attend(broker: Broker, *changes: Change, **given: Any) -> Any:
    times: dict[str, Any] = {"lease": 30, "grace": 0, "timeout": TIMEOUT}
    times.update(given)
    departures = times.pop("departures", [])
    return await broker.attend("me", changes, departures, **times)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def alias(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    with new_database(request.param, request, tmp_path) as alias:
        yield alias


@pytest.fixture
def broker(alias: str) -> Any:
    broker = DatabaseBroker("", {"USING": alias})
    yield broker
    broker.close()


def execute(alias: str, statement: str) -> list[Any]:
    with connections[alias].cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


async def test_no_row_is_left_once_everybody_has_left(broker: DatabaseBroker, alias: str) -> None:
    await attend(broker, Change("a", "7", 1, b"data: 7\n"), Change("a", None, 2))
    await attend(broker, Change("a", "7", 0), Change("a", None, 0))
    assert (await attend(broker)).due == [("a", "7")]
    await attend(broker, departures=[Departure("a", "7", b"data: 7\n")])
    assert broker._clerk._connection is not None
    await attend(broker, lease=0)
    # A process without presence keeps no connection for it.
    assert broker._clerk._connection is None
    for table in TABLES:
        assert await in_thread(lambda: execute(alias, f"SELECT * FROM django_sse_{table}")) == []  # noqa: B023


async def test_missing_tables_are_a_brokers_error_that_names_the_remedy(
    broker: DatabaseBroker, alias: str
) -> None:
    await attend(broker)
    for table in TABLES:
        await in_thread(lambda: execute(alias, f"DROP TABLE django_sse_{table}"))  # noqa: B023
    with pytest.raises(BrokerError, match=f"migrate --database {alias}"):
        await attend(broker)
    with pytest.raises(BrokerError, match=f"migrate --database {alias}"):
        await broker.apresence("a", timeout=TIMEOUT)
    with pytest.raises(BrokerError, match=f"migrate --database {alias}"):
        await in_thread(lambda: broker.presence("a", timeout=TIMEOUT))
    assert await in_thread(lambda: broker.prepare_database(alias))
    assert not (await attend(broker)).known


async def test_a_call_that_waits_too_long_is_a_brokers_error(
    broker: DatabaseBroker, alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds the lock; the next calls wait for their turn."""
    monkeypatch.setattr(presence, "LOCK_SECONDS", 0)
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        connection = own_connection(alias)
        try:
            with presence._locked(connection):
                locked.set()
                done.wait(TIMEOUT)
        finally:
            connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        await asyncio.to_thread(locked.wait, TIMEOUT)
        with pytest.raises(BrokerError, match="did not take note of who is present"):
            await attend(broker, timeout=0.3)
    finally:
        done.set()
        await asyncio.to_thread(thread.join)
    assert (await attend(broker, Change("a", "7", 1, b"data: 7\n"))).due == []
    assert (await broker.apresence("a", timeout=TIMEOUT)).users == ("7",)


async def test_joins_and_leaves_over_several_connections_alternate(
    alias: str, broker: DatabaseBroker
) -> None:
    brokers: list[Broker] = [DatabaseBroker("", {"USING": alias}) for _ in range(4)]
    ear = Ear(broker)
    try:
        await ear.listener.subscribe(["a"])
        await come_and_go(brokers)
        await ear.until_id(await publish(broker, "a", b"last"))
        assert_alternating(ear.heads[:-1])
    finally:
        await ear.listener.close()
        for it in brokers:
            it.close()


@pytest.fixture
def alias_in_memory(django_db_blocker: Any) -> Any:
    """A database as Django's test runner makes it: it is gone with its last connection."""
    name = "file:presence?mode=memory&cache=shared"
    settings = {"ENGINE": "django.db.backends.sqlite3", "NAME": name}
    with (
        closing(sqlite3.connect(name, uri=True)),
        django_db_blocker.unblock(),
        database(settings) as alias,
    ):
        yield alias


@pytest.mark.parametrize("asks", ["presence", "apresence"])
async def test_who_asks_waits_for_a_writer_of_a_database_in_memory(
    asks: str, alias_in_memory: str
) -> None:
    """SQLite does not wait there itself, so the broker asks again, until the time is over."""
    name = connections.databases[alias_in_memory]["NAME"]
    broker = DatabaseBroker("", {"USING": alias_in_memory})

    async def ask(timeout: float) -> Any:
        if asks == "apresence":
            return await broker.apresence("a", timeout=timeout)
        return await in_thread(lambda: broker.presence("a", timeout=timeout))

    writer = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)
    with closing(writer):
        for table in TABLES:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute(f"DELETE FROM django_sse_{table}")
            with pytest.raises(BrokerError, match="cannot be asked"):
                await ask(0.05)
            asking = asyncio.create_task(ask(TIMEOUT))
            await asyncio.sleep(0.05)
            assert not asking.done()
            writer.execute("ROLLBACK")
            assert (await asking).users == ()
    broker.close()
