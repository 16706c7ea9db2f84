"""What only Uvicorn tells, and the short way to its transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from django_sse.connection.outbox import frame
from django_sse.servers import server_for
from tests.servers.conftest import Signs
from tests.support.connections import (
    REQUEST,
    arrived,
    body,
    held,
    nothing_arrived,
    under_uvicorn,
)


async def test_loss_is_seen_where_uvicorn_tells_another_request() -> None:
    async with held(under_uvicorn, REQUEST * 2) as (connection, client):
        cycle = connection.send.__self__
        server = server_for(connection.send, {})
        assert not server.is_gone()
        client.close()
        # Uvicorn does not read meanwhile, and sees it only when it writes.
        async with asyncio.timeout(5):
            while not server.is_gone():
                await connection.send(body(b"beat"))
                await asyncio.sleep(0.01)
        assert not cycle.disconnected
        server.note_gone()
        assert cycle.disconnected


async def test_uvicorns_transport_is_written_to() -> None:
    async with held(under_uvicorn) as (connection, client):
        server = server_for(connection.send, {})
        assert server.write(frame(b"data: shared\n\n"), 14)
        await connection.send(body(b"own"))
        assert await arrived(client, b"own") == b"e\r\ndata: shared\n\n\r\n3\r\nown\r\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda cycle: setattr(cycle, "response_started", False),
        lambda cycle: setattr(cycle, "response_complete", True),
        lambda cycle: setattr(cycle, "chunked_encoding", False),
        lambda cycle: setattr(cycle, "disconnected", True),
        lambda cycle: cycle.flow.pause_writing(),
    ],
    ids=["not begun", "ended", "not chunked", "disconnected", "full"],
)
async def test_uvicorn_declines(change: Callable[[Any], None]) -> None:
    async with held(under_uvicorn) as (connection, client):
        cycle = connection.send.__self__
        before = dict(vars(cycle))
        server = server_for(connection.send, {})
        change(cycle)
        assert not server.write(frame(b"x"), 1)
        assert nothing_arrived(client)
        # As it was, so that the response may end.
        vars(cycle).update(before)
        cycle.flow.resume_writing()


async def test_uvicorns_end_is_foreseen_by_the_requests_that_it_has_served(signs: Signs) -> None:
    async with held(under_uvicorn) as (application, _):
        cycle = application.send.__self__
        protocol = cycle.transport.get_protocol()
        assert server_for(application.send, {}).ending() is None
        protocol.config.limit_max_requests = 5
        task = await signs.waiting(application.send)
        protocol.server_state.total_requests = 5
        await asyncio.sleep(0.05)
        # It may be allowed some more, at random.
        assert not task.done()
        protocol.shutdown()
        await asyncio.wait_for(task, 5)
