"""Servers that do not say which server they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.db import transaction

from django_sse import publish
from tests.support.databases import database
from tests.support.ear import TIMEOUT, Ear
from tests.support.postgres_server import PostgresServer

from .conftest import Project

Serve = Callable[..., dict[str, Any]]


@pytest.fixture
def as_guest(shared_postgres: PostgresServer, django_db_blocker: Any) -> Iterator[Serve]:
    """``as_guest(settings)`` are those of a user who owns the tables, and may ask nothing of the server."""

    def settings_of(settings: dict[str, Any]) -> dict[str, Any]:
        name = settings["NAME"]
        for statement in (
            f"CREATE ROLE guest_{name} LOGIN",
            f"ALTER DATABASE {name} OWNER TO guest_{name}",
            "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
            f"""DO $$ DECLARE it text; BEGIN FOR it IN
                SELECT 'TABLE ' || tablename FROM pg_tables WHERE schemaname = 'public' UNION ALL
                SELECT 'FUNCTION ' || proname FROM pg_proc WHERE proname LIKE 'django_sse_%'
                LOOP EXECUTE format('ALTER %s OWNER TO guest_{name}', it); END LOOP; END $$""",
        ):
            shared_postgres.execute(statement, name)
        return {**settings, "USER": f"guest_{name}"}

    with django_db_blocker.unblock():
        yield settings_of


async def assert_kept(project: Project, ids: list[Any]) -> None:
    ear = Ear(project.broker)
    await ear.listener.subscribe(["a"])
    assert [it.id for it in await ear.listener.replay(["a"], ids[0])] == ids[1:]
    later = await project.broker.apublish(["a"], b"later", timeout=TIMEOUT)
    await ear.until_id(later)
    assert [it.id for it in await ear.listener.replay(["a"], ids[0])] == [*ids[1:], later]
    await ear.listener.close()


async def test_server_that_does_not_say_which_it_is_serves_all(
    shared_postgres: PostgresServer, as_guest: Serve
) -> None:
    with database(as_guest(shared_postgres.new_database())) as alias:
        project = Project(alias)

        def change() -> None:
            with transaction.atomic(using=alias):
                publish("a", "the very first", using=alias)

        await project.run(change)
        ids = [await project.broker.apublish(["a"], b"%d" % n, timeout=TIMEOUT) for n in range(3)]
        assert await project.execute("SELECT origin FROM django_sse_state") == [(None,)]
        project.close()
        project = Project(alias)
        await assert_kept(project, ids)
        project.close()


async def test_process_that_may_not_ask_takes_the_tables_of_others_for_the_same(
    shared_postgres: PostgresServer, as_guest: Serve
) -> None:
    with ExitStack() as stack:
        settings = shared_postgres.new_database()
        project = Project(stack.enter_context(database(settings)))
        ids = [await project.broker.apublish(["a"], b"%d" % n, timeout=TIMEOUT) for n in range(3)]
        [[origin]] = await project.execute("SELECT origin FROM django_sse_state")
        assert origin
        project.close()
        project = Project(stack.enter_context(database(as_guest(settings))))
        await assert_kept(project, ids)
        project.close()
