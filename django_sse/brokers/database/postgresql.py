"""Functions of PostgreSQL that do in one round trip what takes several on other databases.

Functions of the database hold the statements, so their plans are made once for a connection,
also through a pool that allows no prepared statements. Where they are missing, ``store`` does the
same with single statements.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from . import store
from .connections import readable
from .store import BATCH, LOCK, LOOK, Draft, Look, Written

# Their names change with what they take, give or do: two releases may use one database.
_WRITE = "django_sse_write_1"
_LOOK = "django_sse_look_1"
_TRIM = "django_sse_trim_1"
#: What makes each function, under its name. ``first`` is NULL where an epoch must begin or something
#: has an idempotency key: ``store.write()`` knows how. Each statement of such a function sees what
#: others committed while it waited for the lock.
FUNCTIONS = {
    _WRITE: f"""
CREATE OR REPLACE FUNCTION {_WRITE}(
    known bigint, stamp bigint, envelopes text[], heads bytea[], tails bytea[],
    topics text[], nths integer[],
    OUT first bigint, OUT pending integer, OUT touched text[])
LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
    ids bigint[];
    keyed boolean;
    its_envelope text;
    its_head bytea;
    its_tail bytea;
    names text[];
BEGIN
    PERFORM pg_advisory_xact_lock({LOCK});
    SELECT greatest(epoch, (SELECT max(number) FROM django_sse_event)) INTO last
        FROM django_sse_state;
    SELECT array_agg(id), bool_or(envelope NOT LIKE '%, null]') INTO ids, keyed
        FROM (SELECT id, envelope FROM django_sse_pending ORDER BY id LIMIT {BATCH}) waiting;
    IF last IS NULL OR last < known OR keyed THEN
        RETURN;
    END IF;
    first := greatest(last + 1, stamp);
    pending := coalesce(cardinality(ids), 0);
    FOR nth IN 1 .. pending LOOP
        DELETE FROM django_sse_pending WHERE id = ids[nth]
            RETURNING envelope, head, tail INTO its_envelope, its_head, its_tail;
        INSERT INTO django_sse_event VALUES (first + nth - 1, its_envelope, its_head, its_tail);
        names := ARRAY(SELECT json_array_elements_text(its_envelope::json->0));
        INSERT INTO django_sse_entry SELECT name, first + nth - 1 FROM unnest(names) name;
        touched := touched || names;
    END LOOP;
    INSERT INTO django_sse_event (number, envelope, head, tail)
        SELECT first + pending + nth - 1, envelope, head, tail
        FROM unnest(envelopes, heads, tails) WITH ORDINALITY given (envelope, head, tail, nth);
    INSERT INTO django_sse_entry (topic, number)
        SELECT name, first + pending + nth FROM unnest(topics, nths) given (name, nth);
    IF pending > 0 OR cardinality(envelopes) > 0 THEN
        NOTIFY django_sse;
    END IF;
END $$
""",  # noqa: S608
    _LOOK: f"""
CREATE OR REPLACE FUNCTION {_LOOK}(after bigint) RETURNS TABLE (
    at_epoch bigint, at_last bigint, at_trimmed bigint, has_pending boolean,
    its_number bigint, its_envelope text, its_head bytea, its_tail bytea)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY {LOOK % "after"};
END $$
""",
    # Do not wait for the disk: rows that a crash brings back are deleted again.
    _TRIM: f"""
CREATE OR REPLACE FUNCTION {_TRIM}(its_topic text, upto bigint, OUT deleted integer)
LANGUAGE plpgsql AS $$
DECLARE
    numbers bigint[];
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    numbers := ARRAY(SELECT number FROM django_sse_entry WHERE topic = its_topic AND number <= upto
        ORDER BY number LIMIT {BATCH} FOR UPDATE SKIP LOCKED);
    deleted := cardinality(numbers);
    IF deleted > 0 THEN
        INSERT INTO django_sse_trimmed (topic, number) VALUES (its_topic, numbers[deleted])
            ON CONFLICT (topic) DO UPDATE
            SET number = greatest(django_sse_trimmed.number, excluded.number);
        DELETE FROM django_sse_entry WHERE topic = its_topic AND number = ANY(numbers);
        DELETE FROM django_sse_event WHERE number = ANY(numbers) AND NOT EXISTS (
            SELECT 1 FROM django_sse_entry entry WHERE entry.number = django_sse_event.number);
    END IF;
END $$
""",  # noqa: S608
}

_WRITE_MANY = (
    f"SELECT first, pending, touched FROM {_WRITE}"  # noqa: S608
    "(%s, %s, %s::text[], %s::bytea[], %s::bytea[], %s::text[], %s::integer[])"
)
_WRITE_ONE = re.sub(r"%s::(\w+)\[\]", r"ARRAY[%s::\1]", _WRITE_MANY)


class _Texts(bytes):
    """An array of texts, as PostgreSQL's binary format writes it."""


class _Blobs(bytes):
    """An array of bytes, likewise."""


