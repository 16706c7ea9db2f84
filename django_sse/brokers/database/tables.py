"""The tables of ``DatabaseBroker``: what they hold, how they are made, and whether they are there.

They are not models of the app, so that ``migrate`` makes nothing in projects with another broker,
and makes them as soon as the setting names this one, however late. ``django_sse_`` is the prefix of
all of them:

- ``pending``: events that are written in the transactions of their changes, and have no id yet;
- ``event``: events under their number, which stands for their id (``store.number_of()``);
- ``entry``: for each topic, the numbers of its events;
- ``trimmed``: for each topic, up to which number its events may have been deleted;
- ``once``: for each idempotency key, the number of its event;
- ``holder``: each holder of presence with the end of its lease, in milliseconds; 0 where some of
  what it has is removed already;
- ``present``: the topics and members that each holder has, with the number of their streams; an
  empty member stands for the anonymous ones;
- ``member``: the users who are present in a topic, with the moment when their leave is due, if no
  holder has them any more;
- ``state``: one row with the ``epoch``, the number at which the data begins.

PostgreSQL has functions besides (``postgresql``), and an ``origin`` in ``state`` (``origins``).
"""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper

from . import postgresql

TABLES = (
    *("pending", "event", "entry", "trimmed", "once", "state"),
    *("holder", "present", "member"),
)

# The names of topics are compared byte by byte, whatever the database's collation is. MySQL's text
# ignores spaces at the end when it compares, also in its binary collation.
_POSTGRESQL = """
CREATE TABLE IF NOT EXISTS django_sse_pending (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    envelope text NOT NULL, head bytea NOT NULL, tail bytea NOT NULL);
CREATE TABLE IF NOT EXISTS django_sse_event (
    number bigint PRIMARY KEY,
    envelope text NOT NULL, head bytea NOT NULL, tail bytea NOT NULL);
CREATE TABLE IF NOT EXISTS django_sse_entry (
    topic text COLLATE "C" NOT NULL, number bigint NOT NULL, PRIMARY KEY (topic, number));
CREATE INDEX IF NOT EXISTS django_sse_entry_number ON django_sse_entry (number);
CREATE TABLE IF NOT EXISTS django_sse_trimmed (
    topic text COLLATE "C" PRIMARY KEY, number bigint NOT NULL);
CREATE INDEX IF NOT EXISTS django_sse_trimmed_number ON django_sse_trimmed (number);
CREATE TABLE IF NOT EXISTS django_sse_once (
    name text COLLATE "C" PRIMARY KEY, number bigint NOT NULL);
CREATE INDEX IF NOT EXISTS django_sse_once_number ON django_sse_once (number);
CREATE TABLE IF NOT EXISTS django_sse_holder (
    name text COLLATE "C" PRIMARY KEY, expires bigint NOT NULL);
CREATE TABLE IF NOT EXISTS django_sse_present (
    topic text COLLATE "C" NOT NULL, member text COLLATE "C" NOT NULL,
    holder text COLLATE "C" NOT NULL, streams integer NOT NULL,
    PRIMARY KEY (topic, member, holder));
CREATE INDEX IF NOT EXISTS django_sse_present_holder ON django_sse_present (holder);
CREATE TABLE IF NOT EXISTS django_sse_member (
    topic text COLLATE "C" NOT NULL, member text COLLATE "C" NOT NULL, due bigint,
    PRIMARY KEY (topic, member));
CREATE INDEX IF NOT EXISTS django_sse_member_due ON django_sse_member (due);
CREATE TABLE IF NOT EXISTS django_sse_state (id smallint PRIMARY KEY, epoch bigint NOT NULL);
ALTER TABLE django_sse_state ADD COLUMN IF NOT EXISTS origin text
"""
_SQLITE = """
CREATE TABLE IF NOT EXISTS django_sse_pending (
    id integer PRIMARY KEY AUTOINCREMENT,
    envelope text NOT NULL, head blob NOT NULL, tail blob NOT NULL);
CREATE TABLE IF NOT EXISTS django_sse_event (
    number integer PRIMARY KEY,
    envelope text NOT NULL, head blob NOT NULL, tail blob NOT NULL);
CREATE TABLE IF NOT EXISTS django_sse_entry (
    topic text NOT NULL, number integer NOT NULL, PRIMARY KEY (topic, number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS django_sse_entry_number ON django_sse_entry (number);
CREATE TABLE IF NOT EXISTS django_sse_trimmed (
    topic text PRIMARY KEY, number integer NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS django_sse_trimmed_number ON django_sse_trimmed (number);
CREATE TABLE IF NOT EXISTS django_sse_once (
    name text PRIMARY KEY, number integer NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS django_sse_once_number ON django_sse_once (number);
CREATE TABLE IF NOT EXISTS django_sse_holder (
    name text PRIMARY KEY, expires integer NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS django_sse_present (
    topic text NOT NULL, member text NOT NULL, holder text NOT NULL, streams integer NOT NULL,
    PRIMARY KEY (topic, member, holder)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS django_sse_present_holder ON django_sse_present (holder);
CREATE TABLE IF NOT EXISTS django_sse_member (
    topic text NOT NULL, member text NOT NULL, due integer,
    PRIMARY KEY (topic, member)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS django_sse_member_due ON django_sse_member (due);
CREATE TABLE IF NOT EXISTS django_sse_state (id integer PRIMARY KEY, epoch integer NOT NULL)
"""
_MYSQL = """
CREATE TABLE IF NOT EXISTS django_sse_pending (
    id bigint AUTO_INCREMENT PRIMARY KEY,
    envelope mediumtext NOT NULL, head longblob NOT NULL, tail longblob NOT NULL) ENGINE=InnoDB;
CREATE TABLE IF NOT EXISTS django_sse_event (
    number bigint PRIMARY KEY,
    envelope mediumtext NOT NULL, head longblob NOT NULL, tail longblob NOT NULL) ENGINE=InnoDB;
CREATE TABLE IF NOT EXISTS django_sse_entry (
    topic varbinary(800) NOT NULL, number bigint NOT NULL, PRIMARY KEY (topic, number),
    INDEX django_sse_entry_number (number)) ENGINE=InnoDB;
CREATE TABLE IF NOT EXISTS django_sse_trimmed (
    topic varbinary(800) PRIMARY KEY, number bigint NOT NULL,
    INDEX django_sse_trimmed_number (number)) ENGINE=InnoDB;
CREATE TABLE IF NOT EXISTS django_sse_once (
    name varbinary(800) PRIMARY KEY, number bigint NOT NULL,
    INDEX django_sse_once_number (number)) ENGINE=InnoDB;
CREATE TABLE IF NOT EXISTS django_sse_holder (
    name varbinary(64) PRIMARY KEY, expires bigint NOT NULL) ENGINE=InnoDB;
CREATE TABLE IF NOT EXISTS django_sse_present (
    topic varbinary(800) NOT NULL, member varbinary(1020) NOT NULL, holder varbinary(64) NOT NULL,
    streams integer NOT NULL, PRIMARY KEY (topic, member, holder),
    INDEX django_sse_present_holder (holder)) ENGINE=InnoDB;
CREATE TABLE IF NOT EXISTS django_sse_member (
    topic varbinary(800) NOT NULL, member varbinary(1020) NOT NULL, due bigint,
    PRIMARY KEY (topic, member), INDEX django_sse_member_due (due)) ENGINE=InnoDB;
CREATE TABLE IF NOT EXISTS django_sse_state (
    id smallint PRIMARY KEY, epoch bigint NOT NULL) ENGINE=InnoDB
"""
_STATEMENTS = {"postgresql": _POSTGRESQL, "sqlite": _SQLITE, "mysql": _MYSQL}


