"""Servers that are attacked by one test after another, and must come out of each as they were."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import Server, copy_database

from .target import Target

SETTINGS = "tests.integration.attack.project.settings"


def attackable(name: str, directory: Path, database: Path, **settings: Any) -> Server:
    """Return a server, not yet started, with the streams of ``tests.integration.attack.project``."""
    quiet = ["--log-level", "warning", "--timeout-graceful-shutdown", "2"]
    return Server(
        name,
        "tests.integration.attack.project.asgi:application",
        directory=directory,
        database=database,
        settings=SETTINGS,
        args=quiet if name == "uvicorn" else (),
        # The watchdog looks every half second.
        env={"DJANGO_SSE": json.dumps({"SEND_TIMEOUT": 2, **settings})},
    )


@pytest.fixture(scope="session")
def targets(
    sample_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Target]]:
    """``targets("daphne")`` is a server that lives as long as the tests."""
    running: dict[str, Target] = {}
    with ExitStack() as stack:

        def get(name: str) -> Target:
            if name not in running:
                directory = tmp_path_factory.mktemp(f"attack-{name}")
                database = copy_database(sample_database, directory / "shop.sqlite3")
                server = stack.enter_context(attackable(name, directory, database))
                running[name] = Target(server)
                # What is loaded on first use is not what an attack leaves behind.
                for _ in range(3):
                    running[name].first_event("warm-up")
                    with running[name].open("/hesitant/warm-up/") as client:
                        client.event()
            return running[name]

        yield get


@pytest.fixture(params=["daphne", "uvicorn"])
def target(request: pytest.FixtureRequest, targets: Callable[[str], Target]) -> Iterator[Target]:
    """A server; the test fails if it holds more afterwards, or has logged a fault."""
    target = targets(request.param)
    target.forgiven, before = len(target.server.faults()), target.level()
    yield target
    assert target.complaints() == [], target.server.log()[-5000:]
    target.settle(before)


@pytest.fixture(params=["hypercorn", "granian"])
def other_target(
    request: pytest.FixtureRequest, targets: Callable[[str], Target]
) -> Iterator[Target]:
    """One of the servers that serve in a child process: its streams must be gone afterwards."""
    target = targets(request.param)
    target.forgiven, before = len(target.server.faults()), target.level()
    yield target
    assert target.complaints() == [], target.server.log()[-5000:]
    target.settle(before)
