"""Projects whose events are in a database: their brokers, their requests, and what they hear."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from django.db import connections

from django_sse.brokers import use_broker
from django_sse.brokers.database import DatabaseBroker
from tests.support.databases import database, in_thread, new_database
from tests.support.ear import PATIENCE, Ear
from tests.support.postgres_server import PostgresServer

T = TypeVar("T")


class Project:
    """A process with a ``DatabaseBroker``; ``alias`` is the database with its events."""

    def __init__(self, alias: str, **options: Any) -> None:
        self.alias = alias
        self.broker = DatabaseBroker("", {"USING": alias} | options)
        self._before = use_broker(self.broker)

    def close(self) -> None:
        use_broker(self._before)
        self.broker.close()

    async def run(self, work: Callable[[], T]) -> T:
        """Do synchronous work as a request does."""
        return await in_thread(work)

    def name(self) -> str:
        """Return the database's name on its server."""
        return str(connections.databases[self.alias]["NAME"])

    async def execute(self, statement: str) -> Any:
        def ask() -> Any:
            with connections[self.alias].cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else None

        return await self.run(ask)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def make_project(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., Project]]:
    projects: list[Project] = []
    with ExitStack() as stack:
        stack.enter_context(request.getfixturevalue("django_db_blocker").unblock())
        alias = stack.enter_context(new_database(request.param, request, tmp_path))

        def make(**options: Any) -> Project:
            projects.append(Project(alias, **options))
            return projects[-1]

        yield make
        for project in reversed(projects):
            project.close()


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    return make_project()


@pytest_asyncio.fixture
async def ear(project: Project) -> AsyncIterator[Ear]:
    ear = Ear(project.broker)
    await ear.listener.subscribe(["a"])
    yield ear
    await ear.listener.close()


async def rows_until(project: Project, most: int) -> None:
    """Wait until the database holds at most so many events."""
    async with asyncio.timeout(PATIENCE):
        for _ in itertools.count():
            [[rows]] = await project.execute("SELECT count(*) FROM django_sse_event")
            if rows <= most:
                return
            await asyncio.sleep(0.1)


@pytest.fixture
def on_postgres(shared_postgres: PostgresServer, django_db_blocker: Any) -> Iterator[Project]:
    with django_db_blocker.unblock(), database(shared_postgres.new_database()) as alias:
        project = Project(alias)
        yield project
        project.close()
