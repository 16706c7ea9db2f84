"""Writing where the database is locked, refuses, breaks off, or is none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.db import connection, connections, transaction

from django_sse import publish
from django_sse.brokers import use_broker
from django_sse.brokers.database import DatabaseBroker, store, watcher, writer
from django_sse.brokers.database.connections import close, own_connection
from django_sse.brokers.database.tables import create_tables
from django_sse.exceptions import BrokerError, PublishFailed
from tests.support.databases import database, in_thread, sqlite_settings
from tests.support.ear import PATIENCE, TIMEOUT, Ear
from tests.support.postgres_server import PostgresServer

from .conftest import Project

MakeProject = Callable[..., Project]


class Numbering:
    """The lock under which events are numbered, as another process takes it. From any thread."""

    def __init__(self, alias: str) -> None:
        self._connection = own_connection(alias)
        self._connection.inc_thread_sharing()

    def take(self) -> None:
        vendor, seconds = self._connection.vendor, PATIENCE
        if vendor == "mysql":
            assert store.take_lock(self._connection, seconds)
            return
        lock = f"SELECT pg_advisory_lock({store.LOCK})"
        with self._connection.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE" if vendor == "sqlite" else lock)

    def give_back(self) -> None:
        close(self._connection)


@asynccontextmanager
async def numbering(alias: str) -> AsyncIterator[Numbering]:
    found = Numbering(alias)
    try:
        yield found
    finally:
        await asyncio.to_thread(found.give_back)


async def test_events_that_cannot_be_numbered_at_the_commit_come_later(
    project: Project, ear: Ear, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "LOOK_SECONDS", 0.5)
    await ear.until_id(await project.broker.apublish(["a"], b"before", timeout=TIMEOUT))
    # On SQLite it is the lock for writing, too. There, the listener may number the event in the
    # moment between the commit and the lock.
    is_sqlite = connections[project.alias].vendor == "sqlite"
    async with numbering(project.alias) as lock:

        def change() -> None:
            if not is_sqlite:
                lock.take()
            with transaction.atomic(using=project.alias):
                if is_sqlite:
                    transaction.on_commit(lock.take, using=project.alias)
                publish("a", "later", using=project.alias)

        # The commit does not fail, and takes a bounded time.
        async with asyncio.timeout(PATIENCE):
            await project.run(change)
        assert "committed are not numbered yet" in caplog.text
        assert "did not number the committed events: " in caplog.text
        assert "is not stored" not in caplog.text
        assert is_sqlite or ear.heads == [b"before"]
    await ear.until(lambda: len(ear.heard) == 2)
    assert ear.heads == [b"before", b"data: later\n"]


async def test_newest_id_of_an_empty_database_is_not_told_while_none_can_be_given(
    project: Project,
) -> None:
    latest_id, alatest_id = project.broker.latest_id, project.broker.alatest_id
    async with numbering(project.alias) as lock:
        await in_thread(lock.take)
        with pytest.raises(BrokerError, match="takes no events"):
            await project.run(lambda: latest_id(timeout=0.2))
        with pytest.raises(BrokerError, match="takes no events"):
            await alatest_id(timeout=TIMEOUT)
        with pytest.raises(BrokerError, match="cannot be asked"):
            await alatest_id(timeout=0.2)
        with pytest.raises(PublishFailed, match="and it is not stored") as raised:
            await project.run(lambda: project.broker.publish(["a"], b"", timeout=0.2))
        assert not raised.value.may_be_stored
    latest = await project.run(lambda: latest_id(timeout=TIMEOUT))
    assert await alatest_id(timeout=TIMEOUT) == latest


async def test_emptied_database_is_a_loss_also_where_no_epoch_can_begin_yet(
    on_postgres: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = on_postgres
    monkeypatch.setattr(watcher, "LOOK_SECONDS", 0.2)
    caplog.set_level(logging.DEBUG, "django_sse")
    ear = Ear(project.broker)
    await ear.listener.subscribe(["a"])
    before = await project.broker.apublish(["a"], b"before", timeout=TIMEOUT)
    await ear.until_id(before)
    async with numbering(project.alias) as lock:
        await in_thread(lock.take)
        for table in "event", "entry", "state":
            await project.execute(f"DELETE FROM django_sse_{table}")
        async with asyncio.timeout(PATIENCE):
            while "Events were not numbered" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert ear.losses == []
    await ear.until(lambda: ear.losses == [frozenset("a")])
    after = await project.broker.apublish(["a"], b"after", timeout=TIMEOUT)
    assert after > before
    await ear.until_id(after)
    await ear.listener.close()


_BREAK_OFF = """
CREATE FUNCTION break_off() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10); RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER break_off AFTER INSERT ON django_sse_event
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION break_off();
"""


@pytest.mark.parametrize("once", [None, "key"], ids=["function", "statements"])
async def test_connection_that_breaks_off_in_the_commit_leaves_open_whether_the_event_is_stored(
    on_postgres: Project, shared_postgres: PostgresServer, once: str | None
) -> None:
    publish_event = on_postgres.broker.apublish
    name = on_postgres.name()
    first = await publish_event(["a"], b"first", timeout=TIMEOUT)
    shared_postgres.execute(_BREAK_OFF, name)
    with pytest.raises(PublishFailed, match="not known whether it is stored") as raised:
        await publish_event(["a"], b"unclear", timeout=TIMEOUT, idempotency_key=once)
    assert raised.value.may_be_stored
    shared_postgres.execute("DROP FUNCTION break_off CASCADE", name)
    second = await publish_event(["a"], b"second", timeout=TIMEOUT, idempotency_key=once)
    ear = Ear(on_postgres.broker)
    assert [it.id for it in await ear.listener.replay(["a"], first)] == [second]
    await ear.listener.close()


@pytest.mark.parametrize("why", ["missing", "refused", "broken"])
async def test_event_that_a_transaction_cannot_take_is_told_there(
    on_postgres: Project, shared_postgres: PostgresServer, why: str
) -> None:
    alias, name = on_postgres.alias, on_postgres.name()
    said = {
        "missing": f"manage.py migrate --database {alias}",
        "refused": "value too long",
        "broken": "terminat",
    }

    def spoil() -> None:
        if why == "missing":
            shared_postgres.execute("DROP TABLE django_sse_pending", name)
        elif why == "refused":
            shared_postgres.execute(
                "ALTER TABLE django_sse_pending ALTER envelope TYPE varchar(1)", name
            )
        else:
            shared_postgres.cut(name)

    def change() -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute("CREATE TABLE orders (number integer)")
        try:
            with transaction.atomic(using=alias):
                with connections[alias].cursor() as cursor:
                    if why == "broken":
                        cursor.execute("INSERT INTO orders VALUES (1)")
                spoil()
                with (
                    pytest.raises(PublishFailed, match=said[why]) as raised,
                    transaction.atomic(using=alias),
                ):
                    publish("a", "not stored", using=alias)
                assert not raised.value.may_be_stored
                with connections[alias].cursor() as cursor:
                    cursor.execute("INSERT INTO orders VALUES (2)")
        except Exception:
            # What goes with the connection is the transaction.
            assert why == "broken"

    await on_postgres.run(change)
    rows = await on_postgres.execute("SELECT number FROM orders")
    assert rows == ([] if why == "broken" else [(2,)])
    if why == "broken":
        await on_postgres.run(lambda: publish("a", "afterwards", using=alias))
        [[head]] = await on_postgres.execute("SELECT head FROM django_sse_event")
        assert bytes(head) == b"data: afterwards\n"


async def test_database_that_is_away_is_told_in_time_and_waited_for(
    postgres_server: PostgresServer, django_db_blocker: Any
) -> None:
    with django_db_blocker.unblock(), database(postgres_server.new_database()) as alias:
        project = Project(alias)
        broker = project.broker
        ear = Ear(broker)
        await ear.listener.subscribe(["a"])
        await ear.until_id(await broker.apublish(["a"], b"before", timeout=TIMEOUT))
        assert await project.run(lambda: broker.problems(timeout=TIMEOUT)) == []
        await asyncio.to_thread(postgres_server.kill)
        for ask in (
            lambda: broker.latest_id(timeout=TIMEOUT),
            lambda: broker.problems(timeout=TIMEOUT),
            lambda: broker.presence("a", timeout=TIMEOUT),
        ):
            with pytest.raises(BrokerError, match=f"database '{alias}' cannot be asked: Oper"):
                await project.run(ask)
        with pytest.raises(BrokerError, match=f"database '{alias}' cannot be asked: Oper"):
            await broker.alatest_id(timeout=TIMEOUT)
        for lost in (
            project.run(lambda: broker.publish(["a"], b"lost", timeout=0.5)),
            broker.apublish(["a"], b"lost", timeout=0.5),
        ):
            # Over a connection that has just been used, it is not known whether it is stored.
            with pytest.raises(PublishFailed, match=r"stored: OperationalError"):
                await lost
        waiting = asyncio.create_task(ear.listener.newest(["a"], 1))
        await asyncio.to_thread(postgres_server.start)
        [newest] = await waiting
        assert newest.head == b"before"
        after = await broker.apublish(["a"], b"after", timeout=TIMEOUT)
        await ear.until_id(after)
        assert ear.heads == [b"before", b"after"]
        assert await project.run(lambda: broker.latest_id(timeout=TIMEOUT)) == after
        await ear.listener.close()
        project.close()


async def test_row_that_cannot_be_read_does_not_end_publishing(
    project: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.1)
    publish_event = project.broker.apublish
    await publish_event(["a"], b"before", timeout=TIMEOUT)
    row = "(envelope, head, tail) VALUES ('no JSON', 'x', 'x')"
    await project.execute(f"INSERT INTO django_sse_pending {row}")
    with pytest.raises(PublishFailed, match=r"JSON|json"):
        await publish_event(["a"], b"", timeout=1)
    await project.execute("DELETE FROM django_sse_pending")
    await publish_event(["a"], b"", timeout=TIMEOUT)
    # This one is old, so it is to be deleted as nothing else is to do.
    row = "(number, envelope, head, tail) VALUES (1, 'no JSON', 'x', 'x')"
    await project.execute(f"INSERT INTO django_sse_event {row}")
    await publish_event(["a"], b"", timeout=TIMEOUT)
    async with asyncio.timeout(PATIENCE):
        while "Old events cannot be deleted" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await publish_event(["a"], b"after", timeout=TIMEOUT)


@pytest.mark.django_db
def test_newest_id_is_known_in_a_test_case_before_anything_was_published() -> None:
    create_tables(connection)
    broker = DatabaseBroker()
    before = use_broker(broker)
    try:
        first = broker.latest_id(timeout=TIMEOUT)
        assert broker.latest_id(timeout=TIMEOUT) == first
        assert str(publish("a", "x")) > str(first)
    finally:
        use_broker(before)
        broker.close()


@pytest.mark.django_db
def test_test_case_without_the_tables_is_told_how_to_make_them() -> None:
    broker = DatabaseBroker()
    before = use_broker(broker)
    try:
        with pytest.raises(PublishFailed, match="migrate --database default") as raised:
            broker.publish(["a"], b"", timeout=TIMEOUT)
        assert not raised.value.may_be_stored
    finally:
        use_broker(before)
        broker.close()


async def test_event_of_another_databases_transaction_is_sent_after_its_commit(
    project: Project, ear: Ear, tmp_path: Any
) -> None:
    with database(sqlite_settings(tmp_path / "other.sqlite3")) as other:

        def change() -> list[int]:
            counts = []
            with transaction.atomic(using=other):
                publish("a", "x", using=other)
                counts.append(len(project.broker.problems(timeout=TIMEOUT)))
                with connections[project.alias].cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM django_sse_event")
                    counts += cursor.fetchone()
            return counts

        assert await project.run(change) == [0, 0]
        await ear.until(lambda: ear.heads == [b"data: x\n"])
