"""Servers on a common Redis, as a project with several processes has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from tests.support.redis_server import RedisServer
from tests.support.servers import Server


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def broker(redis_server: RedisServer, settings: Any) -> dict[str, Any]:
    """The setting of a broker there, which this process uses too."""
    broker = {
        "BACKEND": "django_sse.brokers.redis.RedisBroker",
        "LOCATION": redis_server.url(),
    }
    settings.DJANGO_SSE = {"BROKER": broker, "PUBLISH_TIMEOUT": 1}
    return broker


@pytest.fixture
def serve(
    broker: dict[str, Any], database: Path, tmp_path: Path
) -> Iterator[Callable[..., Server]]:
    """``serve("daphne")`` starts a server of the streams of numbers, with an admin."""
    servers: list[Server] = []
    with ExitStack() as stack:

        def start(name: str) -> Server:
            server = Server(
                name,
                "tests.integration.topics.project.asgi:application",
                measured=True,
                directory=tmp_path,
                database=database,
                settings="tests.integration.monitoring.settings",
                args=["--timeout-graceful-shutdown", "2"] if name == "uvicorn" else [],
                env={"NUMBERS_SSE": json.dumps({"BROKER": broker})},
            )
            servers.append(server)
            return stack.enter_context(server)

        yield start
    for server in servers:
        assert server.faults() == [], server.log()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``run("sse_stats", "--json")`` returns what the command has written."""

    def run(*command: str) -> str:
        call_command(*command)
        return capsys.readouterr().out

    return run
