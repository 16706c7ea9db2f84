"""Streams and pages that query, in projects whose database connections are shared or kept."""

from __future__ import annotations

import json
import time
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


@pytest.mark.parametrize("name", ["uvicorn", "daphne"])
def test_requests_keep_their_connection_for_as_long_as_its_age_allows(
    shared_postgres: PostgresServer, tmp_path: Path, name: str
) -> None:
    """``CONN_MAX_AGE`` works as it does with the threads of a WSGI server."""
    kept = "FROM pg_stat_activity WHERE application_name = 'kept'"
    with Server(
        name,
        "tests.integration.pooled.asgi:application",
        directory=tmp_path,
        settings="tests.integration.pooled.settings",
        env={"POSTGRES_PORT": str(shared_postgres.port), "KEEP_SECONDS": "3"},
    ) as server:

        def page() -> str:
            answer = httpx.get(f"{server.url}/backend/", timeout=20)
            assert answer.status_code == 200
            return answer.text

        def stream() -> str:
            with Client(server.address) as client:
                client.request("/backend/stream/")
                return str(json.loads(client.event().data)["n"])

        # A client may ask again a moment before its last request has given the thread back.
        assert len({ask() for _ in range(15) for ask in (page, stream)}) <= 5
        # A connection that is lost is made again (CONN_HEALTH_CHECKS).
        shared_postgres.execute(f"SELECT pg_terminate_backend(pid) {kept}")
        page()
        deadline = time.monotonic() + 20
        while shared_postgres.execute(f"SELECT count(*) {kept}") != "0":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        server.stop()
        assert server.faults() == []
