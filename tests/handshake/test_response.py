"""A stream's response where nobody takes its connection over."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from django.http import HttpRequest

from django_sse.handshake.response import EventStreamResponse, is_untouched
from tests.support.connections import body


class View:
    """Sends chunks when it is run, and notes why it was let go."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks
        self.abandoned: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for chunk in self.chunks:
            await send(body(chunk))

    async def abandon(self, reason: str) -> None:
        self.abandoned.append(reason)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_response_ends_after_its_last_chunk_however_slow_its_reader() -> None:
    response = EventStreamResponse(View(b"a", b"b"), HttpRequest())
    chunks = []
    async with asyncio.timeout(5):
        async for chunk in response:
            chunks.append(chunk)
            await turns()
    assert chunks == [b"a", b"b"]


async def test_response_is_empty_once_its_view_was_taken() -> None:
    view = View(b"never")
    response = EventStreamResponse(view, HttpRequest())
    assert response.event_stream.take() is view
    assert [chunk async for chunk in response] == []
    response.close()
    await turns()
    assert view.abandoned == []


async def test_response_that_is_dropped_ends_its_stream() -> None:
    view = View(b"never")
    response = EventStreamResponse(view, HttpRequest())
    del response
    gc.collect()
    await turns()
    assert view.abandoned == ["client"]


def test_response_may_be_closed_after_its_loop() -> None:
    async def make() -> EventStreamResponse:
        return EventStreamResponse(View(b"never"), HttpRequest())

    loop = asyncio.new_event_loop()
    response = loop.run_until_complete(make())
    loop.close()
    response.close()
    assert response.closed
    assert not is_untouched(response, response.event_stream)
