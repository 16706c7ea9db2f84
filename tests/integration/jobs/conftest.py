"""Servers of the same jobs, with whichever broker a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.topics.conftest import redis_server
from tests.support.servers import Server

SETTINGS = "tests.integration.jobs.settings"

__all__ = ["redis_server"]


@pytest.fixture
def serve_jobs(tmp_path: Path) -> Iterator[Callable[[str, Mapping[str, str]], Server]]:
    """``serve_jobs("daphne", environment(…))`` starts a server; its log must show no fault."""
    servers: list[Server] = []
    with ExitStack() as stack:

        def start(name: str, env: Mapping[str, str]) -> Server:
            server = Server(
                name,
                "tests.integration.jobs.asgi:application",
                directory=tmp_path,
                database=tmp_path / "none.sqlite3",
                settings=SETTINGS,
                env={**env, "DJANGO_SETTINGS_MODULE": SETTINGS},
                args=("--timeout-graceful-shutdown", "2") if name == "uvicorn" else ("-v", "0"),
            )
            stack.enter_context(server)
            servers.append(server)
            return server

        yield start
    for server in servers:
        assert server.faults() == [], server.log()
