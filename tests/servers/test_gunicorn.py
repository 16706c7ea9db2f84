"""What only gunicorn's own worker tells."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from django_sse.servers import server_for
from django_sse.servers.gunicorn import protocol_of
from tests.servers.conftest import Signs
from tests.support.connections import (
    held,
    under_gunicorn,
)


async def test_gunicorns_end_is_foreseen(signs: Signs) -> None:
    async with held(under_gunicorn) as (application, _):
        worker = protocol_of(application.send).worker
        task = await signs.waiting(application.send)
        worker.alive = False
        await asyncio.wait_for(task, 5)
        worker.max_requests = sys.maxsize
        assert server_for(application.send, {}).ending() is None


async def test_server_that_is_another_than_known_is_not_asked(
    signs: Signs, caplog: pytest.LogCaptureFixture
) -> None:
    async with held(under_gunicorn) as (application, _):
        worker = protocol_of(application.send).worker
        del worker.alive
        task = await signs.waiting(application.send)
        assert "cannot be foreseen" in caplog.text
        worker.alive = True
        task.cancel()


def test_function_that_only_looks_like_gunicorns_is_none_of_its() -> None:
    async def send(message: Any) -> None:
        raise AssertionError

    send.__module__ = "gunicorn.asgi.protocol"
    assert protocol_of(send) is None
