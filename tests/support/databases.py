"""Databases of a test, beside those of the settings."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from django.db import connections

from django_sse.brokers.database.connections import own_connection
from django_sse.brokers.database.tables import create_tables

T = TypeVar("T")

_numbers = itertools.count()


def sqlite_settings(path: Path) -> dict[str, Any]:
    """Return Django's settings of a SQLite file, as the documentation recommends them."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path),
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 10,
        },
    }


@contextmanager
def database(settings: dict[str, Any]) -> Iterator[str]:
    """Add a database with the broker's tables to the settings; yield its alias."""
    alias = f"events{next(_numbers)}"
    connections.databases[alias] = {**connections.databases["default"], "OPTIONS": {}, **settings}
    # In a thread: tests call this on their event loops, on which Django refuses to ask a database.
    thread = threading.Thread(target=_prepare, args=(alias,))
    thread.start()
    thread.join()
    try:
        yield alias
    finally:
        if connections[alias].connection is not None:
            connections[alias].close()
        del connections[alias], connections.databases[alias]


@contextmanager
def new_database(kind: str, request: pytest.FixtureRequest, directory: Path) -> Iterator[str]:
    """Make an empty ``"sqlite"``, ``"postgresql"`` or ``"mariadb"`` database; yield its alias.

    Asks for the fixture of the server that it needs.
    """
    if kind == "sqlite":
        settings = sqlite_settings(directory / f"{next(_numbers)}.sqlite3")
    else:
        server = {"postgresql": "shared_postgres", "mariadb": "shared_mariadb"}[kind]
        settings = request.getfixturevalue(server).new_database()
    with request.getfixturevalue("django_db_blocker").unblock(), database(settings) as alias:
        yield alias


async def in_thread(work: Callable[[], T]) -> T:
    """Do synchronous work as a request does, in a thread with connections of its own."""

    def isolated() -> T:
        try:
            return work()
        finally:
            connections.close_all()

    return await asyncio.to_thread(isolated)


def _prepare(alias: str) -> None:
    connection = own_connection(alias)
    create_tables(connection)
    connection.close()
