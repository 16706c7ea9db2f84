"""What the doctor says of the triggers in a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections

from django_sse.management.commands import sse_doctor
from django_sse.monitoring.doctor import Diagnosis
from django_sse.rows import changes
from django_sse.rows.diagnosis import examine_triggers
from tests.support.databases import new_database
from tests.support.postgres_server import PostgresServer

from .conftest import install_triggers

Sql = Callable[[str], str]


@pytest.fixture
def alias(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    covered: set[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A PostgreSQL, with triggers on users, of which streams are expected to hear."""
    with new_database("postgresql", request, tmp_path) as alias:
        monkeypatch.setattr(changes, "_chosen", {User: {alias}})
        call_command("migrate", database=alias, verbosity=0)
        install_triggers(alias, User)
        yield alias


@pytest.fixture
def sql(alias: str, shared_postgres: PostgresServer) -> Sql:
    """Runs SQL by psql."""
    name = connections.databases[alias]["NAME"]
    return lambda statement: shared_postgres.execute(statement, name)


def found() -> list[tuple[str, str, str]]:
    return [(it.level, it.text, it.remedy) for it in examine_triggers()]


def test_triggers_that_record_are_sound(alias: str, sql: Sql) -> None:
    sql("UPDATE auth_user SET first_name = 'x'; INSERT INTO auth_group (name) VALUES ('team')")
    assert found() == [("ok", f"Triggers record changes in {alias!r}: auth.User.", "")]


def test_model_without_streams_in_another_database_is_no_fault(
    alias: str, covered: set[Any]
) -> None:
    # Groups are written in SQLite, as the router says.
    covered.add(Group)
    assert [level for level, _, _ in found()] == ["ok"]


def test_missing_triggers_are_a_problem(alias: str, sql: Sql, covered: set[Any]) -> None:
    changes._chosen[Group] = {alias}
    covered.add(Group)
    [(level, text, remedy)] = found()
    assert level == "problem"
    assert text.startswith(
        f"The table auth_group of {alias!r} has no trigger for INSERT, DELETE, UPDATE, TRUNCATE:"
    )
    assert remedy == f"Run manage.py makemigrations and manage.py migrate --database {alias}."
    name = sql("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'pgtrigger_stream_update_%'")
    sql(f"DROP TRIGGER {name} ON auth_user")
    texts = [text for _, text, _ in found()]
    assert len(texts) == 2
    assert f"The table auth_user of {alias!r} has no trigger for UPDATE:" in texts[1]


@pytest.mark.parametrize("how", ["DISABLE", "ENABLE REPLICA"])
def test_disabled_trigger_is_a_problem(alias: str, sql: Sql, how: str) -> None:
    name = sql("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'pgtrigger_stream_insert_%'")
    sql(f"ALTER TABLE auth_user {how} TRIGGER {name}")
    [(level, text, remedy)] = found()
    assert level == "problem"
    assert f"The trigger {name} on the table auth_user of {alias!r} is disabled" in text
    # What it says helps.
    sql(remedy.partition("in SQL ")[2])
    assert [level for level, _, _ in found()] == ["ok"]


@pytest.mark.parametrize(
    "statement",
    ["DROP TABLE django_sse_change", "DROP FUNCTION django_sse_record_change_1(text, text)"],
)
def test_missing_table_is_a_problem(alias: str, sql: Sql, statement: str) -> None:
    sql(statement)
    [(level, text, remedy)] = found()
    assert level == "problem"
    assert "has no table django_sse_change, or not its function" in text
    assert "changes of auth.User" in text
    assert remedy == f"Run manage.py migrate --database {alias}."
    call_command("migrate", database=alias, verbosity=0)
    assert [level for level, _, _ in found()] == ["ok"]


def test_changes_that_wait_for_long_are_noted(alias: str, sql: Sql) -> None:
    sql("UPDATE auth_user SET first_name = 'x'; INSERT INTO auth_group (name) VALUES ('team')")
    sql("SELECT django_sse_record_change_1('auth.user', '{}') FROM generate_series(1, 3)")
    sql("UPDATE django_sse_change SET written = now() - interval '300 seconds' WHERE id = 1")
    ok, (level, text, _) = found()
    assert ok[0] == "ok"
    assert level == "note"
    assert text.startswith(f"3 changes wait in the table django_sse_change of {alias!r}")
    assert "the oldest for 300 s" in text


def test_database_out_of_reach_is_noted(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connections[alias].close()
    monkeypatch.setitem(connections[alias].settings_dict, "NAME", "nowhere")
    [(level, text, _)] = found()
    assert level == "note"
    assert f"The database {alias!r} cannot be asked for its triggers" in text


def test_sse_doctor_says_it_and_fails(
    alias: str, sql: Sql, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse_doctor, "examine", lambda url, **_: Diagnosis(url, []))
    call_command("sse_doctor", "http://testserver/")
    assert "ok       Triggers record changes" in capsys.readouterr().out
    sql("ALTER TABLE auth_user DISABLE TRIGGER ALL")
    with pytest.raises(CommandError, match=r"^4 problems found\.$"):
        call_command("sse_doctor", "http://testserver/")
    assert "→ Run manage.py pgtrigger enable --database" in capsys.readouterr().out
