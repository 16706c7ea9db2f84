"""The broker beside what projects have: pools, replicas, tenants, and the kinds of tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.test import TestCase, override_settings

from django_sse import close_streams, publish
from django_sse.brokers import use_broker
from django_sse.brokers.database import DatabaseBroker
from django_sse.brokers.database.tables import TABLES, create_tables, missing_tables
from django_sse.exceptions import PublishFailed
from django_sse.topics.orders import CONTROL
from tests.support.databases import database, sqlite_settings
from tests.support.ear import TIMEOUT, Ear
from tests.support.postgres_server import PostgresServer

from .conftest import Project
from .test_broker import Failed


class Replica:
    """A router that sends what is read to a database that does not exist."""

    def db_for_read(self, *args: Any, **hints: Any) -> str:
        return "replica"


@pytest.fixture
def settings_of_postgres(shared_postgres: PostgresServer, django_db_blocker: Any) -> Iterator[Any]:
    with django_db_blocker.unblock():
        yield shared_postgres.new_database()


async def use_all(project: Project) -> None:
    """Publish in each way, follow, resume, and ask for the newest."""
    ear = Ear(project.broker)
    await ear.listener.subscribe(["a"])
    start = await ear.listener.latest_id()

    def work() -> None:
        with transaction.atomic(using=project.alias):
            publish("a", "1", using=project.alias)
            if connections[project.alias].vendor != "sqlite":
                publish("a", "0", using=project.alias, on_commit=False)
        publish("a", "2")
        assert project.broker.latest_id(timeout=TIMEOUT) > start

    await project.run(work)
    expected = [b"data: 0\n", b"data: 1\n", b"data: 2\n"]
    if connections.databases[project.alias]["ENGINE"].endswith("sqlite3"):
        del expected[0]  # It has one writer at a time.
    await ear.until(lambda: len(ear.heads) == len(expected))
    assert ear.heads == expected
    assert [it.head for it in await ear.listener.replay(["a"], start)] == expected
    assert [it.head for it in await ear.listener.newest(["a"], 1)] == expected[-1:]
    await ear.listener.close()


@pytest.mark.parametrize(
    "given",
    [
        {"CONN_MAX_AGE": 0},
        {"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True},
        # The broker takes no connection from the pool, or it would wait for this one.
        {"OPTIONS": {"pool": {"min_size": 1, "max_size": 1, "timeout": 2}}},
        {"OPTIONS": {"server_side_binding": True}},
        {"ATOMIC_REQUESTS": True},
    ],
    ids=["no-age", "age", "pool", "server-side", "atomic"],
)
async def test_settings_of_connections(settings_of_postgres: Any, given: dict[str, Any]) -> None:
    with database({**settings_of_postgres, **given}) as alias:
        project = Project(alias)
        try:
            await use_all(project)
        finally:
            project.close()
            if "pool" in given.get("OPTIONS", {}):
                connections[alias].close_pool()


async def test_replicas_are_never_read(settings_of_postgres: Any) -> None:
    with (
        database(settings_of_postgres) as alias,
        override_settings(DATABASE_ROUTERS=[f"{__name__}.Replica"]),
    ):
        project = Project(alias)
        await use_all(project)
        project.close()


async def test_tenants_share_the_public_tables(
    settings_of_postgres: Any, shared_postgres: PostgresServer
) -> None:
    with database(settings_of_postgres) as alias:
        shared_postgres.execute("CREATE SCHEMA tenant", settings_of_postgres["NAME"])
        project = Project(alias)
        ear = Ear(project.broker)
        await ear.listener.subscribe(["a"])

        def request_of_a_tenant() -> None:
            with connections[alias].cursor() as cursor:
                cursor.execute("SET search_path TO tenant, public")
            with transaction.atomic(using=alias):
                publish("a", "of a tenant", using=alias)
            assert missing_tables(connections[alias]) == []

        await project.run(request_of_a_tenant)
        await ear.until(lambda: ear.heads == [b"data: of a tenant\n"])
        await ear.listener.close()
        project.close()


async def test_orders_live_and_die_with_their_transactions(settings_of_postgres: Any) -> None:
    with database(settings_of_postgres) as alias:
        project = Project(alias)
        ear = Ear(project.broker)
        await ear.listener.subscribe([CONTROL])

        def work() -> None:
            for user in 1, 2:
                try:
                    with transaction.atomic(using=alias):
                        close_streams(user=user, using=alias)
                        with connections[alias].cursor() as cursor:
                            cursor.execute("SELECT count(*) FROM django_sse_pending")
                            assert cursor.fetchone() == (1,)
                        if user == 1:
                            raise Failed
                except Failed:
                    pass

        await project.run(work)
        await ear.until(lambda: len(ear.heads) == 1)
        assert b'"user": "2"' in ear.heads[0] or b'"user":"2"' in ear.heads[0], ear.heads
        await ear.listener.close()
        project.close()


class TestInTransaction(TestCase):
    """Django's own way of testing what happens on commit."""

    def setUp(self) -> None:
        create_tables(connection)
        self.broker = DatabaseBroker()
        self.addCleanup(use_broker, use_broker(self.broker))
        self.addCleanup(self.broker.close)

    def stored(self) -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT head FROM django_sse_event ORDER BY number")
            return [bytes(row[0]).decode() for row in cursor.fetchall()]

    def test_events_are_numbered_by_the_callbacks_of_the_commit(self) -> None:
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            with transaction.atomic():
                assert publish("a", "inside") is None
            assert self.stored() == []
        assert callbacks
        assert self.stored() == ["data: inside\n"]

    def test_nothing_of_another_test_is_there(self) -> None:
        publish("a", "outside")
        assert self.stored() == ["data: outside\n"]


@pytest.mark.django_db(transaction=True)
async def test_a_transaction_test_case_stores_and_delivers() -> None:
    project = Project("default")
    await project.run(lambda: create_tables(connections["default"]))
    try:
        await use_all(project)
    finally:
        project.close()
        for table in TABLES:
            await project.execute(f"DROP TABLE django_sse_{table}")


async def test_on_commit_false_in_a_transaction_of_sqlite(
    tmp_path: Path, django_db_blocker: Any
) -> None:
    with (
        django_db_blocker.unblock(),
        database(sqlite_settings(tmp_path / "events.sqlite3")) as alias,
        override_settings(DJANGO_SSE={"PUBLISH_TIMEOUT": 0.3}),
    ):
        project = Project(alias)

        def work() -> None:
            with transaction.atomic(using=alias):
                publish("a", "first", using=alias)
                with pytest.raises(PublishFailed) as raised:
                    publish("a", "at once", using=alias, on_commit=False)
                assert raised.value.may_be_stored is False
                assert "one writer" in raised.value.__notes__[0]

        await project.run(work)
        stored = await project.execute("SELECT head FROM django_sse_event")
        assert [bytes(row[0]) for row in stored] == [b"data: first\n"]
        project.close()
