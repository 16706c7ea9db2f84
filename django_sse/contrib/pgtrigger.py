"""Triggers of PostgreSQL that record every change of a table for streams, by django-pgtrigger.

``QuerySet.update()``, ``bulk_create()``, raw SQL and other programs send no signals of Django. A
trigger sees them all: it writes into ``django_sse_change`` which rows a statement changed, in the
same transaction. A process with streams reads that after the commit (``django_sse.rows.relay``).
"""

from __future__ import annotations

from typing import Any

import pgtrigger
from django.core.exceptions import ImproperlyConfigured

from django_sse.rows import change_table

_OLD, _NEW = "old_rows", "new_rows"
# One trigger has the rows of one kind of statement only.
_TABLES: dict[Any, tuple[str, ...]] = {
    pgtrigger.Insert: (_NEW,),
    pgtrigger.Update: (_OLD, _NEW),
    pgtrigger.Delete: (_OLD,),
    pgtrigger.Truncate: (),
}


class StreamTrigger(pgtrigger.Trigger):
    """Records the rows of a statement of one kind; once a statement, however many rows there are."""

    level = pgtrigger.Statement
    when = pgtrigger.After

    def __init__(self, operation: Any, **options: Any) -> None:
        """Take one of ``pgtrigger.Insert``, ``Update``, ``Delete`` and ``Truncate``."""
        tables = _TABLES[operation]
        if tables:
            names = {name.partition("_")[0]: name for name in tables}
            options["referencing"] = pgtrigger.Referencing(**names)  # type: ignore[no-untyped-call]
        name = options.pop("name", f"stream_{str(operation).lower()}")
        super().__init__(name=name, operation=operation, **options)

    def register(self, *models: Any) -> None:
        """Add the trigger to models, whose signals then publish nothing in PostgreSQL."""
        super().register(*models)
        change_table.covered.update(model._meta.concrete_model or model for model in models)

    def get_func(self, model: Any) -> str:
        """Return the body of the function: it records primary keys and foreign keys."""
        # A proxy has no fields of its own.
        meta = (model._meta.concrete_model or model)._meta
        tables = _TABLES[self.operation]
        label = _text(meta.label_lower)
        if not tables:
            return f"{_call(label, _text(change_table.ANY_ROW))} RETURN NULL;"
        if not getattr(meta.pk, "column", None):
            raise ImproperlyConfigured(
                f"{meta.label} has a composite primary key, and stream_triggers() needs one column."
            )
        keys = ", ".join(
            f"{_text(field.attname)}, {_values(field.column, tables)}"
            for field in meta.local_concrete_fields
            if field.is_relation
        )
        payload = f"'pk', {_values(meta.pk.column, tables)}"
        if keys:
            payload += f", 'via', json_build_object({keys})"
        call = _call(label, f"json_build_object({payload})::text")
        return f"IF EXISTS (SELECT FROM {tables[0]}) THEN {call} END IF; RETURN NULL;"


def stream_triggers() -> list[StreamTrigger]:
    """Return what a model's ``Meta.triggers`` needs so that streams hear of all its changes.

    Then make and run the migrations. The rows of a ``TRUNCATE`` are not known: all streams of the
    model get ``reset``. In a block of ``pgtrigger.ignore()``, nothing is recorded.
    """
    return [StreamTrigger(operation) for operation in _TABLES]


def _call(label: str, payload: str) -> str:
    """Return the call of the function, in the schema of the table if no other one is searched.

    ``pg_restore``, and programs that are careful, search no schema at all.
    """
    return (
        f"IF to_regprocedure('{change_table.RECORD_CHANGE}(text,text)') IS NULL THEN "
        f"EXECUTE format('SELECT %I.{change_table.RECORD_CHANGE}($1, $2)', TG_TABLE_SCHEMA) "
        f"USING {label}, {payload}; "
        f"ELSE PERFORM {change_table.RECORD_CHANGE}({label}, {payload}); END IF;"
    )


def _values(column: str, tables: tuple[str, ...]) -> str:
    name = '"' + column.replace('"', '""') + '"'
    # UNION leaves out what is there twice.
    distinct = "" if len(tables) > 1 else "DISTINCT "
    rows = " UNION ".join(f"SELECT {distinct}{name} it FROM {table}" for table in tables)  # noqa: S608
    return f"(SELECT json_agg(it) FROM ({rows}) found WHERE it IS NOT NULL)"  # noqa: S608


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
