"""What triggers of PostgreSQL write down reaches the streams of this process, whatever fails."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pgtrigger
import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connections, models
from django.db.models import QuerySet
from rest_framework import serializers

from django_sse import ModelSSEView
from django_sse.brokers.database import thread as database_thread
from django_sse.brokers.database.connections import own_connection, transaction
from django_sse.contrib.pgtrigger import StreamTrigger, stream_triggers
from django_sse.exceptions import PublishFailed
from django_sse.rows import change_table, changes, relay
from django_sse.rows import group as groups
from django_sse.testing import NothingReceived, connect
from django_sse.topics.hub import get_hub
from tests.support.databases import new_database
from tests.support.postgres_server import PostgresServer
from tests.support.waiting import eventually

from .conftest import Copy, install_triggers, wait_for_checks

Sql = Callable[[str], Awaitable[str]]
MEMBERSHIP: Any = User.groups.through


@pytest.fixture
def told(request: pytest.FixtureRequest, tmp_path: Path, covered: set[Any]) -> Iterator[str]:
    """A PostgreSQL with triggers on users, groups and what is between them."""
    with new_database("postgresql", request, tmp_path) as alias, ThreadPoolExecutor(1) as thread:
        thread.submit(partial(call_command, "migrate", database=alias, verbosity=0)).result()
        thread.submit(install_triggers, alias, User, Group, MEMBERSHIP).result()
        thread.submit(connections.close_all).result()
        yield alias
        wait_for_checks()


@pytest.fixture
def sql(told: str, shared_postgres: PostgresServer) -> Sql:
    """Runs SQL by psql."""
    name = connections.databases[told]["NAME"]
    return lambda statement: asyncio.to_thread(shared_postgres.execute, statement, name)


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["id", "username"]


class Users(ModelSSEView):
    heartbeat = None
    queryset = User.objects.all()
    serializer_class = UserSerializer
    depends_on = {Group: "user_set"}


def users(alias: str, **options: Any) -> Any:
    rows: QuerySet[User] = User.objects.using(alias)
    return Users.as_view(queryset=rows, **options)


def insert(*names: str) -> str:
    rows = ", ".join(f"('', false, '{it}', '', '', '', false, true, now())" for it in names)
    columns = (
        "password, is_superuser, username, first_name, last_name, email, is_staff, is_active, "
        "date_joined"
    )
    return f"INSERT INTO auth_user ({columns}) VALUES {rows}"


async def test_stream_opens_although_an_earlier_one_found_no_thread_for_its_relay(
    transactional_db: None, told: str, sql: Sql, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(relay.Relay, "start", Mock(side_effect=RuntimeError("no thread")))
        async with connect(users(told)) as stream:
            await stream.read()
            assert str(stream.failure) == "no thread"
    async with connect(users(told)) as stream:
        copy = Copy(stream)
        await copy.until("end")
        await sql(insert("ada"))
        assert (await copy.event())[1]["username"] == "ada"


async def test_relay_is_shared_by_groups_and_ends_with_the_last(
    transactional_db: None,
    told: str,
    sql: Sql,
    broker: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "LINGER", 0.05)
    async with connect(users("default")):  # SQLite has no triggers that could tell.
        assert get_hub().attached["relays"] == {}
        async with connect(users(told)) as one:
            first = Copy(one)
            await first.until("end")
            [thread] = get_hub().attached["relays"].values()
            async with connect(users(told, serializer_needs_request=True)) as two:
                second = Copy(two)
                await second.until("end")
                assert list(get_hub().attached["relays"].values()) == [thread]
                await sql(insert("ada"))
                for copy in (first, second):
                    assert (await copy.event())[1]["username"] == "ada"
            assert thread.is_alive()
        await eventually(lambda: not thread.is_alive())
        assert get_hub().attached["relays"] == {}
        thread.stop()  # Once more does no harm.
    await sql("UPDATE auth_user SET username = 'bob'")
    assert await sql("SELECT count(*) FROM django_sse_change") == "1"


async def test_relay_publishes_changes_of_models_that_its_process_does_not_show(
    told: str, sql: Sql, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect(users(told)) as stream:
        copy = Copy(stream)
        await copy.until("end")
        # As if the clients were in another process, and this one served streams of other models.
        monkeypatch.setattr(changes, "_watched", set())
        monkeypatch.setattr(changes, "_dependents", {})
        await sql(f"{insert('ada')}; INSERT INTO auth_group (name) VALUES ('team')")
        assert (await copy.event())[1]["username"] == "ada"
        await sql("INSERT INTO auth_user_groups (user_id, group_id) VALUES (1, 1)")
        assert (await copy.event())[0] == "changed"


async def test_change_waits_while_the_broker_or_the_database_is_away(
    told: str,
    sql: Sql,
    broker: Any,
    monkeypatch: pytest.MonkeyPatch,
    shared_postgres: PostgresServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish = changes.publish
    faults = [
        PublishFailed("away", may_be_stored=False),
        PublishFailed("still away", may_be_stored=True),
        RuntimeError("a fault of ours"),
    ]

    def failing(*args: Any, **kwargs: Any) -> Any:
        if faults:
            raise faults.pop(0)
        return publish(*args, **kwargs)

    monkeypatch.setattr(database_thread, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(changes, "publish", failing)
    async with connect(users(told)) as stream:
        copy = Copy(stream)
        await copy.until("end")
        await sql(insert("ada"))
        assert (await copy.event())[1]["username"] == "ada"
        # One warning for as long as it is away, and the faults of the code all.
        assert caplog.text.count("wait, trying again: PublishFailed: away") == 1
        assert "still away" not in caplog.text
        assert "cannot be published" in caplog.text

        shared_postgres.cut(connections.databases[told]["NAME"])
        await sql("UPDATE auth_user SET username = 'eve'")
        assert (await copy.event())[1]["username"] == "eve"
        assert caplog.text.count("wait, trying again") == 2


async def test_many_rows_of_the_table_are_told_in_several_transactions(
    told: str, sql: Sql, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_table, "BATCH", 2)
    async with connect(users(told)) as stream:
        copy = Copy(stream)
        await copy.until("end")
        await sql("BEGIN; " + "; ".join(insert(f"user{it}") for it in range(5)) + "; COMMIT")
        await copy.when({int(it) for it in (await sql("SELECT id FROM auth_user")).split()})
        assert len(copy.rows) == 5


async def test_too_many_rows_of_the_table_become_a_reset_for_those_that_are_open(
    told: str, sql: Sql, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_table, "MAX_PENDING", 3)
    monkeypatch.setattr(database_thread, "PAUSES", (0.3, 0.3))
    async with connect(users(told)) as stream:
        copy = Copy(stream)
        await copy.until("end")
        # As if this process had not been able to tell for long.
        publish_record = changes.publish_record
        away = Mock(side_effect=PublishFailed("x", may_be_stored=False))
        monkeypatch.setattr(relay, "publish_record", away)
        for name in "abcd":
            await sql(insert(name))
        monkeypatch.setattr(relay, "publish_record", publish_record)
        await copy.until("end")
        assert [name for name, _ in copy.events[-7:]] == [
            *("reset", "begin", "created", "created", "created", "created", "end")
        ]


async def test_change_is_noticed_although_nothing_notifies(
    told: str, sql: Sql, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind PgBouncer in transaction mode."""
    monkeypatch.setattr(relay, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(change_table, "CHANNEL", "another_channel")
    async with connect(users(told)) as stream:
        copy = Copy(stream)
        await copy.until("end")
        await sql(insert("ada"))
        assert (await copy.event())[1]["username"] == "ada"


async def test_change_that_commits_while_another_is_published_does_not_wait(
    told: str, sql: Sql, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its notification reaches psycopg with the answer to a query of the relay."""
    held, goes_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def held_up(*args: Any) -> None:
        loop.call_soon_threadsafe(held.set)
        assert goes_on.wait(10)
        changes.publish_record(*args)

    async with connect(users(told)) as stream:
        copy = Copy(stream)
        await copy.until("end")
        monkeypatch.setattr(relay, "LOOK_SECONDS", 60)
        await sql(insert("ada"))  # Let the relay begin to wait for so long.
        assert (await copy.event())[1]["username"] == "ada"
        monkeypatch.setattr(relay, "publish_record", held_up)
        await sql(insert("bob"))
        await asyncio.wait_for(held.wait(), 10)
        await sql(insert("eve"))
        goes_on.set()
        assert [(await copy.event())[1]["username"] for _ in range(2)] == ["bob", "eve"]


async def test_relay_looks_at_the_table_by_itself_with_psycopg_2(
    told: str, sql: Sql, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only psycopg 3 tells of notifications here."""
    monkeypatch.setattr(relay, "is_psycopg3", lambda: False)
    monkeypatch.setattr(relay, "listen", None)
    monkeypatch.setattr(relay, "LOOK_SECONDS", 0.1)
    async with connect(users(told)) as stream:
        copy = Copy(stream)
        await copy.until("end")
        await sql(insert("ada"))
        assert (await copy.event())[1]["username"] == "ada"


async def test_relay_of_a_replica_waits_until_it_can_be_written(
    told: str,
    sql: Sql,
    broker: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(relay, "STANDBY_SECONDS", 0.05)
    monkeypatch.setattr(database_thread, "PAUSES", (0.01, 0.02))
    # The database says of itself what a hot standby says.
    name = connections.databases[told]["NAME"]
    await sql(f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog')
    standby = "FUNCTION public.pg_is_in_recovery()"
    await sql(f"CREATE {standby} RETURNS boolean LANGUAGE sql AS 'SELECT true'")
    async with connect(users(told)) as stream:
        copy = Copy(stream)
        await copy.until("end")
        await sql(insert("ada"))
        with pytest.raises(NothingReceived):
            await copy.event(0.3)
        # Not DROP, in the middle of which a query fails.
        await sql(f"CREATE OR REPLACE {standby} RETURNS boolean LANGUAGE sql AS 'SELECT false'")
        assert (await copy.event())[1]["username"] == "ada"
    assert "trying again" not in caplog.text


@pytest.mark.parametrize("search_path", ["''", "pg_catalog, pg_temp", "elsewhere, public"])
async def test_trigger_finds_the_function_with_any_search_path(
    search_path: str, told: str, sql: Sql, broker: Any
) -> None:
    """``pg_restore --data-only`` searches no schema."""
    statement = insert("ada").replace("auth_user", "public.auth_user")
    async with connect(users(told)) as stream:
        copy = Copy(stream)
        await copy.until("end")
        await sql(f"SET search_path = {search_path}; {statement}")
        assert (await copy.event())[1]["username"] == "ada"
        await sql(f"SET search_path = {search_path}; TRUNCATE public.auth_user CASCADE")
        await copy.until("end")
        assert copy.rows == {}


async def test_missing_table_is_reported_with_its_remedy(
    told: str, sql: Sql, broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await sql("DROP TABLE django_sse_change")
    async with connect(users(told)) as stream:
        await Copy(stream).until("end")
    assert f"Make the table: manage.py migrate --database {told}" in caplog.text


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "junk",
        "[]",
        "7",
        "{}",
        '{"pk": 7}',
        '{"pk": [], "via": 7}',
        '{"pk": [], "via": {"a": 7}}',
        '{"pk": [[1]]}',
        '{"pk": [{}]}',
        '{"pk": [null]}',
        '{"pk": [], "via": {"a": [{}]}}',
    ],
)
def test_what_cannot_be_read_may_be_any_row(payload: str) -> None:
    assert change_table._read(payload) == {"all": True}


async def test_call_of_the_function_by_hand_keeps_nothing_from_being_told(
    told: str, sql: Sql, broker: Any
) -> None:
    async with connect(users(told)) as stream:
        copy = Copy(stream)
        await copy.until("end")
        await sql("SELECT django_sse_record_change_1('nonsense', 'junk')")
        await sql(f"SELECT django_sse_record_change_1('{'x' * 300}.y', 'junk')")
        await sql("""SELECT django_sse_record_change_1('auth.permission', '{"pk": [[1]]}')""")
        await sql("SELECT django_sse_record_change_1('auth.user', 'junk')")
        await copy.until("end")
        assert [name for name, _ in copy.events[-3:]] == ["reset", "begin", "end"]
        await sql(insert("ada"))
        assert (await copy.event())[1]["username"] == "ada"


async def test_changes_that_no_process_takes_are_folded(told: str, sql: Sql, broker: Any) -> None:
    await sql(insert("ada"))
    assert await sql("SELECT count(*) FROM django_sse_change") == "1"
    await sql("UPDATE django_sse_change SET written = now() - interval '601 seconds'")
    call = "SELECT django_sse_record_change_1('auth.group', '{}') FROM generate_series(1, %d)"
    await sql(call % 5000)
    # The old one is gone; that any user may have changed is known.
    assert await sql("SELECT payload FROM django_sse_change WHERE model = 'auth.user'") == (
        change_table.ANY_ROW
    )
    # What is young stays as it is, and the table does not grow.
    assert await sql("SELECT count(*) FROM django_sse_change WHERE model = 'auth.group'") == "5000"
    for _ in range(4):
        await sql("UPDATE django_sse_change SET written = now() - interval '601 seconds'")
        await sql(call % 5000)
    assert int(await sql("SELECT count(*) FROM django_sse_change")) < 11_000
    async with connect(users(told)) as stream:
        await Copy(stream).until("end")
        assert await sql("SELECT count(*) FROM django_sse_change") == "0"


async def test_folded_change_begins_streams_anew(told: str, sql: Sql, broker: Any) -> None:
    async with connect(users(told)) as stream:
        copy = Copy(stream)
        await copy.until("end")
        # As if the relay could not look for long: another transaction holds the row.
        await sql(
            f"BEGIN; {insert('ada')}; "
            "UPDATE django_sse_change SET written = now() - interval '601 seconds'; "
            "SELECT django_sse_fold_changes_1(); COMMIT"
        )
        await copy.until("reset")
        await copy.until("end")
        assert [row["username"] for row in copy.rows.values()] == ["ada"]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_statement_of_another_isolation_level_never_fails_on_what_a_relay_has_taken(
    told: str, sql: Sql, level: str
) -> None:
    await sql("SELECT django_sse_record_change_1('auth.user', '{}')")
    await sql("UPDATE django_sse_change SET written = now() - interval '601 seconds'")

    def change() -> None:
        with connections[told].cursor() as cursor:
            cursor.execute(f"BEGIN ISOLATION LEVEL {level}")
            cursor.execute("SELECT count(*) FROM auth_user")
            take = own_connection(told)
            with transaction(take):
                assert len(change_table.take(take)) == 1
            take.close()
            cursor.execute(
                "SELECT django_sse_record_change_1('auth.user', '{}') FROM generate_series(1, 2000)"
            )
            cursor.execute("COMMIT")
        connections[told].close()

    await asyncio.to_thread(change)
    assert await sql("SELECT count(*) FROM django_sse_change") == "2000"


# What is told of a statement.


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Any]]:
    found: list[tuple[list[str], Any]] = []
    monkeypatch.setattr(
        changes, "publish", lambda topics, text, **_: found.append((topics, json.loads(text)))
    )
    return found


USERS, GROUPS, MEMBERSHIPS = ["model:auth.user"], ["model:auth.group"], ["model:auth.user_groups"]
NEWER = ["model:shop.newer"]
ANY = {"pk": [], "all": True}


@pytest.mark.parametrize(
    ("label", "payload", "messages"),
    [
        # Another process may have streams of it: of a newer release, or where this one has none.
        ("shop.newer", {"pk": [1]}, [(NEWER, ANY)]),
        (
            "contenttypes.contenttype",
            {"pk": [1]},
            [(["model:contenttypes.contenttype"], {"pk": [1]})],
        ),
        ("nothing", {"pk": [1]}, []),
        ("auth.user", {"pk": [1, 2, 3]}, [(USERS, {"pk": [1, 2]}), (USERS, {"pk": [3]})]),
        ("auth.user", {"all": True}, [(USERS, ANY)]),
        (
            "auth.user_groups",
            {"pk": [9], "via": {"user_id": [1, 2, 3], "group_id": [7], "other_id": None}},
            [
                (MEMBERSHIPS, {"pk": [9], "via": {"group_id": [7], "user_id": [1, 2]}}),
                (MEMBERSHIPS, {"pk": [], "via": {"user_id": [3]}}),
                (USERS, {"pk": [1, 2]}),
                (USERS, {"pk": [3]}),
                (GROUPS, {"pk": [7]}),
            ],
        ),
        ("auth.user_groups", {"all": True}, [(MEMBERSHIPS, ANY), (USERS, ANY), (GROUPS, ANY)]),
    ],
)
def test_statement_is_told_in_messages_whatever_this_process_shows(
    label: str,
    payload: Any,
    messages: list[Any],
    published: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes, "CHUNK", 2)
    monkeypatch.setattr(changes, "_watched", set())
    monkeypatch.setattr(changes, "_dependents", {})
    changes.publish_record(label, payload)
    assert published == messages


def test_change_of_a_parent_is_told_to_streams_of_its_children(published: list[Any]) -> None:
    class Clerk(User):
        class Meta:
            app_label = "shop"

    try:
        changes.publish_record("auth.user", {"pk": [1]})
        changes.publish_record("shop.clerk", {"pk": [2]})
    finally:
        del apps.all_models["shop"]["clerk"]
        apps.clear_cache()
    both = ["model:auth.user", "model:shop.clerk"]
    assert published == [(both, {"pk": [1]}), (both, {"pk": [2]})]


def test_large_statement_is_told_in_messages_that_the_broker_takes(
    published: list[Any], settings: Any
) -> None:
    settings.DJANGO_SSE = {"MAX_EVENT_BYTES": 1024}
    keys = [f"{number:0200}" for number in range(20)]
    changes.publish_record("auth.group", {"pk": keys[:10], "via": {"owner_id": keys[10:]}})
    assert len(published) > 4
    assert all(len(json.dumps(payload)) < 1024 for _, payload in published)
    assert [key for _, it in published for key in it["pk"]] == keys[:10]
    assert [key for _, it in published for key in it.get("via", {}).get("owner_id", ())] == keys[
        10:
    ]

    published.clear()
    changes.publish_record("auth.group", {"pk": ["x" * 2000]})
    assert published == [(GROUPS, ANY)]


# The declaration.


def test_triggers_cover_the_table_of_a_proxy(covered: set[Any]) -> None:
    class Person(User):
        class Meta:
            proxy = True
            app_label = "shop"

    trigger = StreamTrigger(pgtrigger.Update)
    trigger.register(Person)
    try:
        assert covered == {User}
        assert "'auth.user'" in trigger.get_func(Person)
    finally:
        trigger.unregister(Person)


@pytest.mark.parametrize(("with_parent", "told_by_triggers"), [(False, False), (True, True)])
def test_child_is_covered_only_with_its_parents(
    with_parent: bool, told_by_triggers: bool, told: str, covered: set[Any]
) -> None:
    child: Any = Mock()
    child._meta.concrete_model = child
    child._meta.get_parent_list.return_value = [User]
    covered.clear()
    covered.update([child, User] if with_parent else [child])
    assert change_table.is_covered(child, told) is told_by_triggers
    assert not change_table.is_covered(child, "default")


def test_triggers_need_one_column_as_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(User._meta, "pk", Mock(column=None))
    [insert, _, _, truncate] = stream_triggers()
    assert "{" in truncate.get_func(User)
    with pytest.raises(ImproperlyConfigured, match="composite primary key"):
        insert.get_func(User)


def test_quotes_in_the_names_of_columns_are_kept() -> None:
    field = models.IntegerField(primary_key=True, db_column='a"b')
    meta = Mock(pk=field, local_concrete_fields=[], label_lower="shop.it's")
    field.set_attributes_from_name("id")
    func = stream_triggers()[0].get_func(Mock(_meta=Mock(concrete_model=Mock(_meta=meta))))
    assert '"a""b"' in func
    assert "'shop.it''s'" in func
