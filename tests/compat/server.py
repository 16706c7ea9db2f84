"""The servers of the bench, each started as its own documentation says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.support.servers import HOST, Server

from .stranger import Stranger

#: Where the programs of the environment are.
BIN = Path(sys.executable).parent

_COMMANDS = {
    "uvicorn": ("uvicorn", "--host", HOST, "--port", "{port}"),
    "daphne": ("daphne", "-b", HOST, "-p", "{port}"),
    "granian": (
        *("granian", "--interface", "asgi", "--workers", "1"),
        *("--host", HOST, "--port", "{port}"),
    ),
    "gunicorn": (
        *("gunicorn", "--worker-class", "uvicorn_worker.UvicornWorker"),
        *("--workers", "1", "--bind", f"{HOST}:{{port}}"),
    ),
}


class BenchServer(Server):
    """A server of the bench's project, started by the stranger's own command where it has one."""

    def __init__(self, stranger: Stranger, directory: Path, env: dict[str, str]) -> None:
        super().__init__("uvicorn", directory=directory)
        prefix = [str(BIN / stranger.command[0]), *stranger.command[1:]] if stranger.command else []
        name, *arguments = (part.format(port=self.port) for part in _COMMANDS[stranger.server])
        self.name = stranger.server
        self._command = [
            *prefix,
            str(BIN / name),
            *arguments,
            "tests.compat.project.asgi:application",
        ]
        self._env = env


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - of a process that lives


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
