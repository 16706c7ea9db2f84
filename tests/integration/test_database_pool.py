"""Streams that query, in a project whose database connections are few and shared."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.http_client import Client
from tests.support.postgres_server import PostgresServer
from tests.support.servers import Server


@pytest.mark.parametrize("name", ["uvicorn", "daphne"])
def test_streams_leave_a_pool_to_ordinary_requests(
    shared_postgres: PostgresServer, tmp_path: Path, name: str
) -> None:
    """Twenty streams that query all the time share four connections with pages."""
    with ExitStack() as stack:
        server = stack.enter_context(
            Server(
                name,
                "tests.integration.pooled.asgi:application",
                directory=tmp_path,
                settings="tests.integration.pooled.settings",
                env={"POSTGRES_PORT": str(shared_postgres.port)},
            )
        )
        streams = [stack.enter_context(Client(server.address)) for _ in range(20)]
        for stream in streams:
            stream.request("/poll/")
            assert stream.status == 200
        for _ in range(3):
            for stream in streams:
                assert stream.event().data == '{"n":1}'
            # The pool would let it wait for five seconds, and then fail.
            answer = httpx.get(f"{server.url}/page/", timeout=4)
            assert (answer.status_code, answer.text) == (200, "1")
        for stream in streams:
            stream.close()
        server.stop()
        assert server.faults() == []
        assert "PoolTimeout" not in server.log()
