"""Servers with the streams of ``tests.integration.health.project``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import Server

Serve = Callable[..., Server]


@pytest.fixture
def serve(database: Path, tmp_path: Path) -> Iterator[Serve]:
    """``serve("daphne", args=[…], SEND_TIMEOUT=1)`` starts a server with these settings.

    It ends with the test, which fails where the server has logged a fault. ``faults=False`` is for
    tests that look at the log themselves.
    """
    servers: list[Server] = []
    with ExitStack() as stack:

        def start(
            name: str,
            *,
            args: Sequence[str] = (),
            env: dict[str, str] | None = None,
            faults: bool = True,
            **settings: Any,
        ) -> Server:
            server = Server(
                name,
                "tests.integration.health.project.asgi:application",
                directory=tmp_path,
                database=database,
                settings="tests.integration.health.project.settings",
                args=args,
                env={
                    "JOURNAL": str(tmp_path / "journal"),
                    "DJANGO_SSE": json.dumps(settings),
                    **(env or {}),
                },
            )
            stack.enter_context(server)
            if faults:
                servers.append(server)
            return server

        yield start
    for server in servers:
        assert server.faults() == [], server.log()
