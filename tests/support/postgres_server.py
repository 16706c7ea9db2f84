"""A PostgreSQL server for tests, on a free port, with its data in a folder of its own."""

from __future__ import annotations

import contextlib
import itertools
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

_numbers = itertools.count()


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
        while not self._is_ready():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__(None, None, None)
                raise RuntimeError("PostgreSQL did not start.")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        # It listens a moment before it takes connections.
        where = ["--host", HOST, "--port", str(self.port)]
        return listens(self.port) and not subprocess.call(
            [str(program("pg_isready")), "--quiet", *where]
        )

    def new_database(self) -> dict[str, Any]:
        """Make an empty database; return its settings for Django."""
        name = f"test{next(_numbers)}"
        self._run("createdb", name)
        return self.settings(name)

    def settings(self, name: str) -> dict[str, Any]:
        """Return Django's settings of a database."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": "postgres",
            "HOST": HOST,
            "PORT": self.port,
        }

    def kill(self) -> None:
        """End the server at once, as a crash does; ``start()`` runs it again."""
        for process in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()
        # Its children hold the shared memory, and end a moment later.
        (Path(self._data) / "postmaster.pid").unlink(missing_ok=True)

    def pause(self) -> None:
        """Stop the server and all its connections, until ``resume()``."""
        for process in self._processes():
            os.kill(process, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the server go on after ``pause()``."""
        for process in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def cut(self, name: str) -> None:
        """Close all connections to a database; return when they are closed."""
        self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        )

    def dump(self, name: str) -> str:
        """Return a backup of a database."""
        return self._run("pg_dump", name)

    def restore(self, name: str, backup: str) -> None:
        """Put a backup in the place of a database."""
        self._run("dropdb", "--force", name)
        self._run("createdb", name)
        self._run("psql", "--no-psqlrc", "-q", name, input=backup)

    def recover(self) -> None:
        """End the server and start it as after a restore of its files, on a timeline of its own."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(START_SECONDS)
        signal_file = Path(self._data) / "recovery.signal"
        signal_file.touch()
        self.start()
        deadline = time.monotonic() + START_SECONDS
        while signal_file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def execute(self, statement: str, name: str = "postgres") -> str:
        """Run a statement in a database, and return what ``psql`` prints."""
        return self._run("psql", "--no-psqlrc", "-qAt", "-c", statement, name)

    def _run(self, command: str, *args: str, input: str | None = None) -> str:
        where = ["--host", HOST, "--port", str(self.port), "--username", "postgres"]
        done = subprocess.run(
            [str(program(command)), *where, *args],
            check=True,
            capture_output=True,
            text=True,
            input=input,
        )
        return done.stdout.strip()

    def _processes(self) -> list[int]:
        """Return the server and its children, the server first."""
        main = self._process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [main, *map(int, children)]

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
