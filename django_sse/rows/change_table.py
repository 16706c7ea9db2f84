"""The table into which triggers of PostgreSQL write changes, until a relay publishes them.

The table is not a model, so that ``migrate`` makes nothing in projects without such triggers. It is
made before the migrations run, because a data migration may already change rows. Only a function of
the database writes to it: other programs need no permission for the table.

This module is loaded with a project's models. Nothing in it needs the apps to be loaded.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model

#: The channel on which the database notifies of new rows.
CHANNEL = "django_sse_change"
#: The function that triggers call. The name changes with what it takes or does: two releases may use
#: one database.
RECORD_CHANGE = "django_sse_record_change_1"
_FOLD_CHANGES = "django_sse_fold_changes_1"
#: What a statement records if it does not say which rows it has changed.
ANY_ROW = '{"all": true}'
#: The most rows of the table that one transaction takes.
BATCH = 200
#: If more rows than these wait, no relay has run for long. Then streams begin anew.
MAX_PENDING = 2000
#: Seconds after which rows that no relay has taken are folded.
KEEP = 600
#: On average, one statement in so many folds the table. The others do not look at it.
FOLD_EVERY = 100

# The types of a key in JSON.
_KEYS = (str, int, Decimal, bool)

#: The concrete models that have the triggers.
covered: set[type[Model]] = set()

#: The SQL that makes the table and the function, with placeholders for their names.
#:
#: A statement of 10,000 rows is one row here, and a transaction is one notification. The function
#: runs as its owner. Names are qualified, so a caller's search_path cannot lead it elsewhere.
#:
#: Without a relay, the table would grow for ever. So now and then, a statement puts one row for each
#: model in the place of the oldest ones: any row may have changed. That takes more rows away than
#: statements write meanwhile. It waits for no lock. At another isolation level, the statement would
#: fail if a relay has just deleted the same rows.
_CREATE = """
CREATE TABLE IF NOT EXISTS {schema}.django_sse_change (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, model text NOT NULL, payload text NOT NULL,
    written timestamptz NOT NULL DEFAULT now());
ALTER TABLE {schema}.django_sse_change
    ADD COLUMN IF NOT EXISTS written timestamptz NOT NULL DEFAULT now();
CREATE OR REPLACE FUNCTION {schema}.{fold_changes}() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cutoff timestamptz := now() - interval '{keep} seconds';
BEGIN
    IF current_setting('transaction_isolation') = 'read committed' AND
        (SELECT written FROM {schema}.django_sse_change ORDER BY id LIMIT 1) < cutoff
    THEN
        WITH gone AS (
            DELETE FROM {schema}.django_sse_change WHERE id IN (
                SELECT id FROM {schema}.django_sse_change WHERE written < cutoff
                ORDER BY id LIMIT {batch} FOR UPDATE SKIP LOCKED)
            RETURNING model)
        INSERT INTO {schema}.django_sse_change (model, payload)
            SELECT DISTINCT model, '{any_row}' FROM gone;
    END IF;
END $$;
CREATE OR REPLACE FUNCTION {schema}.{record_change}(model text, payload text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO {schema}.django_sse_change (model, payload) VALUES (model, payload);
    NOTIFY {channel};
    IF random() < {fold_share} THEN
        PERFORM {schema}.{fold_changes}();
    END IF;
END $$
"""
_TAKE = """
DELETE FROM django_sse_change WHERE id IN (
    SELECT id FROM django_sse_change ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED)
RETURNING id, model, payload
"""
_TAKE_ALL = """
WITH gone AS (
    DELETE FROM django_sse_change WHERE id IN (
        SELECT id FROM django_sse_change FOR UPDATE SKIP LOCKED)
    RETURNING model)
SELECT DISTINCT model FROM gone ORDER BY model
"""


class ChangeRecord(NamedTuple):
    """The change of one statement: the label of its model, and the keys of the rows."""

    model: str
    payload: dict[str, Any]


def is_covered(model: type[Model], using: str) -> bool:
    """Return whether triggers record every change of a model in a database.

    A row of a child model is also in the tables of its parents, and all of them need triggers.
    """
    if not covered or connections[using].vendor != "postgresql":
        return False
    concrete = model._meta.concrete_model or model
    return covered.issuperset([concrete, *concrete._meta.get_parent_list()])


def create_statements(schema: str) -> str:
    """Return what makes the table and the function in a schema, whose name is quoted already."""
    return _CREATE.format(
        schema=schema,
        record_change=RECORD_CHANGE,
        channel=CHANNEL,
        fold_changes=_FOLD_CHANGES,
        fold_share=1 / FOLD_EVERY,
        keep=KEEP,
        batch=BATCH,
        any_row=ANY_ROW,
    )


def prepare_database(using: str) -> None:
    """Make the table and its function if models with triggers are in a database."""
    connection = connections[using]
    if connection.vendor == "postgresql" and any(
        router.allow_migrate_model(using, model) for model in covered
    ):
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            schema = connection.ops.quote_name(cursor.fetchone()[0])
            cursor.execute(create_statements(schema))


def take(connection: BaseDatabaseWrapper) -> list[ChangeRecord]:
    """Take the oldest rows out, in the open transaction; rows that another process takes are left."""
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, [BATCH])
        rows = sorted(cursor.fetchall())
    return [ChangeRecord(model, _read(payload)) for _, model, payload in rows]


def _read(text: str) -> dict[str, Any]:
    """Return the payload of a record; if it cannot be read, that any row may have changed.

    Every role of the database may call the function. An error here would come again with each look,
    and no later change would be published.
    """
    try:
        # Numbers with a fraction would lose digits as a float.
        payload = json.loads(text, parse_float=Decimal)
        lists = [payload["pk"], *(it for it in payload.get("via", {}).values() if it is not None)]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        lists = [None]
    if all(isinstance(it, list) and all(isinstance(key, _KEYS) for key in it) for it in lists):
        return payload  # type: ignore[no-any-return]
    return {"all": True}


def take_old(connection: BaseDatabaseWrapper) -> list[ChangeRecord]:
    """Take all rows out if there are too many to publish one by one; return one record a model."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM (SELECT FROM django_sse_change LIMIT %s) it", [MAX_PENDING]
        )
        if cursor.fetchone()[0] < MAX_PENDING:
            return []
        cursor.execute(_TAKE_ALL)
        return [ChangeRecord(model, json.loads(ANY_ROW)) for (model,) in cursor.fetchall()]
