"""The end of a server that is about to come."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from django_sse.servers import server_for
from django_sse.servers.base import Sign


class Signs:
    """A server's word of its end, looked at often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Sign, "SECONDS", 0.01)

    async def waiting(self, send: Any) -> asyncio.Task[None]:
        sign = server_for(send, {}).ending()
        assert sign is not None
        task = asyncio.create_task(sign.wait())
        await asyncio.sleep(0.05)
        assert not task.done()
        return task


@pytest.fixture
def signs(monkeypatch: pytest.MonkeyPatch) -> Signs:
    return Signs(monkeypatch)
