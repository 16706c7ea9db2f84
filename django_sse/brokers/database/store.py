"""The queries on the broker's tables: number and store events, and read them.

A *number* is an event's id in one integer, so that the database can order and compare ids. All
functions take a connection of the broker, and leave transactions to their callers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

from django_sse.brokers.base import EventId, Message, newest_of

from . import origins

#: The bits of a number that hold the id's sequence. The others hold its milliseconds, until 2248.
SEQUENCE_BITS = 20
#: The most events that one transaction numbers or writes, and that one query reads.
BATCH = 500
#: Milliseconds for which a topic's trimming is remembered after its events were deleted.
MEMORY = 30 * 86_400_000

_SEQUENCES = (1 << SEQUENCE_BITS) - 1
# Above all numbers; fits into the databases' 64 bits.
_HIGHEST = 2**63 - 1
#: Any number that other programs are unlikely to use as the key of a lock.
LOCK = 7_235_417_130_652_071
#: The question of ``look()``, with a place for the number. Without its ``LIMIT 1`` PostgreSQL, which
#: guesses two thousand rows of a small table, compiles the query each time, for milliseconds.
LOOK = (
    "SELECT epoch, coalesce((SELECT max(number) FROM django_sse_event), 0), "  # noqa: S608
    "coalesce((SELECT max(number) FROM django_sse_trimmed), 0), "
    "EXISTS (SELECT 1 FROM django_sse_pending), number, envelope, head, tail "
    "FROM (SELECT epoch FROM django_sse_state LIMIT 1) state LEFT JOIN (SELECT number, envelope, "
    f"head, tail FROM django_sse_event WHERE number > %s ORDER BY number LIMIT {BATCH}) found "
    "ON 1 = 1 ORDER BY number"
)

# MySQL's locks are those of the server, and have at most 64 characters.
_LOCK_NAME = "LEFT(CONCAT('django_sse.', DATABASE()), 64)"


class Draft(NamedTuple):
    """An event without an id, as the tables hold it."""

    topics: tuple[str, ...]
    envelope: str
    head: bytes
    tail: bytes
    once: str | None = None


class Limits(NamedTuple):
    """``history`` is in events per topic, ``max_age`` in milliseconds."""

    history: int
    max_age: int


class Look(NamedTuple):
    """The answer of one query of a listener; ``trimmed`` is the newest number that was deleted.

    ``messages`` are the first ones, at most ``BATCH``, above the number after which it looked.
    """

    epoch: int
    last: int
    trimmed: int
    pending: bool
    messages: list[Message]


class Written(NamedTuple):
    """The events that one transaction has numbered.

    ``numbers`` are those of the given events; ``pending`` is how many others were numbered before
    them; ``topics`` are those of both, of each event.
    """

    numbers: list[int]
    pending: int
    topics: list[str]


class Position(NamedTuple):
    """The number at which the data begins, and the newest number that was given."""

    epoch: int
    last: int


def draft(
    topics: Sequence[str],
    head: bytes,
    tail: bytes,
    key: str | None,
    exclude: str | None = None,
    idempotency_key: str | None = None,
) -> Draft:
    """Return an event as the tables hold it."""
    names = tuple(dict.fromkeys(topics))
    envelope = json.dumps([names, key, exclude, idempotency_key])
    return Draft(names, envelope, head, tail, idempotency_key)


def number_of(id: EventId) -> int:
    """Return the number of an id; for an id that cannot be one of ours, the nearest number."""
    sequence = min(id.sequence, _SEQUENCES)
    return min((id.milliseconds << SEQUENCE_BITS) | sequence, _HIGHEST)


def id_of(number: int) -> EventId:
    """Return the id that a number stands for."""
    return EventId(number >> SEQUENCE_BITS, number & _SEQUENCES)


def now() -> int:
    """Return the lowest number of this millisecond."""
    milliseconds: int = time.time_ns() // 1_000_000
    return milliseconds << SEQUENCE_BITS


def put(connection: BaseDatabaseWrapper, event: Draft) -> None:
    """Write an event into the transaction that is open on a project's connection."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_sse_pending (envelope, head, tail) VALUES (%s, %s, %s)",
            [event.envelope, event.head, event.tail],
        )


def look(connection: BaseDatabaseWrapper, after: int) -> Look | None:
    """Return the events above a number, of all topics; ``None`` where ``position()`` is that."""
    return look_of(ask(connection, LOOK % "%s", [after]))


def look_of(rows: Sequence[Sequence[Any]]) -> Look | None:
    """Return what the rows of ``LOOK`` say."""
    if not rows:
        return None
    epoch, last, trimmed, pending = rows[0][:4]
    messages = [_message(*row[4:]) for row in rows if row[4] is not None]
    return Look(epoch, max(epoch, last), trimmed, bool(pending), messages)


