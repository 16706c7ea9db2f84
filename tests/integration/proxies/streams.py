"""Streams for whatever a proxy may do to them, and their addresses."""

from __future__ import annotations

import asyncio
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from django_sse import SSEView, apublish, sse_path
from tests.project.streams import Recorded

#: Characters of the large event.
LARGE = 1024 * 1024


class Silent(Recorded):
    """Say something, and nothing more: no heartbeat either."""

    heartbeat = None

    async def stream(self) -> None:
        await self.send("open")
        await asyncio.Event().wait()


class Large(Recorded):
    """Send one large event between two small ones."""

    async def stream(self) -> None:
        await self.send("before")
        await self.send("x" * LARGE)
        await self.send("after")
        await asyncio.Event().wait()


class News(SSEView):
    """Follow a topic."""

    topics = ["news"]

    async def snapshot(self) -> None:
        await self.send("everything so far", event="snapshot")


async def publish_news(request: HttpRequest) -> HttpResponse:
    """Publish the query's ``text``, and answer with the event's id."""
    return HttpResponse(await apublish("news", request.GET["text"]))


urlpatterns: list[Any] = [
    sse_path("silent/", Silent),
    sse_path("large/", Large),
    sse_path("news/", News),
    path("news/publish/", publish_news),
    path("", include("tests.project.urls")),
]
