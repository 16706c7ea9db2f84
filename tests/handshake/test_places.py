"""A stream's place, which is given back whatever fails on the way to its first byte."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import django
import pytest
import rest_framework

import django_sse
from django_sse import SSEView, sse_path
from django_sse.asgi import get_asgi_application
from django_sse.connection.roster import roster

#: Whose calls fail, one after the other.
OURS = tuple(str(Path(it.__file__).parent) for it in (django_sse, django, rest_framework))
#: What takes a thread from call to call and from request to request, in the place of asgiref's.
WAY_OF_A_THREAD = {"_run", "_serve", "_wait", "_do", "__init__", "end", "_settle", "__aexit__"}

happened: list[str] = []


class Endless(SSEView):
    heartbeat = None

    async def connect(self) -> None:
        await asyncio.sleep(0)
        happened.append("connected")

    async def stream(self) -> None:
        await asyncio.Event().wait()

    async def disconnect(self) -> None:
        happened.append("disconnected")


def middleware(get_response: Any) -> Any:
    def add_header(request: Any) -> Any:
        response = get_response(request)
        response["X-Seen"] = "yes"
        return response

    return add_header


urlpatterns = [sse_path("endless/", Endless)]


class Failing:
    """Lets the call of a number raise, of those between the place and the first byte."""

    def __init__(self, number: int, error: type[BaseException]) -> None:
        self.number = number
        self.error = error
        self.calls = 0
        self.failed = ""
        self.over = False

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if self.over or not len(roster) or not code.co_filename.startswith(OURS):
            return None
        if code.co_name == "__del__":
            return None  # What it raises goes nowhere.
        if code.co_name in WAY_OF_A_THREAD and code.co_filename.endswith("request_threads.py"):
            return None  # Nothing fails there; and which threads are new differs from run to run.
        if code.co_code[frame.f_lasti + 1] & 3:
            return None  # A coroutine that goes on after an await: its call was counted.
        self.calls += 1
        if self.calls == self.number:
            self.over = True
            self.failed = f"{Path(code.co_filename).name}:{code.co_name}"
            raise self.error(f"the call {self.number}, {self.failed}")
        return None


class Connection:
    """One request, and its client, which leaves after the first bytes."""

    def __init__(self, failing: Failing, refused: str = "") -> None:
        self.failing = failing
        #: The type of the message that the server fails at.
        self.refused = refused
        self.first_byte = asyncio.Event()
        self.leave = asyncio.Event()
        self.asked = False

    async def receive(self) -> Any:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if self.refused == "http.disconnect":
            raise RuntimeError("The server fails.")
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == self.refused:
            raise RuntimeError("The server fails.")
        if message.get("body"):
            self.failing.over = True
            self.first_byte.set()


async def run(application: Any, failing: Failing, refused: str = "") -> None:
    connection = Connection(failing, refused)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/endless/",
        "headers": [(b"host", b"testserver")],
    }
    previous = sys.gettrace(), threading.gettrace()
    threading.settrace(failing.trace)
    sys.settrace(failing.trace)
    try:
        task = asyncio.ensure_future(application(scope, connection.receive, connection.send))
        begun = asyncio.ensure_future(connection.first_byte.wait())
        await asyncio.wait([task, begun], timeout=5, return_when=asyncio.FIRST_COMPLETED)
    finally:
        failing.over = True
        # That of the coverage, most likely.
        sys.settrace(previous[0])
        threading.settrace(previous[1])  # type: ignore[arg-type]
    begun.cancel()
    connection.leave.set()
    await asyncio.wait([task], timeout=5)
    assert task.done(), failing.failed
    if not task.cancelled():
        task.exception()


@pytest.fixture
def application(settings: Any) -> Iterator[Any]:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [f"{__name__}.middleware"]
    settings.DJANGO_SSE = {"MAX_CONNECTIONS": 1}
    logging.disable(logging.CRITICAL)
    yield get_asgi_application()
    logging.disable(logging.NOTSET)
    gc.collect()


async def gone() -> bool:
    """Return whether the stream's place is free, and ``disconnect()`` ran where it is due."""
    with suppress(TimeoutError):
        async with asyncio.timeout(2):
            while len(roster) or happened.count("connected") > happened.count("disconnected"):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0)
    return not len(roster) and happened.count("connected") == happened.count("disconnected")


@pytest.mark.parametrize(
    "refused", ["http.response.start", "http.response.body", "http.disconnect"]
)
async def test_place_is_given_back_where_the_server_fails(application: Any, refused: str) -> None:
    for _ in range(3):
        happened.clear()
        await run(application, Failing(0, RuntimeError), refused)
        assert await gone()
        # Django 6.1 hears of a receive() that fails before it asks the view.
        if refused != "http.disconnect":
            assert happened == ["connected", "disconnected"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine")
@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_place_is_given_back_at_whichever_call_the_way_to_the_first_byte_fails(
    application: Any, error: type[BaseException]
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    await run(application, Failing(0, error))  # What is made once is made.
    whole = Failing(0, error)
    await run(application, whole)
    assert whole.calls > 80
    kept = []
    for number in range(1, whole.calls + 1):
        happened.clear()
        failing = Failing(number, error)
        await run(application, failing)
        if not await gone():
            kept.append((number, failing.failed, len(roster), list(happened)))
            for stream in roster.streams():
                roster.leave(stream)
    assert kept == []
    # And nothing else is broken: the next one gets the only place.
    await run(application, Failing(0, error))
    assert whole.over