def position(connection: BaseDatabaseWrapper) -> Position | None:
    """Return where the data begins and ends; ``None`` before the first event and after a ``TRUNCATE``."""
    rows = ask(
        connection,
        "SELECT epoch, (SELECT max(number) FROM django_sse_event) FROM django_sse_state",
    )
    return Position(rows[0][0], max(rows[0][0], rows[0][1] or 0)) if rows else None


def write(
    connection: BaseDatabaseWrapper, events: Sequence[Draft], known: int, max_age: int
) -> Written:
    """Number and store what is pending, then ``events``.

    An event whose idempotency key is at most ``max_age`` milliseconds old is not stored again, and
    has the first one's number.

    ``known`` is the newest number that this process has seen. Where the database knows only lower
    ones, it has lost events, and a new epoch begins: every older id is then history lost. All is
    done under one lock of the database; call it in a transaction of a connection of the broker.
    """
    _lock(connection)
    at = position(connection)
    pending = ask(
        connection,
        "SELECT id, envelope, head, tail FROM django_sse_pending ORDER BY id LIMIT %s",
        [BATCH],
    )
    if at is None or known > at.last:
        at = _begin_epoch(connection, at, known)
    elif not pending and not events:
        return Written([], 0, [])
    waiting = [_pending(*row[1:]) for row in pending]
    drafts = [*waiting, *events]
    first = max(at.last + 1, now())
    given = _published(connection, {it.once for it in drafts if it.once is not None}, max_age)
    before = set(given)
    numbers: list[int] = []
    new: list[tuple[int, Draft]] = []
    for event in drafts:
        number = given.get(event.once) if event.once is not None else None
        if number is None:
            number = first + len(new)
            new.append((number, event))
            if event.once is not None:
                given[event.once] = number
        numbers.append(number)
    entries = [
        (name_in(connection, topic), number) for number, event in new for topic in event.topics
    ]
    once = [(name_in(connection, it), given[it]) for it in given.keys() - before]
    with connection.cursor() as cursor:
        if pending:
            marks = ", ".join(["%s"] * len(pending))
            cursor.execute(
                f"DELETE FROM django_sse_pending WHERE id IN ({marks})",  # noqa: S608
                [row[0] for row in pending],
            )
        _insert(
            cursor,
            "django_sse_event (number, envelope, head, tail)",
            [(number, event.envelope, event.head, event.tail) for number, event in new],
        )
        _insert(cursor, "django_sse_entry (topic, number)", entries)
        _insert(cursor, "django_sse_once (name, number)", once)
    _notify(connection)
    topics = [topic for event in drafts for topic in event.topics]
    return Written(numbers[len(pending) :], len(pending), topics)


def _lock(connection: BaseDatabaseWrapper) -> None:
    """Take the lock under which events are numbered, where it ends with the transaction."""
    if connection.vendor == "postgresql":
        ask(connection, "SELECT pg_advisory_xact_lock(%s)", [LOCK])


def _notify(connection: BaseDatabaseWrapper) -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("NOTIFY django_sse")


def _pending(envelope: str, head: Any, tail: Any) -> Draft:
    topics, _, _, once = json.loads(envelope)
    return Draft(tuple(topics), envelope, bytes(head), bytes(tail), once)


def _published(
    connection: BaseDatabaseWrapper, names: Collection[str], max_age: int
) -> dict[str, int]:
    """Return the numbers of the events that were published with idempotency keys."""
    if not names:
        return {}
    wanted = {name_in(connection, name): name for name in names}
    marks = ", ".join(["%s"] * len(wanted))
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM django_sse_once WHERE name IN ({marks}) AND number < %s",  # noqa: S608
            [*wanted, now() - (max_age << SEQUENCE_BITS)],
        )
    rows = ask(
        connection,
        f"SELECT name, number FROM django_sse_once WHERE name IN ({marks})",  # noqa: S608
        list(wanted),
    )
    return {wanted[name]: number for name, number in rows}


def _begin_epoch(connection: BaseDatabaseWrapper, at: Position | None, known: int) -> Position:
    epoch = max(now(), known + 1, at.last + 1 if at is not None else 0)
    with connection.cursor() as cursor:
        if at is None:
            cursor.execute("INSERT INTO django_sse_state (id, epoch) VALUES (1, %s)", [epoch])
        else:
            cursor.execute("UPDATE django_sse_state SET epoch = %s", [epoch])
    origins.note(connection)
    return Position(epoch, epoch)


def renew(connection: BaseDatabaseWrapper) -> None:
    """Begin a new epoch if the tables are elsewhere than when theirs began; in a transaction."""
    _lock(connection)
    at = position(connection)
    # Another process may have begun it meanwhile.
    if at is not None and origins.is_elsewhere(connection):
        _begin_epoch(connection, at, 0)
        _notify(connection)


