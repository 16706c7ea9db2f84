"""Clients that take nothing: found by one timer for all streams of a loop."""

from __future__ import annotations

import asyncio
import operator
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest

from django_sse import SSEView
from django_sse.connection import watchdog
from django_sse.servers.base import Server
from django_sse.testing import connect
from tests.support.waiting import eventually


class Endless(SSEView):
    """Sends for as long as somebody reads."""

    heartbeat = None
    reasons: Any = None

    async def stream(self) -> None:
        while True:
            await self.send("x" * 70_000)

    async def disconnect(self) -> None:
        self.reasons.append(self.close_reason)


@pytest.fixture(autouse=True)
def impatience(settings: Any) -> None:
    settings.DJANGO_SSE = {"SEND_TIMEOUT": 0.2}


@pytest.mark.parametrize("slice_size", [1, 2, 3, 500])
async def test_all_who_take_nothing_are_stalled(
    monkeypatch: pytest.MonkeyPatch, slice_size: int
) -> None:
    monkeypatch.setattr(watchdog, "SLICE", slice_size)
    reasons: list[str] = []
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(connect(Endless.as_view(reasons=reasons)))
        await eventually(lambda: reasons == ["stalled"] * 3)
    assert time.monotonic() - began >= 0.2


async def test_who_reads_is_not_stalled() -> None:
    reasons: list[str] = []
    async with connect(Endless.as_view(reasons=reasons)) as stream:
        end = asyncio.get_running_loop().time() + 0.6
        while asyncio.get_running_loop().time() < end:
            await stream.receive()
            await asyncio.sleep(0.02)
    assert reasons == ["client"]


class Quiet(Endless):
    """Says something once, and once more when it is told to."""

    more: Any = None

    async def stream(self) -> None:
        await self.send("once")
        await self.more.wait()
        await self.send("more")


async def test_who_has_taken_everything_is_not_stalled() -> None:
    reasons: list[str] = []
    more = asyncio.Event()
    async with connect(Quiet.as_view(reasons=reasons, more=more)) as stream:
        assert (await stream.receive()).data == "once"
        # Several rounds, in which nothing is on its way.
        await asyncio.sleep(0.5)
        assert reasons == []
        more.set()
        assert (await stream.receive()).data == "more"
    assert reasons == ["completed"]


async def test_rounds_end_with_the_streams_and_begin_again() -> None:
    loop: Any = asyncio.get_running_loop()

    def rounds() -> list[Any]:
        names = [
            getattr(it._callback, "__name__", "") for it in loop._scheduled if not it._cancelled
        ]
        return [name for name in names if name == "_round"]

    for _ in range(2):
        reasons: list[str] = []
        async with connect(Endless.as_view(reasons=reasons)):
            assert rounds()
            await eventually(partial(operator.eq, reasons, ["stalled"]))
        await eventually(lambda: not rounds())


async def test_stream_that_took_less_than_its_heads_is_stalled_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A peer that vanished from a stream of a few bytes: what is on its way is more than its events.
    monkeypatch.setattr(Server, "unsent", lambda self: 100_000)
    reasons: list[str] = []

    class Silent(Endless):
        async def stream(self) -> None:
            await asyncio.Event().wait()

    async with connect(Silent.as_view(reasons=reasons)):
        await eventually(lambda: reasons == ["stalled"])


async def test_stream_that_cannot_be_watched_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reasons: list[str] = []

    class Odd(Endless):
        async def stream(self) -> None:
            await asyncio.Event().wait()

    look = SSEView.notice_loss

    def fail(view: SSEView) -> None:
        if isinstance(view, Odd):
            raise OSError("not foreseen")
        look(view)

    monkeypatch.setattr(SSEView, "notice_loss", fail)
    async with connect(Odd.as_view(reasons=[])), connect(Endless.as_view(reasons=reasons)):
        await eventually(lambda: reasons == ["stalled"])
    assert "Odd could not be watched." in caplog.text
