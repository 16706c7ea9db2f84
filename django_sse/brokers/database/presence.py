"""The presence of users in topics, in tables: ``Broker.attend()`` in one transaction.

Joins and leaves are written into the table of pending events, as a project's transaction does. One
lock gives all calls an order, so the events of a user are in the order of the user's changes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from django_sse.brokers.presence import (
    DUE_LIMIT,
    SWEEP_LIMIT,
    Attended,
    Change,
    Departure,
    Presence,
)

from . import store
from .connections import transaction
from .store import LOCK, ask, name_in

#: Seconds for which a call waits for the lock on MySQL.
LOCK_SECONDS = 5
#: The member that stands for all anonymous streams of a holder.
ANONYMOUS = ""
#: The most topics and members that one question names. SQLite allows 999 parameters.
_AT_ONCE = 200

# MySQL's locks are those of the server, and have at most 64 characters.
_LOCK_NAME = "LEFT(CONCAT('django_sse+', DATABASE()), 64)"
_CLOCKS = {
    "postgresql": "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    "mysql": "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
}

_HAS_HOLDER = (
    "EXISTS (SELECT 1 FROM django_sse_present present WHERE present.topic = django_sse_member.topic "
    "AND present.member = django_sse_member.member)"
)
_HAS_LIVING_HOLDER = (
    "EXISTS (SELECT 1 FROM django_sse_present present JOIN django_sse_holder holder "
    "ON holder.name = present.holder AND holder.expires >= %s "
    "WHERE present.topic = django_sse_member.topic AND present.member = django_sse_member.member)"
)


def attend(
    connection: BaseDatabaseWrapper,
    holder: str,
    changes: Sequence[Change],
    departures: Sequence[Departure],
    *,
    lease: float,
    grace: float,
) -> tuple[Attended, bool]:
    """Do what ``Broker.attend()`` promises; return also whether events wait for their numbers."""
    with _locked(connection):
        now = _clock(connection)
        me = name_in(connection, holder)
        events = _enter(connection, me, [it for it in changes if it.streams])
        gone = [_row(connection, it.topic, it.user) for it in changes if not it.streams]
        _release(connection, me, gone, now + int(grace * 1000))
        events += _depart(connection, departures, now)
        _put(connection, events)
        attended = _renew(connection, me, now, int(lease * 1000))
    return attended, bool(events)


def present(connection: BaseDatabaseWrapper, topic: str) -> Presence:
    """Return the users that are present in a topic."""
    now, name = _clock(connection), name_in(connection, topic)
    users = ask(
        connection,
        "SELECT member FROM django_sse_member WHERE topic = %s AND "  # noqa: S608
        f"(due > %s OR (due IS NULL AND {_HAS_LIVING_HOLDER}))",
        [name, now, now],
    )
    anonymous = ask(
        connection,
        "SELECT coalesce(sum(streams), 0) FROM django_sse_present present JOIN django_sse_holder "
        "holder ON holder.name = present.holder AND holder.expires >= %s "
        "WHERE present.topic = %s AND present.member = %s",
        [now, name, name_in(connection, ANONYMOUS)],
    )
    return Presence(tuple(sorted(_text(row[0]) for row in users)), int(anonymous[0][0]))


@contextmanager
def _locked(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Run the block in a transaction, under the lock of presence."""
    if connection.vendor == "mysql":
        [[taken]] = ask(connection, f"SELECT GET_LOCK({_LOCK_NAME}, %s)", [LOCK_SECONDS])
        if not taken:
            raise OperationalError("Another process holds the lock for presence.")
    try:
        with transaction(connection):
            if connection.vendor == "postgresql":
                ask(connection, "SELECT pg_advisory_xact_lock(%s)", [LOCK + 1])
            yield
    finally:
        if connection.vendor == "mysql" and connection.connection is not None:
            ask(connection, f"SELECT RELEASE_LOCK({_LOCK_NAME})")


def _clock(connection: BaseDatabaseWrapper) -> int:
    """Return the database's time in milliseconds. The clocks of processes may differ."""
    question = _CLOCKS.get(connection.vendor)
    if question is None:
        return time.time_ns() // 1_000_000  # SQLite: all processes are on one machine.
    return int(ask(connection, question)[0][0])


def _enter(
    connection: BaseDatabaseWrapper, holder: Any, changes: Sequence[Change]
) -> list[tuple[str, bytes]]:
    """Write the members of a holder; return the join events of members that were not present."""
    if not changes:
        return []
    rows = [_row(connection, it.topic, it.user) for it in changes]
    _many(
        connection,
        "DELETE FROM django_sse_present WHERE topic = %s AND member = %s AND holder = %s",
        [(*row, holder) for row in rows],
    )
    _many(
        connection,
        "INSERT INTO django_sse_present (topic, member, holder, streams) VALUES (%s, %s, %s, %s)",
        [(*row, holder, it.streams) for row, it in zip(rows, changes, strict=True)],
    )
    known = _members(connection, rows)
    named = [(row, it) for row, it in zip(rows, changes, strict=True) if it.user is not None]
    _many(
        connection,
        "UPDATE django_sse_member SET due = NULL WHERE topic = %s AND member = %s",
        [row for row, _ in named if row in known],
    )
    new = [(row, it) for row, it in named if row not in known]
    _many(
        connection,
        "INSERT INTO django_sse_member (topic, member) VALUES (%s, %s)",
        [row for row, _ in new],
    )
    return [(it.topic, it.head) for _, it in new]