def take_lock(connection: BaseDatabaseWrapper, seconds: float) -> bool:
    """Take the lock under which events are numbered, where it must be taken before the transaction."""
    if connection.vendor != "mysql":
        return True
    rows = ask(connection, f"SELECT GET_LOCK({_LOCK_NAME}, %s)", [seconds])
    return bool(rows[0][0])


def release_lock(connection: BaseDatabaseWrapper) -> None:
    """Give back what ``take_lock()`` took."""
    if connection.vendor == "mysql":
        ask(connection, f"SELECT RELEASE_LOCK({_LOCK_NAME})")


def replay(
    connection: BaseDatabaseWrapper, topics: Collection[str], after: int, limit: int | None
) -> list[Message]:
    """Return the events of topics above a number, in order, each once, as of one moment."""
    names = [name_in(connection, topic) for topic in topics]
    marks = ", ".join(["%s"] * len(names))
    rows = ask(
        connection,
        "SELECT event.number, envelope, head, tail FROM (SELECT DISTINCT number "  # noqa: S608
        f"FROM django_sse_entry WHERE topic IN ({marks}) AND number > %s ORDER BY number "
        "LIMIT %s) found JOIN django_sse_event event ON event.number = found.number "
        "ORDER BY event.number",
        [*names, after, _HIGHEST if limit is None else limit],
    )
    return [_message(*row) for row in rows]


def newest(
    connection: BaseDatabaseWrapper,
    topics: Collection[str],
    count: int,
    limits: Limits,
    *,
    per_key: bool,
) -> list[Message]:
    """Return the newest messages of topics, as ``Listener.newest()`` promises."""
    names = [name_in(connection, topic) for topic in topics]
    marks = ", ".join(["%s"] * len(names))

    def newest_first() -> Iterator[Message]:
        before, oldest = _HIGHEST, now() - (limits.max_age << SEQUENCE_BITS)
        while True:
            rows = ask(
                connection,
                "SELECT event.number, envelope, head, tail FROM (SELECT DISTINCT number "  # noqa: S608
                f"FROM django_sse_entry WHERE topic IN ({marks}) AND number < %s AND number >= %s "
                "ORDER BY number DESC LIMIT %s) found JOIN django_sse_event event "
                "ON event.number = found.number ORDER BY event.number DESC",
                [*names, before, oldest, BATCH if per_key else min(count, BATCH)],
            )
            yield from (_message(*row) for row in rows)
            if not rows:
                return
            before = rows[-1][0]

    return newest_of(newest_first(), count, per_key=per_key)


def lost_since(
    connection: BaseDatabaseWrapper, topics: Iterable[str], after: int, limits: Limits
) -> set[str]:
    """Return the topics of which events above a number are gone, or too old or too many to be held.

    Ask after the events were read: what was trimmed before the reading is then known. It goes
    through no more events of a topic than are above the number.
    """
    oldest = now() - (limits.max_age << SEQUENCE_BITS)
    lost = set()
    for topic in topics:
        name = name_in(connection, topic)
        rows = ask(
            connection,
            "SELECT (SELECT number FROM django_sse_trimmed WHERE topic = %s), "
            "(SELECT max(number) FROM django_sse_entry WHERE topic = %s AND number < %s), "
            "(SELECT number FROM django_sse_entry WHERE topic = %s AND number > %s "
            "ORDER BY number DESC LIMIT 1 OFFSET %s)",
            [name, name, oldest, name, after, limits.history],
        )
        if max(number or 0 for number in rows[0]) > after:
            lost.add(topic)
    return lost


def trimmed_since(connection: BaseDatabaseWrapper, topics: Sequence[str], after: int) -> set[str]:
    """Return the topics of which events above a number were deleted."""
    rows = ask(connection, "SELECT topic FROM django_sse_trimmed WHERE number > %s", [after])
    gone = {row[0].decode() if isinstance(row[0], bytes) else row[0] for row in rows}
    return gone.intersection(topics)


def _insert(cursor: Any, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows with few statements. SQLite allows 999 parameters in one."""
    if not rows:
        return
    width = len(rows[0])
    size = 900 // width
    row = f"({', '.join(['%s'] * width)})"
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        cursor.execute(
            f"INSERT INTO {table} VALUES {', '.join([row] * len(part))}",  # noqa: S608
            [value for values in part for value in values],
        )


def name_in(connection: BaseDatabaseWrapper, topic: str) -> str | bytes:
    """Return a topic or an idempotency key as the database compares it."""
    return topic.encode() if connection.vendor == "mysql" else topic


def _message(number: int, envelope: str, head: Any, tail: Any) -> Message:
    topics, key, exclude, _ = json.loads(envelope)
    return Message(id_of(number), tuple(topics), bytes(head), bytes(tail), key, exclude)


def ask(
    connection: BaseDatabaseWrapper, statement: str, parameters: Sequence[Any] | None = None
) -> list[Any]:
    """Return the rows of a statement."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())
