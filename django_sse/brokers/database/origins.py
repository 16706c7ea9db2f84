"""Whether the tables are still those, and on the server, that an epoch began with. PostgreSQL tells.

A backup that was restored, or a replica that was behind and took over, lacks events that clients
have seen, and there may be no process that remembers them. But the server is another then, or began
a new timeline, or the tables are others: what says that is stored with the epoch.
"""

from __future__ import annotations

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

# A restore to a moment and a promoted replica begin a new timeline; a dump makes new tables.
_ORIGIN = (
    "SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()), "
    "left(pg_walfile_name(pg_current_wal_lsn()), 8), 'django_sse_state'::regclass::oid)"
)


def note(connection: BaseDatabaseWrapper) -> None:
    """Store where the tables are, in the transaction that begins an epoch."""
    if connection.vendor == "postgresql":
        now = _now(connection)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE django_sse_state SET origin = %s", [now])


def is_elsewhere(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the tables are not where their epoch began."""
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT origin FROM django_sse_state")
        row = cursor.fetchone()
    if row is None or row[0] is None:
        return False
    # A process whose user may not ask cannot tell, and must not take that for another place.
    now = _now(connection)
    return now is not None and row[0] != now


def _now(connection: BaseDatabaseWrapper) -> str | None:
    """Return where the tables are; ``None`` where the server keeps that to itself."""
    # Outside of a transaction there is none, and an error does no harm.
    savepoint = connection.savepoint()
    try:
        with connection.cursor() as cursor:
            cursor.execute(_ORIGIN)
            found: str | None = cursor.fetchone()[0]
    except Error:
        found = None
        if savepoint is not None:
            connection.savepoint_rollback(savepoint)
    if savepoint is not None:
        connection.savepoint_commit(savepoint)
    return found
