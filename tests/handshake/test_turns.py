"""Handshakes take turns, so that a crowd that comes back neither stops pages nor takes all threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils.deprecation import MiddlewareMixin
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from django_sse import SSEView, sse_path, stats
from django_sse.asgi import get_asgi_application
from django_sse.handshake import turns
from django_sse.testing import connect

BROWSER = {"Accept": "text/event-stream"}
PATIENCE = 10


class Door:
    """Counts who is asked at once, and lets nobody through while it is shut."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.lock = threading.Lock()
        self.asked: list[str] = []
        self.inside = 0
        self.most = 0
        self.connecting = 0
        self.answer = asyncio.Event()


door = Door()


class Asking(BaseAuthentication):
    def authenticate(self, request: Request) -> None:
        with door.lock:
            door.asked.append(request.GET.get("name", ""))
            door.inside += 1
            door.most = max(door.most, door.inside)
        door.open.wait(PATIENCE)
        with door.lock:
            door.inside -= 1


class Quiet(SSEView):
    heartbeat = None
    authentication_classes = [Asking]

    async def stream(self) -> None:
        await asyncio.Event().wait()


class SlowToConnect(Quiet):
    async def connect(self) -> None:
        door.connecting += 1
        await door.answer.wait()


async def long_page(request: HttpRequest) -> HttpResponse:
    door.connecting += 1
    await door.answer.wait()
    return HttpResponse("done")


def middleware(get_response: Any) -> Any:
    def add_header(request: HttpRequest) -> Any:
        response = get_response(request)
        response["X-Seen"] = "yes"
        return response

    return add_header


class SlowForPages(MiddlewareMixin):
    def process_view(self, request: HttpRequest, *args: Any) -> None:
        if request.path == "/page/":
            with door.lock:
                door.inside += 1
            door.open.wait(PATIENCE)


urlpatterns = [
    sse_path("quiet/", Quiet),
    sse_path("slow/", SlowToConnect),
    path("page/", long_page),
]


@pytest.fixture
def application(settings: Any) -> Iterator[Any]:
    door.__init__()  # type: ignore[misc]
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [f"{__name__}.middleware"]
    settings.DJANGO_SSE = {"MAX_HANDSHAKES": 2}
    yield get_asgi_application()
    door.open.set()


async def until(happened: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not happened():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


async def begin(stack: AsyncExitStack, application: Any, address: str) -> asyncio.Task[Any]:
    client = connect(application, address, headers=BROWSER)
    return asyncio.ensure_future(stack.enter_async_context(client))


async def test_so_many_are_asked_at_once_in_the_order_in_which_they_came(application: Any) -> None:
    async with AsyncExitStack() as stack:
        door.open.clear()
        tasks = []
        for number in range(8):
            tasks.append(await begin(stack, application, f"/quiet/?name={number}"))
            await asyncio.sleep(0.01)
        await until(lambda: len(door.asked) == 2)
        await asyncio.sleep(0.1)
        # These two have their turns at once, each in a thread: either may be the first to ask.
        assert sorted(door.asked) == ["0", "1"]
        # One that leaves while it waits takes nobody's turn for long.
        tasks.pop(2).cancel()
        door.open.set()
        streams = await asyncio.gather(*tasks)
        assert {stream.status_code for stream in streams} == {200}
        assert door.most == 2
        assert {"3", "4", "5", "6", "7"} <= set(door.asked)


@pytest.mark.parametrize("address", ["/slow/", "/page/"])
async def test_who_waits_for_something_else_keeps_nobody_waiting(
    application: Any, address: str
) -> None:
    async with AsyncExitStack() as stack:
        tasks = [await begin(stack, application, address) for _ in range(6)]
        await until(lambda: door.connecting == 6)
        door.answer.set()
        await asyncio.gather(*tasks)


async def test_middleware_that_waits_before_a_page_keeps_no_stream_waiting(
    application: Any, settings: Any
) -> None:
    settings.MIDDLEWARE = [f"{__name__}.SlowForPages"]
    async with AsyncExitStack() as stack:
        door.open.clear()
        door.answer.set()
        tasks = [await begin(stack, get_asgi_application(), "/page/") for _ in range(6)]
        await until(lambda: door.inside == 6)
        door.open.set()
        await asyncio.gather(*tasks)


async def test_who_comes_to_an_overrun_line_is_told_to_come_back_before_it_is_asked(
    application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.05)
    refused = stats()["refused"]
    async with AsyncExitStack() as stack:
        door.open.clear()
        tasks = [await begin(stack, application, "/quiet/") for _ in range(3)]
        await until(lambda: len(door.asked) == 2)
        await asyncio.sleep(0.1)
        # A page of another site could not read an answer that no middleware has seen.
        for headers, seen in (BROWSER, None), ({**BROWSER, "Origin": "https://other"}, "yes"):
            async with connect(application, "/quiet/?name=late", headers=headers) as late:
                assert late.status_code == 200
                assert late.headers["content-type"] == "text/event-stream"
                assert late.headers["cache-control"] == "no-store, no-transform"
                assert late.headers.get("x-seen") == seen
                await late.read()
                assert late.retry is not None
                assert 1000 <= late.retry <= 5000
        # What is no stream is answered, and so is what is nothing.
        async with connect(application, "/nowhere/", headers=BROWSER) as nowhere:
            assert nowhere.status_code == 404
        door.answer.set()
        async with connect(application, "/page/", headers=BROWSER) as page:
            assert await page.read() == b"done"
        door.open.set()
        await asyncio.gather(*tasks)
        assert "late" not in door.asked
        assert stats()["refused"] - refused == 2
        async with connect(application, "/quiet/?name=later", headers=BROWSER) as later:
            assert later.status_code == 200
        assert "later" in door.asked


@pytest.mark.parametrize("rounds", range(2 * turns.PACE_ROUNDS))
async def test_turn_of_a_handshake_that_is_cancelled_goes_to_the_next(rounds: int) -> None:
    """Whenever a server or a time limit cancels it: before its turn, as that comes, or after."""
    line = turns.Line(asyncio.get_running_loop())
    first = await line.turn(1)
    tasks = [asyncio.create_task(line.turn(1)) for _ in range(3)]
    await asyncio.sleep(0)
    first.end()
    for _ in range(rounds):
        await asyncio.sleep(0)
    if not tasks[0].cancel():
        tasks[0].result().end()
    async with asyncio.timeout(PATIENCE):
        second = await tasks[1]
    # No more have their turns at once than may.
    await asyncio.wait(tasks[2:], timeout=0.05)
    assert not tasks[2].done()
    second.end()
    async with asyncio.timeout(PATIENCE):
        (await tasks[2]).end()