def check_vendor(connection: BaseDatabaseWrapper) -> None:
    """Raise ``ImproperlyConfigured`` for a database that the broker does not know."""
    if connection.vendor not in _STATEMENTS:
        raise ImproperlyConfigured(
            f"DatabaseBroker knows PostgreSQL, SQLite, MySQL and MariaDB, and the database "
            f"{connection.alias!r} is {connection.display_name}."
        )


def create_tables(connection: BaseDatabaseWrapper) -> None:
    """Make the tables that are missing."""
    with connection.cursor() as cursor:
        for statement in _STATEMENTS[connection.vendor].split(";"):
            cursor.execute(statement)
    if connection.vendor == "postgresql":
        postgresql.create_functions(connection)


def missing_tables(connection: BaseDatabaseWrapper) -> list[str]:
    """Return the names of the tables that are not there, and of functions; asks the database."""
    with connection.cursor() as cursor:
        there = set(connection.introspection.table_names(cursor))
    missing = [name for table in TABLES if (name := f"django_sse_{table}") not in there]
    if connection.vendor == "postgresql":
        missing += postgresql.missing_functions(connection)
    return missing


def in_words(error: Exception, alias: str) -> str:
    """Return a database's error as text, with the remedy where tables are missing."""
    text = f"{type(error).__name__}: {error}".strip()
    if "django_sse_" in text and any(word in text for word in ("no such", "exist")):
        text += f". Make the tables: manage.py migrate --database {alias}"
    return text
