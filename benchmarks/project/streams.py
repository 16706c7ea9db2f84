"""The streams that are measured."""

from __future__ import annotations

import asyncio
from typing import Any

from rest_framework.permissions import IsAuthenticated

from django_sse import SSEView

from .reading import reading


class Idle(SSEView):
    """Says nothing but its heartbeat."""

    async def stream(self) -> None:
        await asyncio.get_running_loop().create_future()


class PrivateIdle(Idle):
    """The same, for those who are logged in."""

    permission_classes = [IsAuthenticated]


class OpenIdle(Idle):
    """The same as ``Idle``, for whom nobody asks."""

    authentication_classes = []


class Burst(SSEView):
    """Sends so many objects."""

    async def stream(self) -> None:
        obj = reading()
        for _ in range(int(self.request.GET["count"])):
            await self.send(obj)


class TextBurst(SSEView):
    """Sends so many events of so many bytes of text."""

    async def stream(self) -> None:
        text = "x" * (int(self.request.GET["size"]) - 8)
        for _ in range(int(self.request.GET["count"])):
            await self.send(text)


class GeneratorBurst(SSEView):
    """Yields so many objects."""

    async def stream(self) -> Any:
        obj = reading()
        for _ in range(int(self.request.GET["count"])):
            yield obj


class Follow(SSEView):
    """Follows a topic. Its limit is such that a client which lost its core is not cut off."""

    topics = ["readings"]
    outbox_limit = 64 * 1024 * 1024


class OpenFollow(Follow):
    """The same, for whom nobody asks."""

    authentication_classes = []
