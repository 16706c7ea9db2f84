"""A PostgreSQL server for tests, on a free port, with its data in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.servers import HOST, free_port, listens

START_SECONDS = 30.0


def program(name: str) -> str | None:
    """Return the path of a program of PostgreSQL, also where Debian keeps it."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, folders)])
    return shutil.which(name, path=path)


class PostgresServer:
    """``with PostgresServer() as server:`` makes a cluster, runs it, and takes it away again.

    ``postgres`` is its superuser, and needs no password. ``options`` are settings of the server.
    """

    def __init__(self, **options: str) -> None:
        self._options = options
        self.port = free_port()
        # PostgreSQL refuses to run as root. Debian's package makes a user for it.
        self._as: dict[str, Any] = {"user": "postgres"} if os.getuid() == 0 else {}

    def __enter__(self) -> PostgresServer:
        self._directory = tempfile.mkdtemp()
        if self._as:
            shutil.chown(self._directory, "postgres")
        data = f"{self._directory}/data"
        options = ["--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--no-sync"]
        subprocess.run(
            [str(program("initdb")), "--pgdata", data, *options],
            cwd=self._directory,
            check=True,
            stdout=subprocess.DEVNULL,
            **self._as,
        )
        self._data = data
        self.start()
        return self

    def start(self) -> None:
        """Run the server, with the data that is there; return when it accepts connections."""
        settings = [f"{name}={value}" for name, value in self._options.items()]
        self._process = subprocess.Popen(
            [
                *(str(program("postgres")), "-D", self._data, "-p", str(self.port), "-F"),
                *("-c", f"listen_addresses={HOST}", "-k", self._directory),
                *(part for setting in settings for part in ("-c", setting)),
            ],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._as,
        )
        deadline = time.monotonic() + START_SECONDS
        while not listens(self.port):
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__(None, None, None)
                raise RuntimeError("PostgreSQL did not start.")
            time.sleep(0.05)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # "Fast" closes the remaining connections.
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
