"""A PgBouncer in transaction mode for tests, in front of a ``PostgresServer``."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.servers import HOST, free_port, listens
from tests.support.services import find

START_SECONDS = 15.0


class PgBouncer:
    """``with PgBouncer(port) as bouncer:`` shares few connections to PostgreSQL among many clients."""

    def __init__(self, postgres_port: int) -> None:
        self._program = find("pgbouncer", package="pgbouncer")
        self._behind = postgres_port
        self.port = free_port()

    def __enter__(self) -> PgBouncer:
        self._directory = Path(tempfile.mkdtemp())
        users = self._directory / "users.txt"
        users.write_text('"postgres" ""\n')
        config = self._directory / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host={HOST} port={self._behind} user=postgres\n[pgbouncer]\n"
            f"listen_addr = {HOST}\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = any\nauth_file = {users}\npool_mode = transaction\n"
            "ignore_startup_parameters = extra_float_digits\n"
            f"logfile = {self._directory}/log\n"
        )
        # It refuses to run as root.
        user: dict[str, Any] = {"user": "postgres"} if os.getuid() == 0 else {}
        if user:
            for path in (self._directory, users, config):
                shutil.chown(path, "postgres")
        self._process = subprocess.Popen(
            [self._program, "-q", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **user,
        )
        deadline = time.monotonic() + START_SECONDS
        while not listens(self.port):
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__(None, None, None)
                raise RuntimeError("PgBouncer did not start.")
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