class _Integers(bytes):
    """An array of integers of 32 bits, likewise."""


# The types' numbers in PostgreSQL's catalog, which never change: of an item, and of the array.
_OIDS = {_Texts: (25, 1009), _Blobs: (17, 1001), _Integers: (23, 1007)}
_ARRAY = Struct("!iiIii")
_INTEGER = Struct("!i")


def create_functions(connection: BaseDatabaseWrapper) -> None:
    """Make the functions, or make them anew."""
    with connection.cursor() as cursor:
        for statement in FUNCTIONS.values():
            cursor.execute(statement)


def missing_functions(connection: BaseDatabaseWrapper) -> list[str]:
    """Return the names of the functions that are not there."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM unnest(%s::text[]) name WHERE to_regproc(name) IS NULL",
            [list(FUNCTIONS)],
        )
        return [row[0] for row in cursor.fetchall()]


class Functions:
    """The functions, over one connection."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        """Use ``Functions.of()``."""
        self._connection = connection

    @classmethod
    def of(cls, connection: BaseDatabaseWrapper) -> Functions | None:
        """Return them for an open connection; ``None`` for one of another kind, or without them."""
        raw: Any = connection.connection
        if connection.vendor != "postgresql" or not is_psycopg3():
            return None
        if missing_functions(connection):
            return None
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            [process] = cursor.fetchone()
        # A pooler gives out process ids of its own, and may allow no prepared statements.
        raw.prepare_threshold = 0 if process == raw.info.backend_pid else None
        _let_write_arrays(raw)
        return cls(connection)

    def write(self, events: Sequence[Draft], known: int) -> Written | None:
        """Do what ``store.write()`` does, in a transaction of its own; ``None`` where that has to."""
        if any(event.once is not None for event in events):
            return None
        entries = [(topic, nth) for nth, event in enumerate(events) for topic in event.topics]
        parameters: tuple[Any, ...]
        if len(events) == len(entries) == 1:
            [event], [(topic, nth)] = events, entries
            statement = _WRITE_ONE
            parameters = event.envelope, event.head, event.tail, topic, nth
        else:
            statement = _WRITE_MANY
            # psycopg writes arrays in Python, item by item, which takes longer than to store them.
            parameters = (
                _array(_Texts, (event.envelope.encode() for event in events), len(events)),
                _array(_Blobs, (event.head for event in events), len(events)),
                _array(_Blobs, (event.tail for event in events), len(events)),
                _array(_Texts, (topic.encode() for topic, _ in entries), len(entries)),
                _array(_Integers, (_INTEGER.pack(nth) for _, nth in entries), len(entries)),
            )
        [[first, pending, touched]] = self._ask(statement, [known, store.now(), *parameters])
        if first is None:
            return None
        start = first + pending
        topics = [topic for topic, _ in entries]
        return Written(list(range(start, start + len(events))), pending, topics + (touched or []))

    def look(self, after: int) -> Look | None:
        """Do what ``store.look()`` does."""
        return store.look_of(self._ask(f"SELECT * FROM {_LOOK}(%s)", [after]))  # noqa: S608

    def trim_topic(self, topic: str, upto: int) -> bool:
        """Do what ``trimming.trim_topic()`` does."""
        [[deleted]] = self._ask(f"SELECT {_TRIM}(%s, %s)", [topic, upto])
        return bool(deleted == BATCH)

    def is_lost(self) -> bool:
        """Return whether the other end has closed the idle connection, without asking it."""
        raw: Any = self._connection.connection
        if raw is None or raw.closed:
            return True
        # An idle connection that listens to nothing has something to read only when it ends.
        return bool(readable([raw], 0))

    def _ask(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        from psycopg import Cursor  # noqa: PLC0415 - an extra

        with self._connection.wrap_database_errors:
            # Django's cursor binds on this side, in Python.
            cursor = Cursor(self._connection.connection)
            cursor.execute(statement, parameters)
            return cursor.fetchall()


def _array(kind: type[bytes], items: Iterable[bytes], count: int) -> bytes:
    """Write an array of one dimension as ``array_recv()`` reads it."""
    oid, _ = _OIDS[kind]
    parts = [_ARRAY.pack(1, 0, oid, count, 1)]
    for item in items:
        parts += (_INTEGER.pack(len(item)), item)
    return kind(b"".join(parts))


def _let_write_arrays(raw: Any) -> None:
    """Tell psycopg that what ``_array()`` has written needs nothing more."""
    from psycopg import adapt, pq  # noqa: PLC0415 - an extra

    for kind, (_, its_oid) in _OIDS.items():

        class Written(adapt.Dumper):
            format = pq.Format.BINARY
            oid = its_oid

            def dump(self, obj: bytes) -> bytes:
                return obj

        raw.adapters.register_dumper(kind, Written)


def is_psycopg3() -> bool:
    """Return which driver Django uses for PostgreSQL: not the older psycopg2."""
    from django.db.backends.postgresql.psycopg_any import is_psycopg3 as it  # noqa: PLC0415 - an extra

    return it
