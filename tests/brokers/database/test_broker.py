"""What only ``DatabaseBroker`` has to answer for: transactions, numbering, trimming, lost data."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from collections.abc import Callable
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test import override_settings

from django_sse import publish
from django_sse.brokers import use_broker
from django_sse.brokers.database import DatabaseBroker, postgresql, store, watcher, writer
from django_sse.brokers.database.tables import TABLES, create_tables, missing_tables
from django_sse.exceptions import HistoryLost, PublishFailed
from tests.support.databases import database, new_database, sqlite_settings
from tests.support.ear import PATIENCE, TIMEOUT, Ear
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres_server import PostgresServer

from .conftest import Project, rows_until


class Failed(Exception):
    """What goes wrong in a transaction."""


async def test_events_live_and_die_with_their_transactions(project: Project, ear: Ear) -> None:
    def change() -> list[str | None]:
        using = {"using": project.alias}
        returned: list[str | None] = []
        with transaction.atomic(**using):
            returned.append(publish("a", "first", **using))
            try:
                with transaction.atomic(**using):
                    publish("a", "of a savepoint that is rolled back", **using)
                    raise Failed
            except Failed:
                pass
            with transaction.atomic(**using):
                returned.append(publish("a", "second", **using))
        try:
            with transaction.atomic(**using):
                publish("a", "rolled back", **using)
                raise Failed
        except Failed:
            pass
        returned.append(publish("a", "outside", **using))
        return returned

    first, second, outside = await project.run(change)
    assert (first, second) == (None, None)
    await ear.until(lambda: len(ear.heard) == 3)
    assert ear.heads == [b"data: first\n", b"data: second\n", b"data: outside\n"]
    assert outside == str(ear.messages[-1].id)
    assert await project.execute("SELECT count(*) FROM django_sse_pending") == [(0,)]


async def test_an_open_transaction_delays_nobody(shared_postgres: Any, request: Any) -> None:
    with ExitStack() as stack:
        alias = stack.enter_context(new_database("postgresql", request, Path()))
        project = Project(alias)
        stack.callback(project.close)
        ear = Ear(project.broker)
        await ear.listener.subscribe(["a"])
        published, finish = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def be_slow() -> None:
            with transaction.atomic(using=alias):
                publish("a", "slow", using=alias)
                loop.call_soon_threadsafe(published.set)
                assert finish.wait(PATIENCE)

        slow = asyncio.create_task(project.run(be_slow))
        await published.wait()
        for number in range(3):
            await ear.until_id(
                await project.broker.apublish(["a"], b"%d" % number, timeout=TIMEOUT)
            )
        assert ear.heads == [b"0", b"1", b"2"]
        finish.set()
        await slow
        # It comes after what was committed before it, although it was written first.
        await ear.until(lambda: len(ear.heard) == 4)
        assert ear.heads[-1] == b"data: slow\n"
        await ear.listener.close()


async def test_what_a_dead_publisher_left_is_numbered_by_a_listener(
    project: Project, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "LOOK_SECONDS", 0.5)
    # The listener's thread waits for its first look with the long period.
    await ear.until_id(await project.broker.apublish(["a"], b"seen", timeout=TIMEOUT))
    left = store.draft(["a"], b"left", b"", None)
    await project.run(lambda: store.put(connections[project.alias], left))
    await ear.until(lambda: len(ear.heard) == 2)
    assert ear.heads == [b"seen", b"left"]


async def test_trimmed_events_are_deleted_and_recorded(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GRACE", 0.1)
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.5)
    project = make_project(HISTORY=5)
    ear = Ear(project.broker)
    ids = [
        await project.broker.apublish(["a", "b"] if n % 2 else ["a"], b"", timeout=TIMEOUT)
        for n in range(250)
    ]
    # Each topic has its turn after a hundred events of its own.
    await rows_until(project, 5 + 100 + 100)
    assert [message.id for message in await ear.listener.replay(["a"], ids[-6])] == ids[-5:]
    for after in ids[0], ids[-7]:
        with pytest.raises(HistoryLost):
            await ear.listener.replay(["a"], after)
    # The events of "b" go further back, and are still there.
    assert [message.id for message in await ear.listener.replay(["b"], ids[-11])] == ids[-9::2]
    await ear.listener.close()


async def test_events_of_transactions_are_trimmed_too(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GRACE", 0.1)
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.5)
    project = make_project(HISTORY=5)

    def change() -> None:
        for number in range(250):
            with transaction.atomic(using=project.alias):
                publish("a", f"{number}", using=project.alias)

    await project.run(change)
    await rows_until(project, 105)


async def test_what_many_publish_without_a_pause_is_trimmed_too(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GRACE", 0.1)
    monkeypatch.setattr(writer, "PATIENCE", 0.2)
    project = make_project(HISTORY=5)
    published = 0
    goes_on = True

    def keep_on() -> None:
        nonlocal published
        while goes_on:
            project.broker.publish(["a"], b"", timeout=TIMEOUT)
            published += 1

    # So many that some wait whenever a transaction ends.
    publishers = [threading.Thread(target=keep_on) for _ in range(300)]
    for publisher in publishers:
        publisher.start()
    try:
        async with asyncio.timeout(PATIENCE):
            rows = published
            while published - rows < 500:
                await asyncio.sleep(0.1)
                [[rows]] = await project.execute("SELECT count(*) FROM django_sse_event")
    finally:
        goes_on = False
        for publisher in publishers:
            await asyncio.to_thread(publisher.join)


async def test_a_burst_is_kept_until_listeners_had_time_to_read_it(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(HISTORY=5)
    ids = [await project.broker.apublish(["a"], b"", timeout=TIMEOUT) for _ in range(250)]
    [[rows]] = await project.execute("SELECT count(*) FROM django_sse_event")
    if ids[-1].milliseconds - ids[0].milliseconds < 1000 * writer.GRACE:
        assert rows == 250
    ear = Ear(project.broker)
    with pytest.raises(HistoryLost):
        await ear.listener.replay(["a"], ids[-7])
    await ear.listener.close()


async def test_old_events_are_history(make_project: Callable[..., Project]) -> None:
    project = make_project(MAX_AGE=0.2)
    ear = Ear(project.broker)
    first = await project.broker.apublish(["a"], b"", timeout=TIMEOUT)
    second = await project.broker.apublish(["a"], b"", timeout=TIMEOUT)
    await asyncio.sleep(0.4)
    with pytest.raises(HistoryLost):
        await ear.listener.replay(["a"], first)
    assert await ear.listener.replay(["a"], second) == []
    await ear.listener.close()


@pytest.mark.parametrize("damage", ["emptied", "restored"])
async def test_data_that_is_gone_is_a_loss_and_ids_rise(
    project: Project, ear: Ear, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "LOOK_SECONDS", 0.5)
    ids = [await project.broker.apublish(["a"], b"%d" % n, timeout=TIMEOUT) for n in range(3)]
    await ear.until_id(ids[-1])
    if damage == "emptied":
        for table in ("event", "entry", "state"):
            await project.execute(f"DELETE FROM django_sse_{table}")
    else:
        newest = "(SELECT max(number) FROM django_sse_entry)"
        await project.execute(f"DELETE FROM django_sse_event WHERE number = {newest}")
        await project.execute(f"DELETE FROM django_sse_entry WHERE number = {newest}")
    later = await project.broker.apublish(["a"], b"later", timeout=TIMEOUT)
    assert later > ids[-1]
    await ear.until_id(later)
    for old in ids:
        with pytest.raises(HistoryLost):
            await ear.listener.replay(["a"], old)
    assert await ear.listener.replay(["a"], later) == []


@pytest.mark.parametrize("how", ["dump", "recovery"])
async def test_data_that_was_restored_while_nobody_ran_begins_an_epoch(
    shared_postgres: PostgresServer, django_db_blocker: Any, how: str
) -> None:
    with ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())
        server = shared_postgres
        if how == "recovery":
            server = stack.enter_context(PostgresServer(restore_command="false"))
        settings = server.new_database()
        alias = stack.enter_context(database(settings))
        project = Project(alias)
        ids = [await project.broker.apublish(["a"], b"%d" % n, timeout=TIMEOUT) for n in range(3)]
        project.close()

        project = Project(alias)  # A restart alone loses nothing.
        ear = Ear(project.broker)
        await ear.listener.subscribe(["a"])
        assert len(await ear.listener.replay(["a"], ids[0])) == 2
        await ear.listener.close()
        project.close()

        if how == "dump":
            server.restore(settings["NAME"], server.dump(settings["NAME"]))
        else:
            server.recover()
        project = Project(alias)
        ear = Ear(project.broker)
        await ear.listener.subscribe(["a"])
        with pytest.raises(HistoryLost):
            await ear.listener.replay(["a"], ids[0])
        later = await project.broker.apublish(["a"], b"later", timeout=TIMEOUT)
        assert later > ids[-1]
        await ear.until_id(later)
        assert await ear.listener.replay(["a"], later) == []
        await ear.listener.close()
        project.close()


async def test_publishing_fails_with_the_remedy_where_tables_are_missing(
    tmp_path: Path, django_db_blocker: Any
) -> None:
    connections.databases["bare"] = {
        **connections.databases["default"],
        **sqlite_settings(tmp_path / "bare.sqlite3"),
    }
    broker = DatabaseBroker("", {"USING": "bare"})
    try:
        with (
            django_db_blocker.unblock(),
            pytest.raises(PublishFailed, match=r"manage\.py migrate --database bare") as raised,
        ):
            await broker.apublish(["a"], b"", timeout=0.5)
        assert not raised.value.may_be_stored
    finally:
        broker.close()
        del connections.databases["bare"]


async def test_pgbouncer_is_noticed_and_polled(
    shared_postgres: PostgresServer,
    django_db_blocker: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watcher, "LOOK_SECONDS", 0.2)
    settings = shared_postgres.new_database()
    with ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())
        direct = stack.enter_context(database(settings))
        bouncer = stack.enter_context(PgBouncer(shared_postgres.port))
        pooled = {**settings, "PORT": bouncer.port, "DISABLE_SERVER_SIDE_CURSORS": True}
        alias = stack.enter_context(database(pooled))
        for options, warns in ({"LISTEN": direct}, False), ({}, True):
            caplog.clear()
            project = Project(alias, **options)
            stack.callback(project.close)
            ear = Ear(project.broker)
            await ear.listener.subscribe(["a"])
            other = DatabaseBroker("", {"USING": direct})
            stack.callback(other.close)
            for number in range(8):
                await ear.until_id(await other.apublish(["a"], b"%d" % number, timeout=TIMEOUT))
            assert ("does not notify of events" in caplog.text) is warns
            await ear.listener.close()


async def test_postgresql_does_without_its_functions(on_postgres: Project) -> None:
    project = on_postgres
    await project.execute(f"DROP FUNCTION {', '.join(postgresql.FUNCTIONS)}")
    missing = await project.run(lambda: missing_tables(connections[project.alias]))
    assert missing == list(postgresql.FUNCTIONS)
    [problem] = await project.run(lambda: project.broker.problems(timeout=TIMEOUT))
    assert all(name in problem for name in missing)
    assert f"manage.py migrate --database {project.alias}" in problem
    ear = Ear(project.broker)
    await ear.listener.subscribe(["a"])

    def change() -> None:
        with transaction.atomic(using=project.alias):
            publish("a", "first", using=project.alias)
        publish("a", "second")

    await project.run(change)
    await ear.until(lambda: ear.heads == [b"data: first\n", b"data: second\n"])
    await ear.listener.close()
    await project.run(lambda: create_tables(connections[project.alias]))
    assert await project.run(lambda: missing_tables(connections[project.alias])) == []


async def test_a_cut_connection_is_noticed_before_it_is_used(
    on_postgres: Project, shared_postgres: PostgresServer
) -> None:
    name = on_postgres.name()
    ids = []
    for number in range(10):
        ids.append(await on_postgres.broker.apublish(["a"], b"%d" % number, timeout=TIMEOUT))
        shared_postgres.cut(name)
    assert ids == sorted(set(ids))


async def test_a_process_may_have_thousands_of_open_files(
    make_project: Callable[..., Project],
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    files: list[int] = []
    try:
        # select() knows file numbers below 1024.
        while not files or files[-1] < 1100:
            files.append(os.dup(0))
        project = make_project()
        ear = Ear(project.broker)
        await ear.listener.subscribe(["a"])
        for number in range(3):
            await ear.until_id(
                await project.broker.apublish(["a"], b"%d" % number, timeout=TIMEOUT)
            )
        await ear.listener.close()
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_tables_are_made_only_where_the_broker_is_used(
    transactional_db: None, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = {"BROKER": {"BACKEND": "django_sse.brokers.database.DatabaseBroker"}}
    out = StringIO()
    call_command("migrate", stdout=out)
    assert missing_tables(connection)
    with override_settings(DJANGO_SSE=setting):
        call_command("migrate", stdout=out)
        assert missing_tables(connection) == []
        made = "Made the tables of django_sse.brokers.database.DatabaseBroker in 'default'."
        assert made in capsys.readouterr().out
        # It makes them once, and says nothing where that is wanted.
        call_command("migrate", stdout=out)
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE django_sse_state")
        call_command("migrate", verbosity=0)
        assert missing_tables(connection) == []
        assert capsys.readouterr().out == ""
        call_command("makemigrations", "django_sse", "--check", "--dry-run", verbosity=0)
    assert apps.get_app_config("django_sse").models == {}
    with connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"DROP TABLE django_sse_{table}")


@pytest.mark.django_db
def test_a_test_case_keeps_events_in_its_transaction() -> None:
    create_tables(connection)
    broker = DatabaseBroker()
    before = use_broker(broker)
    try:
        first = publish("a", "outside")
        with transaction.atomic():
            assert publish("a", "inside") is None
        second = publish("a", "later")
        assert first is not None
        assert second is not None
        assert str(broker.latest_id(timeout=1)) == second
    finally:
        use_broker(before)
        broker.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"USING": "nowhere"}, "USING"),
        ({"LISTEN": "nowhere"}, "LISTEN"),
        ({"POLL": 0}, "POLL"),
    ],
)
def test_wrong_options_of_the_database_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        DatabaseBroker("", options)
    with pytest.raises(ImproperlyConfigured, match="LOCATION"):
        DatabaseBroker("redis://127.0.0.1", {})
    [error] = DatabaseBroker.check("", options)
    assert error.id == "django_sse.E018"
    assert message in error.msg


def test_database_of_another_kind_is_told_which_ones_there_are() -> None:
    dummy = {**connections.databases["default"], "ENGINE": "django.db.backends.dummy"}
    connections.databases["none"] = dummy
    try:
        with pytest.raises(ImproperlyConfigured, match=r"SQLite, MySQL and MariaDB, and .* 'none'"):
            DatabaseBroker("", {"USING": "none"})
    finally:
        del connections["none"], connections.databases["none"]


def test_checks_recommend_wal_and_one_database(tmp_path: Path) -> None:
    assert DatabaseBroker.check("", {}) == []
    connections.databases["plain"] = {
        **connections.databases["default"],
        "NAME": str(tmp_path / "plain.sqlite3"),
        "OPTIONS": {},
    }
    try:
        found = DatabaseBroker.check("", {"USING": "plain"})
        assert [message.id for message in found] == ["django_sse.W006", "django_sse.W007"]
    finally:
        del connections["plain"], connections.databases["plain"]
