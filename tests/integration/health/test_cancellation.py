"""Whatever ends a connection, and wherever in its way: nothing of it is left behind."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.urls import path

from django_sse import SSEView, apublish, sse_path
from django_sse.asgi import get_asgi_application
from django_sse.brokers import use_broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.connection.roster import roster
from django_sse.connection.threads import pool
from django_sse.monitoring.metrics import counters
from django_sse.signals import stream_closed, stream_opened
from django_sse.topics.hub import get_hub
from django_sse.topics.orders import CONTROL

#: More suspension points than a stream of these has, so that the loops below end.
MANY = 400

#: How far the stream of a run came, and what its hooks were called with.
way: list[str] = []


class Followed(SSEView):
    """Does all that a stream can do, with the default ``stream()``."""

    groups = ["everyone"]
    recheck_period = 30
    max_duration = 30

    async def connect(self) -> None:
        way.append("connect")
        await asyncio.sleep(0)
        await sync_to_async(len)("in a thread")
        way.append("connected")

    async def get_topics(self) -> list[str]:
        await asyncio.sleep(0)
        return ["a", "b"]

    async def snapshot(self) -> AsyncIterator[Any]:
        way.append("snapshot")
        try:
            yield "first"
            # More than may wait, so that it waits for the client.
            yield "x" * 70_000
            await sync_to_async(len)("in a thread")
            yield "second"
        finally:
            way.append("snapshot left")

    async def disconnect(self) -> None:
        way.append("disconnect")
        await asyncio.sleep(0)
        await sync_to_async(len)("in a thread")
        way.append("disconnected")

    async def everyone_said(self, message: Any) -> None:
        await self.send(message["text"])


class Own(Followed):
    """Has a ``stream()`` of its own, which ends."""

    #: Set when its client has the published event.
    published = asyncio.Event()

    async def stream(self) -> None:
        way.append("stream")
        following = asyncio.ensure_future(self.follow())
        try:
            await self._send_all(self.snapshot())
            await apublish("a", "published")
            await self.published.wait()
            await self.close()
        finally:
            following.cancel()
            await asyncio.wait([following])


class Broken(Own):
    """Fails."""

    async def stream(self) -> None:
        way.append("stream")
        await self.send("before")
        raise RuntimeError("the stream is broken")


class Refusing(Own):
    """Fails in ``connect()``."""

    async def connect(self) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("connect() is broken")


urlpatterns = [
    sse_path("followed/", Followed),
    sse_path("own/", Own),
    sse_path("broken/", Broken),
    sse_path("refusing/", Refusing),
    path("other/", lambda request: None),
]


class Steps(Coroutine[Any, Any, Any]):
    """A coroutine that calls ``at`` each time that it is about to be suspended."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: Callable[[], None]) -> None:
        self._coroutine = coroutine
        self._at = at

    def send(self, value: Any) -> Any:
        waiting_for = self._coroutine.send(value)
        self._at()
        return waiting_for

    def throw(self, *error: Any) -> Any:
        waiting_for = self._coroutine.throw(*error)
        self._at()
        return waiting_for

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        raise NotImplementedError


