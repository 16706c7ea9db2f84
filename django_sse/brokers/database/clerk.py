"""The thread of a process that records which users are present, over a connection of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from .connections import close

T = TypeVar("T")


class Clerk:
    """Runs calls one after the other in a thread, which the first one starts.

    One thread keeps the order of the calls, also where a caller has given one up.
    """

    def __init__(self, connect: Callable[[], BaseDatabaseWrapper]) -> None:
        """Make the connection with ``connect()`` when it is first needed."""
        self._connect = connect
        self._lock = threading.Lock()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._connection: BaseDatabaseWrapper | None = None

    async def run(self, call: Callable[[BaseDatabaseWrapper], T], *, last: bool) -> T:
        """Return what ``call(connection)`` returns; close the connection after the ``last`` call."""
        with self._lock:
            # A forked child has no thread of its parent, and must not use its connection.
            if self._pool is None or self._pool[0] != os.getpid():
                self._pool = os.getpid(), ThreadPoolExecutor(1, "django_sse database presence")
                self._connection = None
            pool = self._pool[1]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, self._run, call, last)

    def close(self) -> None:
        """Close the connection and end the thread, after the calls that wait. Safe from any thread."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None and pool[0] == os.getpid():
            pool[1].submit(self._disconnect)
            pool[1].shutdown()

    def _run(self, call: Callable[[BaseDatabaseWrapper], T], last: bool) -> T:
        if self._connection is None:
            self._connection = self._connect()
        try:
            return call(self._connection)
        except Error:
            last = True
            raise
        finally:
            if last:
                self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            close(connection)
