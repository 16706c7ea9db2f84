"""Refusals that will pass; the limits themselves are in ``tests/integration/health``."""

from __future__ import annotations

from typing import Any

import pytest

from django_sse import SSEView, stats
from django_sse.testing import connect


class Quiet(SSEView):
    async def stream(self) -> None:
        await self.send("never")


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_server_that_ends_tells_clients_to_come_back(ending: Any, accept: str) -> None:
    ending.draining = True
    refused = stats()["refused"]
    async with connect(Quiet, headers={"Accept": accept}) as stream:
        await stream.read()
        if accept == "*/*":
            assert stream.status_code == 503
            assert 1 <= int(stream.headers["Retry-After"]) <= 5
            assert b"This server is about to end." in stream.received
        else:
            assert stream.status_code == 200
            assert stream.retry is not None
            assert 1000 <= stream.retry <= 5000
            assert [block.data for block in stream.blocks] == [None]
    assert stats()["refused"] == refused + 1
