"""Streams that follow whatever topics their address names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from django_sse import ServerSentEvent, SSEView


class Numbers(SSEView):
    """Follow ``?topics=a,b``; the snapshot is one event, which says that it is one."""

    async def get_topics(self) -> list[str]:
        return str(self.request.GET["topics"]).split(",")

    async def snapshot(self) -> AsyncIterator[ServerSentEvent]:
        await asyncio.sleep(float(self.request.GET.get("delay", 0)))
        yield ServerSentEvent("everything so far", event="snapshot")


class Forgetful(Numbers):
    """Tell a slow client how much it did not get."""

    overflow = "drop_oldest"


class Newest(Numbers):
    """Give a slow client the newest of each key."""

    overflow = "latest"
