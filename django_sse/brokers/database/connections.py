"""Connections to the project's databases that belong to a thread here, and to no request."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from django.db import Error, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

T = TypeVar("T")

# Seconds until a table that is locked is tried again.
_AGAIN = 0.005

# libpq: a connection whose other end is gone is noticed after half a minute, not after hours.
_KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "connect_timeout": 10,
}


def own_connection(alias: str) -> BaseDatabaseWrapper:
    """Return a new connection to a database of the settings, which is not open yet.

    It is no one's but the caller's: not in ``connections``, in no pool, and never closed by Django.
    """
    given: Mapping[str, Any] = connections.databases[alias]
    options = {name: value for name, value in given["OPTIONS"].items() if name != "pool"}
    engine = given["ENGINE"]
    own: BaseDatabaseWrapper = load_backend(engine).DatabaseWrapper(
        {**given, "OPTIONS": options, "CONN_MAX_AGE": None, "ATOMIC_REQUESTS": False}, alias
    )
    if own.vendor == "postgresql":
        # Each statement must see what others committed while it waited for the lock.
        options.pop("isolation_level", None)
        own.settings_dict["OPTIONS"] = {**_KEEPALIVE, **options}
    elif own.vendor == "mysql":
        own.settings_dict["OPTIONS"] = {**options, "isolation_level": "read committed"}
    elif own.vendor == "sqlite":
        # The transaction takes the lock for writing first: else it could fail in the middle.
        own.settings_dict["OPTIONS"] = {**options, "transaction_mode": "IMMEDIATE"}
    return own


def readable(watched: Sequence[Any], seconds: float) -> list[Any]:
    """Wait until one of these can be read, or has ended; return those that can, after ``seconds`` none.

    A process with many streams has file numbers that ``select()`` does not know.
    """
    if not hasattr(select, "poll"):  # Windows, which has no such limit
        return select.select(watched, [], [], seconds)[0]
    poll = select.poll()
    numbers = {it if isinstance(it, int) else it.fileno(): it for it in watched}
    for number in numbers:
        poll.register(number, select.POLLIN)
    return [numbers[number] for number, _ in poll.poll(seconds * 1000)]


def listen(connection: BaseDatabaseWrapper, channel: str, heard: Callable[[], None]) -> None:
    """Call ``heard`` for each notification of a channel of PostgreSQL; psycopg 3 is needed.

    It is also called in the middle of a query, whose answer may bring notifications.
    """
    connection.ensure_connection()
    raw: Any = connection.connection
    raw.add_notify_handler(lambda notification: heard())
    with connection.cursor() as cursor:
        cursor.execute(f"LISTEN {channel}")


def take_in(connection: BaseDatabaseWrapper) -> None:
    """Take in what the server has sent, so that the handler of notifications is called."""
    raw: Any = connection.connection
    with connection.wrap_database_errors:
        raw.pgconn.consume_input()
        while notification := raw.pgconn.notifies():
            raw.pgconn.notify_handler(notification)


def patiently(call: Callable[[], T], seconds: float) -> T:
    """Call again while a table is locked, for some seconds; the call must have changed nothing then.

    SQLite waits for the lock of a file, as its ``timeout`` says, but never for that of a table of a
    database in memory. The databases of Django's tests are such.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except OperationalError as error:
            if "table is locked" not in str(error) or time.monotonic() >= deadline:
                raise
        time.sleep(_AGAIN)


def close(connection: BaseDatabaseWrapper) -> None:
    """Close a connection, also one that is broken already."""
    with suppress(Error):
        connection.close()


@contextmanager
def transaction(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Run the block in a transaction of a connection from ``own_connection()``."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")
        return
    connection.set_autocommit(False)
    try:
        yield
    except BaseException:
        connection.close()  # The server rolls back.
        raise
    connection.commit()
    connection.set_autocommit(True)
