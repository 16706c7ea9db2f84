"""Delete what is too old, and of a topic what exceeds its history.

What is deleted is recorded before, so that a client which needs it gets a ``reset``. Nothing here
takes a lock that a publisher waits for. Each batch is a transaction of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from django.db.backends.base.base import BaseDatabaseWrapper

from django_sse.brokers.base import PASSING

from . import store
from .connections import transaction
from .store import Limits

#: Milliseconds for which answers are stored, which only the asking process needs.
PASSING_AGE = 60_000


def trim_old(connection: BaseDatabaseWrapper, limits: Limits) -> bool:
    """Delete a batch of events that are too old; return whether there may be more."""
    cutoff = store.now() - (limits.max_age << store.SEQUENCE_BITS)
    with transaction(connection):
        # The newest event stays: its number says which was given last.
        rows = store.ask(
            connection,
            "SELECT number, envelope FROM django_sse_event WHERE number < %s AND number < "  # noqa: S608
            "(SELECT max(number) FROM django_sse_event) ORDER BY number LIMIT %s"
            f"{_skip_locked(connection)}",
            [cutoff, store.BATCH],
        )
        newest: dict[str, int] = {}
        for number, envelope in rows:
            newest.update(dict.fromkeys(json.loads(envelope)[0], number))
        _record(connection, newest)
        _delete(connection, [row[0] for row in rows])
    with transaction(connection), connection.cursor() as cursor:
        if passing := store.ask(
            connection,
            "SELECT number FROM django_sse_entry WHERE topic >= %s AND topic < %s AND number < %s "
            "LIMIT %s",
            [
                store.name_in(connection, PASSING),
                store.name_in(connection, PASSING[:-1] + chr(ord(PASSING[-1]) + 1)),
                store.now() - (PASSING_AGE << store.SEQUENCE_BITS),
                store.BATCH,
            ],
        ):
            last = store.position(connection)
            _delete(
                connection,
                [row[0] for row in passing if last is not None and row[0] < last.last],
            )
        cursor.execute(
            "DELETE FROM django_sse_trimmed WHERE number < %s",
            [cutoff - (store.MEMORY << store.SEQUENCE_BITS)],
        )
        cursor.execute("DELETE FROM django_sse_once WHERE number < %s", [cutoff])
    return len(rows) == store.BATCH


def excess(connection: BaseDatabaseWrapper, topic: str, history: int) -> int:
    """Return the newest number of a topic that exceeds its history, or 0.

    It goes through all events that the topic may hold, so ask seldom.
    """
    found = store.ask(
        connection,
        "SELECT number FROM django_sse_entry WHERE topic = %s ORDER BY number DESC "
        "LIMIT 1 OFFSET %s",
        [store.name_in(connection, topic), history],
    )
    return found[0][0] if found else 0


def trim_topic(connection: BaseDatabaseWrapper, topic: str, upto: int) -> bool:
    """Delete a batch of a topic's events up to a number; return whether there may be more."""
    name = store.name_in(connection, topic)
    with transaction(connection):
        rows = store.ask(
            connection,
            "SELECT number FROM django_sse_entry WHERE topic = %s AND number <= %s "  # noqa: S608
            f"ORDER BY number LIMIT %s{_skip_locked(connection)}",
            [name, upto, store.BATCH],
        )
        numbers = [row[0] for row in rows]
        if numbers:
            _record(connection, {topic: numbers[-1]})
            marks = ", ".join(["%s"] * len(numbers))
            with connection.cursor() as cursor:
                cursor.execute(
                    f"DELETE FROM django_sse_entry WHERE topic = %s AND number IN ({marks})",  # noqa: S608
                    [name, *numbers],
                )
                cursor.execute(
                    f"DELETE FROM django_sse_event WHERE number IN ({marks}) AND NOT EXISTS "  # noqa: S608
                    "(SELECT 1 FROM django_sse_entry entry "
                    "WHERE entry.number = django_sse_event.number)",
                    numbers,
                )
    return len(numbers) == store.BATCH


def _record(connection: BaseDatabaseWrapper, newest: dict[str, int]) -> None:
    """Note up to where topics are trimmed; never lower than before."""
    statement = "INSERT INTO django_sse_trimmed (topic, number) VALUES (%s, %s) "
    if connection.vendor == "mysql":
        statement += "ON DUPLICATE KEY UPDATE number = GREATEST(number, VALUES(number))"
    else:
        greatest = "max" if connection.vendor == "sqlite" else "greatest"
        statement += (
            "ON CONFLICT (topic) DO UPDATE SET number = "
            f"{greatest}(django_sse_trimmed.number, excluded.number)"
        )
    with connection.cursor() as cursor:
        # In one order for all, so that two processes do not wait for each other.
        for topic, number in sorted(newest.items()):
            if not topic.startswith(PASSING):
                cursor.execute(statement, [store.name_in(connection, topic), number])


def _delete(connection: BaseDatabaseWrapper, numbers: Sequence[int]) -> None:
    if numbers:
        marks = ", ".join(["%s"] * len(numbers))
        with connection.cursor() as cursor:
            for table in ("entry", "event"):
                cursor.execute(
                    f"DELETE FROM django_sse_{table} WHERE number IN ({marks})",  # noqa: S608
                    numbers,
                )


def _skip_locked(connection: BaseDatabaseWrapper) -> str:
    return (
        " FOR UPDATE SKIP LOCKED" if connection.features.has_select_for_update_skip_locked else ""
    )
