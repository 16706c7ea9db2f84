"""What streams have done, told to tests: in this process, and in a file across processes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from django.core.signals import request_finished

#: What was recorded in this process.
entries: list[dict[str, Any]] = []


def record(what: str, **fields: Any) -> None:
    """Take note of something, with the time of the machine's monotonic clock."""
    entry = {"what": what, "at": time.monotonic(), **fields}
    entries.append(entry)
    if path := os.environ.get("JOURNAL"):
        with Path(path).open("a") as file:
            file.write(json.dumps(entry) + "\n")


def recorded(what: str, **fields: Any) -> list[dict[str, Any]]:
    """Return what this process has recorded."""
    return _matching(entries, what, fields)


class Journal:
    """The file in which another process records, from here on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = path.stat().st_size if path.exists() else 0

    def read(self, what: str, **fields: Any) -> list[dict[str, Any]]:
        """Return what was recorded so far."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._start)
            lines = file.read().splitlines(keepends=True)
        # A line that is being written has no end yet.
        return _matching([json.loads(line) for line in lines if line.endswith(b"\n")], what, fields)

    def wait_for(
        self, what: str, *, count: int = 1, seconds: float = 5, **fields: Any
    ) -> list[dict[str, Any]]:
        """Return what was recorded, once it is ``count`` entries or so many seconds have passed."""
        deadline = time.monotonic() + seconds
        while len(found := self.read(what, **fields)) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        return found


def _matching(
    found: list[dict[str, Any]], what: str, fields: dict[str, Any]
) -> list[dict[str, Any]]:
    wanted = {"what": what, **fields}
    return [entry for entry in found if entry | wanted == entry]


def _on_request_finished(**kwargs: Any) -> None:
    record("request finished")


request_finished.connect(_on_request_finished)
