"""What all measurements share: the prepared project, the two applications, and how long to measure."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from .servers import ROOT, Server, server

SERVERS = {"uvicorn": "Uvicorn", "daphne": "Daphne"}
#: With those of which less is measured: the others do for themselves what costs most.
ALL_SERVERS = {**SERVERS, "granian": "Granian", "hypercorn": "Hypercorn"}
T = TypeVar("T", int, float)


class Context:
    """The project's database, a user's session, and the size of the measurements."""

    def __init__(self, directory: str, *, quick: bool, explain: bool) -> None:
        self.quick = quick
        self.explain = explain
        self.environment = {
            "BENCHMARK_DATABASE": str(Path(directory) / "benchmark.sqlite3"),
            "DJANGO_SETTINGS_MODULE": "benchmarks.project.settings",
        }
        self.login = self.prepare()

    def prepare(self, **environment: str) -> dict[str, str]:
        """Prepare the project's database, and return the headers of a user who is logged in."""
        prepared = subprocess.run(
            [sys.executable, "-m", "benchmarks.project.prepare"],
            cwd=ROOT,
            env={**os.environ, **self.environment, **environment},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return {"Cookie": f"sessionid={prepared.stdout.strip()}"}

    def project(self, kind: str, **environment: str) -> AbstractContextManager[Server]:
        """Run the Django project on a server."""
        environment = {**self.environment, **environment}
        return server(kind, "benchmarks.project.asgi:application", **environment)

    def django(self, kind: str, **environment: str) -> AbstractContextManager[Server]:
        """Run the project on a server, under Django's own handler."""
        environment = {**self.environment, **environment}
        return server(kind, "benchmarks.project.django_asgi:application", **environment)

    def bare(self, kind: str) -> AbstractContextManager[Server]:
        """Run the bare ASGI application on a server."""
        return server(kind, "benchmarks.bare:application")

    def size(self, full: T, quick: T) -> T:
        """Return how much to measure."""
        return quick if self.quick else full


@contextmanager
def prepared(*, quick: bool, explain: bool) -> Iterator[Context]:
    """Prepare the project in a directory that is gone afterwards."""
    with TemporaryDirectory() as directory:
        yield Context(directory, quick=quick, explain=explain)


def best(rounds: int, measures: Sequence[Callable[[], float]]) -> list[float]:
    """Measure in turns and return the least of each: whatever disturbs a measurement adds to it."""
    found = [[measure() for measure in measures] for _ in range(rounds)]
    return [min(column) for column in zip(*found, strict=True)]
