"""The shop of a page of the documentation: pasted into a project, and served."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.docs.pages import README, Project
from tests.support.servers import free_port, listens

SECONDS = 20.0


class Shop:
    """The served project of a page, and a process beside it that publishes."""

    #: The page with the files of the project, and the code of the process.
    page: Path
    publisher: str

    def __init__(self, directory: Path) -> None:
        self.project = Project(directory / "project")
        self.project.paste(README, self.page)
        self.prepare()
        self.project.manage("makemigrations", "shop", "-v", "0")
        self.project.manage("migrate", "-v", "0")
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.project.write("publisher.py", self.publisher)
        self._publisher = subprocess.Popen(
            [sys.executable, "publisher.py"],
            cwd=self.project.directory,
            env=self.project.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def prepare(self) -> None:
        """Change the project before its tables are made."""

    @property
    def log(self) -> Path:
        return self.project.directory / "server.log"

    def start(self) -> None:
        arguments = ["-m", "uvicorn", "--port", str(self.port), "project.asgi:application"]
        self._process = self.project.popen(
            [*arguments, "--timeout-graceful-shutdown", "2"], self.log
        )
        deadline = time.monotonic() + SECONDS
        while not listens(self.port):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def run(self, code: str) -> None:
        """Run code in another process, which publishes over the broker."""
        assert self._publisher.stdin is not None
        assert self._publisher.stdout is not None
        self._publisher.stdin.write(json.dumps(code) + "\n")
        self._publisher.stdin.flush()
        assert self._publisher.stdout.readline() == "done\n", code

    def close(self) -> None:
        """End both processes."""
        self.stop()
        self._publisher.communicate(timeout=SECONDS)

    @contextmanager
    def served(self) -> Iterator[Self]:
        """Serve the project within the block, and end both processes after it."""
        try:
            self.start()
            yield self
        finally:
            self.close()
        assert "Traceback" not in self.log.read_text(), self.log.read_text()
