"""A MariaDB server for tests, on a free port, with its data in a folder of its own."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any

from tests.support.servers import HOST, free_port, listens
from tests.support.services import find

START_SECONDS = 30.0

_numbers = itertools.count()


class MariaDBServer:
    """``with MariaDBServer() as server:`` makes an empty server, runs it, and takes it away again.

    ``root`` needs no password. Python speaks to it by PyMySQL.
    """

    def __init__(self) -> None:
        self._program = find("mariadbd", "mysqld", package="mariadb-server")
        self._install = find("mariadb-install-db", package="mariadb-server")
        self._client = find("mariadb", "mysql", package="mariadb-client")
        self.port = free_port()

    def __enter__(self) -> MariaDBServer:
        import pymysql  # noqa: PLC0415 - only tests with this server need it

        pymysql.install_as_MySQLdb()
        self._directory = tempfile.mkdtemp()
        # It refuses to run as root. Debian's package makes a user for it.
        user: dict[str, Any] = {"user": "mysql"} if os.getuid() == 0 else {}
        if user:
            shutil.chown(self._directory, "mysql")
        data = f"--datadir={self._directory}/data"
        subprocess.run(
            [
                *(self._install, "--no-defaults", data, "--auth-root-authentication-method=normal"),
                "--skip-test-db",
            ],
            cwd=self._directory,
            check=True,
            capture_output=True,
            **user,
        )
        self._process = subprocess.Popen(
            [
                *(self._program, "--no-defaults", data, f"--port={self.port}"),
                *(f"--bind-address={HOST}", f"--socket={self._directory}/socket"),
                *("--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"),
                f"--pid-file={self._directory}/pid",
            ],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **user,
        )
        deadline = time.monotonic() + START_SECONDS
        while not listens(self.port):
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__(None, None, None)
                raise RuntimeError("MariaDB did not start.")
            time.sleep(0.05)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def pause(self) -> None:
        """Stop the server, with all its connections, until ``resume()``."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the server go on after ``pause()``."""
        self._process.send_signal(signal.SIGCONT)

    def new_database(self) -> dict[str, Any]:
        """Make an empty database; return its settings for Django."""
        name = f"test{next(_numbers)}"
        where = ["--no-defaults", f"--socket={self._directory}/socket", "--user=root"]
        statement = f"CREATE DATABASE {name} CHARACTER SET utf8mb4"
        subprocess.run([self._client, *where, "-e", statement], check=True, capture_output=True)
        return {
            "ENGINE": "django.db.backends.mysql",
            "NAME": name,
            "USER": "root",
            "HOST": HOST,
            "PORT": self.port,
        }