class Run:
    """One connection to an application, disturbed at the n-th suspension of any of its tasks."""

    def __init__(self, application: Any, address: str, number: int, disturb: Disturb) -> None:
        self._application = application
        self._address = address
        self.number = number
        self._disturb = disturb
        self._steps = 0
        self._asked = False
        self._in_application = False
        self.left = asyncio.Event()
        self.disturbed = False
        self.phase = ""
        self.broken = False
        self.task: asyncio.Task[None] | None = None
        Own.published = asyncio.Event()

    async def __call__(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(self._make_task)
        try:
            self.task = loop.create_task(
                self._application(self._scope(), self._receive, self._send)
            )
            done, _ = await asyncio.wait([self.task], timeout=10)
            assert done, (self.number, way, asyncio.all_tasks())
        finally:
            loop.set_task_factory(None)
        # The connection ends with the application; what Django's handler has left waits for that.
        self.left.set()

    def _make_task(self, loop: Any, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        return asyncio.Task(Steps(coroutine, self._step), loop=loop, **kwargs)

    def _step(self) -> None:
        self._steps += 1
        if self._steps == self.number:
            self.disturbed = True
            self.phase = way[-1] if way else "handshake"
            self._disturb(self)

    def _scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": self._address,
            "raw_path": self._address.encode(),
            "query_string": b"",
            "headers": [(b"host", b"testserver")],
            "client": ("127.0.0.1", 1),
        }

    async def _receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("The client is gone.")
        if b"published" in message.get("body", b""):
            way.append("published")
            Own.published.set()
        if message.get("more_body") is False:
            way.append("end")
        if self._address == "/followed/" and b"id: " in message.get("body", b""):
            # It is live; it gets an event, and then its client leaves.
            await apublish(["a", "b"], "published")
        if self._address == "/followed/" and way.count("published"):
            self.left.set()


Disturb = Callable[[Run], None]


def cancel(run: Run) -> None:
    """What Daphne does as it stops, and Uvicorn when its time is over."""
    assert run.task is not None
    run.task.cancel()


def cancel_again(run: Run) -> None:
    """What Uvicorn does after a second Ctrl+C: it does not wait for what it has cancelled."""
    assert run.task is not None
    run.task.cancel()
    loop = asyncio.get_running_loop()
    loop.call_later(0.001, run.task.cancel)
    loop.call_later(0.002, run.task.cancel)


def cancel_twice(run: Run) -> None:
    """The same, so soon that what the first one began has only begun."""
    assert run.task is not None
    run.task.cancel()
    loop = asyncio.get_running_loop()
    task = run.task
    loop.call_soon(lambda: loop.call_soon(task.cancel))


def leave(run: Run) -> None:
    """A client that goes."""
    run.left.set()


def leave_and_cancel(run: Run) -> None:
    """What Django's handler does: it cancels the view of a client that has gone."""
    leave(run)
    cancel(run)


def break_off(run: Run) -> None:
    """A server whose ``send()`` raises from now on, as ASGI allows it."""
    run.broken = True
    run.left.set()


def end_all(run: Run) -> None:
    """What the shutdown, the watchdog and those who administer may do at any moment."""
    for stream in roster.streams():
        stream.revoke()


def stall_all(run: Run) -> None:
    """What the watchdog does."""
    for stream in roster.streams():
        stream.stall()


@pytest.fixture
async def application(settings: Any) -> AsyncIterator[Any]:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
    settings.LOGGING_CONFIG = None
    previous = use_broker(MemoryBroker())
    told: Counter[str] = Counter()

    def on_opened(view: Any, **kwargs: Any) -> None:
        told["opened"] += 1

    def on_closed(view: Any, **kwargs: Any) -> None:
        told["closed"] += 1

    stream_opened.connect(on_opened)
    stream_closed.connect(on_closed)
    try:
        yield get_asgi_application()
    finally:
        await get_hub().aclose()
        use_broker(previous)
        stream_opened.disconnect(on_opened)
        stream_closed.disconnect(on_closed)
        gc.collect()  # What is to be said of what was forgotten is to be said here.
    assert told["opened"] == told["closed"]


@pytest.mark.parametrize(
    "disturb",
    [cancel, cancel_again, cancel_twice, leave, leave_and_cancel, break_off, end_all, stall_all],
    ids=lambda disturb: disturb.__name__,
)
@pytest.mark.parametrize("address", ["/followed/", "/own/", "/broken/", "/refusing/"])
async def test_nothing_is_left_wherever_a_stream_is_disturbed(
    application: Any, address: str, disturb: Disturb
) -> None:
    phases = Counter[str]()
    for number in range(1, MANY):
        way.clear()
        opened = counters.opened
        run = Run(application, address, number, disturb)
        await run()
        await _assert_nothing_is_left(run)
        _assert_hooks_were_called()
        if counters.opened > opened:
            # No server has to log anything, nor to clean up.
            assert run.task is not None
            assert not run.task.cancelled()
            assert run.task.exception() is None
        if not run.disturbed:
            break
        phases[run.phase] += 1
    else:
        raise AssertionError("The stream has too many suspension points.")
    expected = {"handshake"}
    if address != "/refusing/":
        expected |= {"connect", "connected", "disconnect"}
    if address in ("/own/", "/followed/"):
        expected |= {"snapshot", "published"}
    assert phases.keys() >= expected, phases


def _assert_hooks_were_called() -> None:
    """``disconnect()`` has run once for each ``connect()`` that returned, and for no other."""
    assert way.count("disconnect") == way.count("disconnected") == way.count("connected"), way
    assert way.count("snapshot") == way.count("snapshot left"), way


async def _assert_nothing_is_left(run: Run) -> None:
    # Threads may have to come to their end, and what Django has left running for a while.
    deadline = asyncio.get_running_loop().time() + 2
    while _left() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert _left() == {}, (run.phase, run.number, way)


def _left() -> dict[str, Any]:
    """Return all that is not as it was before the first connection."""
    hub = get_hub()
    loop: Any = asyncio.get_running_loop()
    layer: Any = get_channel_layer()
    found = {
        "tasks": asyncio.all_tasks() - {asyncio.current_task(), hub._heeding},
        "streams": roster.streams(),
        "counted": dict(roster._counts),
        "cohorts": hub._cohorts,
        "topics": hub._by_topic,
        "subscribed": hub._subscribed - {CONTROL},
        "lanes": [lane for lane in pool._lanes if lane.streams],
        "groups": layer.groups,
        "timers": {
            timer
            for timer in loop._scheduled
            if not timer.cancelled()
            and "django_sse" in repr(timer)
            # These serve all streams of the loop or of the process.
            and getattr(timer._callback, "__name__", "") not in ("_expire", "_round", "_look")
        },
    }
    return {name: value for name, value in found.items() if value}
