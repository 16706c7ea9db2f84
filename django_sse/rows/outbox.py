"""The table into which triggers of PostgreSQL write what a statement changed, until it is told.

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
TELL = "django_sse_tell_1"
#: The data of a statement after which nothing is known of any row.
ALL = '{"all": true}'
#: The most rows of the table that one transaction takes.
BATCH = 200
#: If more rows than these wait, nobody has told them for long. Then streams begin anew.
MANY = 2000

# What a key may be in JSON.
_KEYS = (str, int, Decimal, bool)

#: The concrete models that have the triggers.
covered: set[type[Model]] = set()

#: What makes the table and the function; the names are to be filled in.
#:
#: A statement of 10,000 rows is one row here, and a transaction is one notification. The function
#: runs as its owner. Names are qualified, so a caller's search_path cannot lead it elsewhere.
CREATE = """
CREATE TABLE IF NOT EXISTS {schema}.django_sse_change (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, model text NOT NULL, said text NOT NULL);
CREATE OR REPLACE FUNCTION {schema}.{tell}(model text, said text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO {schema}.django_sse_change (model, said) VALUES (model, said);
    NOTIFY {channel};
END $$
"""
_TAKE = """
DELETE FROM django_sse_change WHERE id IN (
    SELECT id FROM django_sse_change ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED)
RETURNING id, model, said
"""
_TAKE_ALL = """
WITH gone AS (
    DELETE FROM django_sse_change WHERE id IN (
        SELECT id FROM django_sse_change FOR UPDATE SKIP LOCKED)
    RETURNING model)
SELECT DISTINCT model FROM gone ORDER BY model
"""


class Told(NamedTuple):
    """What one statement changed: the label of its model, and what the trigger says of the rows."""

    model: str
    said: dict[str, Any]


def is_covered(model: type[Model], using: str) -> bool:
    """Return whether triggers tell of every change of a model in a database.

    A row of a child model is also in the tables of its parents, and all of them need triggers.
    """
    if not covered or connections[using].vendor != "postgresql":
        return False
    concrete = model._meta.concrete_model or model
    return covered.issuperset([concrete, *concrete._meta.get_parent_list()])


def prepare_database(using: str) -> None:
    """Make the table and its function if models with triggers are in a database."""
    connection = connections[using]
    if connection.vendor == "postgresql" and any(
        router.allow_migrate_model(using, model) for model in covered
    ):
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            schema = connection.ops.quote_name(cursor.fetchone()[0])
            cursor.execute(CREATE.format(schema=schema, tell=TELL, channel=CHANNEL))


def take(connection: BaseDatabaseWrapper) -> list[Told]:
    """Take the oldest rows out, in the open transaction; rows that another process takes are left."""
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, [BATCH])
        rows = sorted(cursor.fetchall())
    return [Told(model, _read(said)) for _, model, said in rows]


def _read(text: str) -> dict[str, Any]:
    """Return what a trigger said; of what cannot be read, that any row may have changed.

    Every role of the database may call the function. An error here would come again and again, and
    keep all later changes from being told.
    """
    try:
        # Numbers with a fraction would lose digits as a float.
        said = json.loads(text, parse_float=Decimal)
        lists = [said["pk"], *(it for it in said.get("via", {}).values() if it is not None)]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        lists = [None]
    if all(isinstance(it, list) and all(isinstance(key, _KEYS) for key in it) for it in lists):
        return said  # type: ignore[no-any-return]
    return {"all": True}


def take_old(connection: BaseDatabaseWrapper) -> list[Told]:
    """Take all rows out if there are too many to be told one by one; what is left is their models."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM (SELECT FROM django_sse_change LIMIT %s) it", [MANY])
        if cursor.fetchone()[0] < MANY:
            return []
        cursor.execute(_TAKE_ALL)
        return [Told(model, json.loads(ALL)) for (model,) in cursor.fetchall()]