def _release(
    connection: BaseDatabaseWrapper, holder: Any, rows: Sequence[tuple[Any, Any]], due: int
) -> None:
    """Remove members from a holder. The leave of a member without another holder is then due."""
    _many(
        connection,
        "DELETE FROM django_sse_present WHERE topic = %s AND member = %s AND holder = %s",
        [(*row, holder) for row in rows],
    )
    _many(
        connection,
        "UPDATE django_sse_member SET due = %s WHERE topic = %s AND member = %s "  # noqa: S608
        f"AND (due IS NULL OR due > %s) AND NOT {_HAS_HOLDER}",
        [(due, *row, due) for row in rows],
    )


def _depart(
    connection: BaseDatabaseWrapper, departures: Sequence[Departure], now: int
) -> list[tuple[str, bytes]]:
    """Let users leave whose leave is due; return the events."""
    events = []
    with connection.cursor() as cursor:
        for topic, user, head in departures:
            cursor.execute(
                "DELETE FROM django_sse_member WHERE topic = %s AND member = %s AND due <= %s",
                [*_row(connection, topic, user), now],
            )
            if cursor.rowcount:
                events.append((topic, head))
    return events


def _renew(connection: BaseDatabaseWrapper, holder: Any, now: int, lease: int) -> Attended:
    """Renew a holder's lease, and remove what others have whose lease has ended."""
    rows = ask(connection, "SELECT expires FROM django_sse_holder WHERE name = %s", [holder])
    before = rows[0][0] if rows else 0
    _many(connection, "DELETE FROM django_sse_holder WHERE name = %s", [(holder,)])
    if lease or _has_any(connection, holder):
        _many(
            connection,
            "INSERT INTO django_sse_holder (name, expires) VALUES (%s, %s)",
            [(holder, now + lease if lease else 0)],
        )
    if not lease or before < now:
        return Attended(before > 0, [], None)
    _sweep(connection, now)
    due = ask(
        connection,
        "SELECT topic, member FROM django_sse_member WHERE due <= %s ORDER BY due LIMIT %s",
        [now, DUE_LIMIT],
    )
    [[first]] = ask(
        connection, "SELECT min(expires) FROM django_sse_holder WHERE name <> %s", [holder]
    )
    wait = None if first is None else max(first - now, 0) / 1000
    return Attended(True, [(_text(topic), _text(user)) for topic, user in due], wait)


def _sweep(connection: BaseDatabaseWrapper, now: int) -> None:
    left = SWEEP_LIMIT
    for [holder] in ask(
        connection, "SELECT name FROM django_sse_holder WHERE expires < %s LIMIT 10", [now]
    ):
        rows = ask(
            connection,
            "SELECT topic, member FROM django_sse_present WHERE holder = %s LIMIT %s",
            [holder, left],
        )
        _release(connection, holder, rows, now)
        left -= len(rows)
        if _has_any(connection, holder):
            # A holder that comes back in the middle of this must tell everything again.
            statement = "UPDATE django_sse_holder SET expires = 0 WHERE name = %s"
        else:
            statement = "DELETE FROM django_sse_holder WHERE name = %s"
        _many(connection, statement, [(holder,)])


def _has_any(connection: BaseDatabaseWrapper, holder: Any) -> bool:
    question = "SELECT 1 FROM django_sse_present WHERE holder = %s LIMIT 1"
    return bool(ask(connection, question, [holder]))


def _members(
    connection: BaseDatabaseWrapper, rows: Sequence[tuple[Any, Any]]
) -> Collection[tuple[Any, Any]]:
    """Return which of the given topics and members are present."""
    found: set[tuple[Any, Any]] = set()
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        topics, members = {row[0] for row in part}, {row[1] for row in part}
        found.update(
            (_key(connection, topic), _key(connection, member))
            for topic, member in ask(
                connection,
                "SELECT topic, member FROM django_sse_member "  # noqa: S608
                f"WHERE topic IN ({_marks(topics)}) AND member IN ({_marks(members)})",
                [*topics, *members],
            )
        )
    return found


def _put(connection: BaseDatabaseWrapper, events: Sequence[tuple[str, bytes]]) -> None:
    for topic, head in events:
        store.put(connection, store.draft([topic], head, b"", None))


def _many(connection: BaseDatabaseWrapper, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(statement, rows)


def _row(connection: BaseDatabaseWrapper, topic: str, user: str | None) -> tuple[Any, Any]:
    member = ANONYMOUS if user is None else user
    return name_in(connection, topic), name_in(connection, member)


def _marks(values: Collection[Any]) -> str:
    return ", ".join(["%s"] * len(values))


def _key(connection: BaseDatabaseWrapper, value: Any) -> Any:
    return bytes(value) if connection.vendor == "mysql" else value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
