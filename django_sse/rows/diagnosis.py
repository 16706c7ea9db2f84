"""The doctor for models as streams: find missing or disabled triggers in the database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import Error, connections
from django.db.models import Model

from django_sse.monitoring.findings import Finding

from . import change_table
from .changes import databases_of

#: Seconds for which a row of the table waits at most while a relay runs. Slower ones are a sign.
SLOW = 60

# The bits of pg_trigger.tgtype.
_KINDS = {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}

_TABLES = f"""
SELECT to_regclass('django_sse_change') IS NOT NULL
    AND to_regprocedure('{change_table.RECORD_CHANGE}(text,text)') IS NOT NULL
"""
# Triggers of an older release call a function with another number. A trigger that fires on replicas
# only ("R") does nothing here.
_TRIGGERS = """
SELECT it.tgname, it.tgtype, it.tgenabled IN ('O', 'A')
FROM pg_trigger it JOIN pg_proc called ON called.oid = it.tgfoid
WHERE it.tgrelid = to_regclass(%s) AND strpos(called.prosrc, 'django_sse_record_change_') > 0
ORDER BY it.tgname
"""
_WAITING = """
SELECT count(*), extract(epoch FROM now() - min(written)) FROM django_sse_change
"""


def examine_triggers() -> list[Finding]:
    """Return findings about the triggers of ``stream_triggers()`` in all their databases.

    Queries the databases: call it in a thread.
    """
    by_database: dict[str, list[type[Model]]] = {}
    for model in sorted(change_table.covered, key=lambda it: it._meta.label):
        for alias in sorted(databases_of(model)):
            if connections[alias].vendor == "postgresql":
                by_database.setdefault(alias, []).append(model)
    found: list[Finding] = []
    for alias, models in by_database.items():
        try:
            found += _examine(alias, models)
        except Error as error:
            text = f"The database {alias!r} cannot be asked for its triggers: {error}".strip()
            found.append(Finding("triggers", "note", text))
    return found


def _examine(alias: str, models: list[type[Model]]) -> Iterator[Finding]:
    labels = ", ".join(model._meta.label for model in models)
    migrate = f"manage.py migrate --database {alias}"
    [(complete,)] = _ask(alias, _TABLES)
    if not complete:
        yield Finding(
            "triggers",
            "problem",
            f"The database {alias!r} has no table django_sse_change, or not its function, to record "
            f"the changes of {labels}. Streams hear of none, and statements fail where there are "
            "triggers.",
            f"Run {migrate}.",
        )
    faulty = False
    for model in models:
        for finding in _faults(alias, model, migrate):
            faulty = True
            yield finding
    if not complete:
        return
    if not faulty:
        yield Finding("triggers", "ok", f"Triggers record changes in {alias!r}: {labels}.")
    [(count, age)] = _ask(alias, _WAITING)
    if count and age > SLOW:
        yield Finding(
            "changes-wait",
            "note",
            f"{count} changes wait in the table django_sse_change of {alias!r}, the oldest for "
            f"{age:.0f} s. No process with a stream of a model takes them.",
            "This does no harm while no such stream is open. Otherwise, look into the log of "
            "django_sse.",
        )


def _faults(alias: str, model: type[Model], migrate: str) -> Iterator[Finding]:
    """Yield what keeps the triggers of a model from telling; signals are silent for it already."""
    meta = model._meta
    table = connections[alias].ops.quote_name(meta.db_table)
    triggers = _ask(alias, _TRIGGERS, table)
    there = {kind: [it for it in triggers if it[1] & bit] for kind, bit in _KINDS.items()}
    if missing := [kind for kind, its in there.items() if not its]:
        yield Finding(
            "triggers",
            "problem",
            f"The table {meta.db_table} of {alias!r} has no trigger for {', '.join(missing)}: streams "
            f"of {meta.label} do not hear of it, since signals publish nothing where "
            "stream_triggers() is declared.",
            f"Run manage.py makemigrations and {migrate}.",
        )
    for name, _, enabled in triggers:
        if not enabled:
            yield Finding(
                "triggers",
                "problem",
                f"The trigger {name} on the table {meta.db_table} of {alias!r} is disabled: streams "
                f"of {meta.label} do not hear of its statements.",
                f"Run manage.py pgtrigger enable --database {alias}, or in SQL ALTER TABLE {table} "
                f"ENABLE TRIGGER {name};",
            )


def _ask(alias: str, statement: str, *params: Any) -> list[tuple[Any, ...]]:
    with connections[alias].cursor() as cursor:
        cursor.execute(statement, params or None)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found
