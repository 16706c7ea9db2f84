"""PostgreSQL ends, and comes back: what a process says of it meanwhile, and that it goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from django_sse import publish
from django_sse.brokers.database import listener
from django_sse.exceptions import BrokerError, PublishFailed
from tests.support.databases import database
from tests.support.ear import TIMEOUT, Ear
from tests.support.postgres_server import PostgresServer

from .process import Project

#: Seconds for which a publisher waits for a server that is away.
SHORT = 0.5


@pytest.fixture
def server(shared_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server of one's own, where there is PostgreSQL."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def project(server: PostgresServer, django_db_blocker: Any) -> Iterator[Project]:
    with django_db_blocker.unblock(), database(server.new_database()) as alias:
        project = Project(alias)
        yield project
        project.close()


async def test_a_process_survives_the_end_of_its_server(
    project: Project, server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "django_sse")
    broker, ear = project.broker, Ear(project.broker)
    await ear.listener.subscribe(["a"])
    first = await broker.apublish(["a"], b"first", timeout=TIMEOUT)
    await ear.until_id(first)
    # The connection that the next one is to use is broken then.
    assert await ear.listener.newest(["a"], 1)

    server.kill()
    questions: list[Callable[[], Any]] = [
        lambda: broker.publish(["a"], b"lost", timeout=SHORT),
        lambda: broker.latest_id(timeout=SHORT),
        lambda: broker.problems(timeout=SHORT),
    ]
    for question in questions:
        with pytest.raises((BrokerError, PublishFailed), match=r"refused|closed|did not answer"):
            await project.run(question)
    with pytest.raises(PublishFailed):
        await broker.apublish(["a"], b"lost", timeout=SHORT)
    with pytest.raises(BrokerError, match="cannot be asked"):
        await broker.alatest_id(timeout=SHORT)

    def change() -> None:
        with transaction.atomic(using=project.alias):
            publish("a", "lost", using=project.alias)

    with pytest.raises(OperationalError):
        await project.run(change)
    asked = asyncio.ensure_future(ear.listener.replay(["a"], first))
    await asyncio.sleep(3 * listener.PAUSE)
    assert not asked.done()

    server.start()
    await project.run(change)
    last = await broker.apublish(["a"], b"last", timeout=TIMEOUT)
    await ear.until_id(last)
    assert ear.heads == [b"first", b"data: lost\n", b"last"]
    assert not ear.losses
    await asyncio.wait_for(asked, TIMEOUT)
    await ear.listener.close()
    warnings = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]
    # The watcher and the reader say it once each.
    assert sorted({it.split(",")[0] for it in warnings}) == [
        "Not connected to the database",
        "The database cannot be asked",
    ]
    assert len(warnings) == 2
    assert "Connected to the database again." in caplog.text


async def test_an_event_that_the_database_refuses_is_said_in_its_transaction(
    project: Project,
) -> None:
    def refuse() -> None:
        with transaction.atomic(using=project.alias):
            with connections[project.alias].cursor() as cursor:
                cursor.execute("ALTER TABLE django_sse_pending RENAME TO elsewhere")
            try:
                publish("a", "lost", using=project.alias)
            finally:
                transaction.set_rollback(True, using=project.alias)

    with pytest.raises(PublishFailed, match="did not take the event"):
        await project.run(refuse)
    assert await project.broker.apublish(["a"], b"", timeout=TIMEOUT)
