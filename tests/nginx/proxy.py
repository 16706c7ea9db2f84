"""A real nginx in front of a server, with the configuration that the documentation shows."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers import HOST, ROOT, free_port, listens
from tests.services import find

DOCUMENTED = ROOT / "docs" / "examples" / "nginx.conf"
START_SECONDS = 10.0
STOP_SECONDS = 5.0

_AROUND = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {extra}
    include {directory}/project.conf;
}}
"""


class Nginx:
    """``with Nginx(directory, server.port):`` serves the documented configuration on ``port``.

    ``changes`` replaces parts of it, each of which must be there; ``extra`` stands before it in
    ``http { … }``.
    """

    def __init__(
        self,
        directory: Path,
        upstream: int,
        *,
        changes: dict[str, str] | None = None,
        extra: str = "",
    ) -> None:
        self.program = find("nginx", package="nginx-light")
        self.directory = directory
        directory.mkdir()
        self.port = free_port()
        configuration = DOCUMENTED.read_text()
        own = {
            "server 127.0.0.1:8000;": f"server {HOST}:{upstream};",
            "    listen 80;": f"    listen {HOST}:{self.port};",
        }
        for old, new in (own | (changes or {})).items():
            assert configuration.count(old) == 1, old
            configuration = configuration.replace(old, new.format(port=self.port))
        (directory / "project.conf").write_text(configuration)
        around = _AROUND.format(directory=directory, extra=extra)
        (directory / "nginx.conf").write_text(around)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return HOST, self.port

    @property
    def url(self) -> str:
        """The address of its root, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    def log(self) -> str:
        """Return what it has complained of."""
        texts = [self.directory / "error.log", self.directory / "output.log"]
        return "".join(path.read_text() for path in texts if path.exists())

    def __enter__(self) -> Self:
        command = [self.program, "-p", str(self.directory), "-e", str(self.directory / "error.log")]
        with (self.directory / "output.log").open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "-c", str(self.directory / "nginx.conf")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if listens(self.port):
                return self
            time.sleep(0.02)
        self._end()
        raise RuntimeError(f"nginx did not start:\n{self.log()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
