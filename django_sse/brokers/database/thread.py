"""A thread that has a connection to a database of its own, and connects again after a failure."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from .connections import readable, take_in

#: Seconds between two tries while the database is away.
PAUSES = (0.1, 2.0)


class DatabaseThread(threading.Thread):
    """Runs ``_watch()`` until ``stop()``, and once more whenever it returns or fails."""

    def __init__(self, name: str) -> None:
        """Begin with ``start()``."""
        super().__init__(name=name, daemon=True)
        self._stopping = False
        # Whether the database was away at the last try, and that is logged.
        self._away = False
        # Whether the database has notified since this was set to False.
        self._heard = False
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        self._pipe_lock = threading.Lock()
        self._piped = True

    def stop(self) -> None:
        """End the thread soon."""
        self._stopping = True
        self._kick()

    def run(self) -> None:
        """Watch until ``stop()``; connect again for as long as that takes."""
        pause = PAUSES[0]
        try:
            while not self._stopping:
                began = time.monotonic()
                try:
                    self._watch()
                except Exception as error:
                    self._report(error)
                if time.monotonic() - began > PAUSES[1]:
                    pause = PAUSES[0]
                if not self._stopping:
                    self._wait(None, pause * random.uniform(0.5, 1))  # noqa: S311
                    pause = min(pause * 2, PAUSES[1])
        finally:
            with self._pipe_lock:
                self._piped = False
                os.close(self._read_end)
                os.close(self._write_end)

    def _watch(self) -> None:
        """Connect, and do the work until ``_stopping``."""
        raise NotImplementedError

    def _report(self, error: Exception) -> None:
        """Log why ``_watch()`` has failed."""
        raise NotImplementedError

    def _kick(self) -> None:
        """Let ``_wait()`` return; may be called from any thread."""
        with self._pipe_lock:
            if self._piped:
                with contextlib.suppress(BlockingIOError):  # Full: the thread will wake up anyway.
                    os.write(self._write_end, b"\0")

    def _hear(self) -> None:
        self._heard = True

    def _wait(self, listening: BaseDatabaseWrapper | None, seconds: float) -> bool:
        """Wait for a kick or for a connection that listens; return whether something came."""
        watched: list[Any] = [self._read_end]
        if listening is not None:
            watched.append(listening.connection)
        ready = readable(watched, seconds)
        if self._read_end in ready:
            os.read(self._read_end, 4096)
        if listening is not None and listening.connection in ready:
            take_in(listening)
        return bool(ready)
