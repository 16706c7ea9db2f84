"""One connection, whatever it sends, and each of its ends that a client of the kit cannot bring."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest
from rest_framework.permissions import BasePermission

from django_sse import Heartbeat, SSEView, session, stats
from django_sse.asgi import ViewHandler
from django_sse.brokers.memory import MemoryBroker
from django_sse.connection import tasks
from django_sse.connection.roster import roster
from django_sse.session import Session
from django_sse.testing import connect
from django_sse.wire.events import encode_fields
from tests.support.connections import REQUEST, arrived, client_of, under_uvicorn
from tests.support.waiting import eventually


class Endless(SSEView):
    """Stays open, and notes how it ended."""

    heartbeat = None
    reasons: Any = None

    async def stream(self) -> None:
        await self.send("open")
        await asyncio.Event().wait()

    async def disconnect(self) -> None:
        self.reasons.append(self.close_reason)


class Bare(Session):
    """As little as a session can be."""

    async def live(self) -> None:
        assert self._outbox is not None
        self._outbox.put(encode_fields("bare"))
        await asyncio.Event().wait()


async def test_session_needs_nothing_but_its_life() -> None:
    async with connect(ViewHandler(Bare.as_view())) as stream:
        assert (await stream.receive()).data == "bare"
        [session] = roster.streams()
        told = session.describe()
        assert (told["topics"], told["last_id"]) == ([], None)
        session.revoke()
        assert (await stream.receive()).event == "revoked"
        await stream.receive_end()
    assert session.close_reason == "revoked"
    assert not session.is_open


class Slow(Endless):
    """Takes its time to begin, until its client has left."""

    connecting: Any = None
    left: Any = None

    async def connect(self) -> None:
        self.connecting.set()
        await self.left.wait()


# Uvicorn tells the newest request of a connection only that its client left, here the second.


async def test_stream_whose_client_left_before_it_began_sends_nothing() -> None:
    reasons: list[str] = []
    connecting, left = asyncio.Event(), asyncio.Event()
    cycles: list[Any] = []
    slow = Slow.as_asgi(reasons=reasons, connecting=connecting, left=left)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        cycles.append(send.__self__)
        await slow(scope, receive, send)

    async with under_uvicorn(application) as port:
        with client_of(port) as client:
            client.sendall(REQUEST * 2)
            await connecting.wait()
        [cycle] = cycles
        await eventually(cycle.transport.is_closing)
        assert not cycle.disconnected
        left.set()
        await eventually(lambda: reasons)
    assert reasons == ["client"]
    assert not cycle.response_started


async def test_beat_notices_that_the_client_left(caplog: pytest.LogCaptureFixture) -> None:
    reasons: list[str] = []
    view = Endless.as_asgi(reasons=reasons, heartbeat=Heartbeat(0.05))
    async with under_uvicorn(view) as port:
        with client_of(port) as client:
            client.sendall(REQUEST * 2)
            await arrived(client, b"data: open\n\n")
        await eventually(lambda: reasons)
    assert reasons == ["client"]
    # Uvicorn has nothing to say about a response without an end.
    assert caplog.records == []


async def test_stream_that_begins_as_the_process_ends_is_told(ending: Any) -> None:
    reasons: list[str] = []

    class Late(Endless):
        async def connect(self) -> None:
            ending.begin()

    async with connect(Late.as_view(reasons=reasons)) as stream:
        await stream.receive_end()
        assert stream.retry is not None
    assert reasons == ["shutdown"]


@pytest.mark.parametrize("max_duration", [None, 60])
async def test_stream_cleans_up_before_its_response_ends_with_the_process(
    ending: Any, max_duration: float | None
) -> None:
    order: list[str] = []

    class Careful(Endless):
        async def stream(self) -> None:
            try:
                await super().stream()
            finally:
                order.append("stream left")

        async def disconnect(self) -> None:
            await asyncio.sleep(0.01)
            order.append("disconnected")

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def noting(message: Any) -> None:
            if message.get("more_body") is False:
                order.append("end")
            await send(message)

        await careful(scope, receive, noting)

    careful = Careful.as_asgi(max_duration=max_duration)
    async with connect(application) as stream:
        await stream.receive()
        ending.begin()
        await stream.receive_end()
    assert order == ["stream left", "disconnected", "end"]


async def test_only_a_disconnect_ends_a_stream() -> None:
    reasons: list[str] = []
    messages: asyncio.Queue[str] = asyncio.Queue()
    messages.put_nowait("http.request")
    sent: list[bytes] = []
    opened = asyncio.Event()

    async def receive() -> Any:
        return {"type": await messages.get(), "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if b"open" in sent[-1]:
            opened.set()

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"testserver")]}
    application = Endless.as_asgi(reasons=reasons)
    running = asyncio.ensure_future(application(scope, receive, send))
    await asyncio.wait_for(opened.wait(), 5)
    messages.put_nowait("http.request")
    await asyncio.sleep(0.05)
    assert reasons == []
    messages.put_nowait("http.disconnect")
    await asyncio.wait_for(running, 5)
    assert reasons == ["client"]


@pytest.mark.parametrize("at", ["in receive()", "with the server", "before the server"])
async def test_end_that_comes_with_something_else_cancels_nothing_more(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A cancellation too many would hurry what cleans up.
    monkeypatch.setattr(tasks, "GOODBYE_SECONDS", 0.01)
    reasons: list[str] = []

    class Careful(Endless):
        async def disconnect(self) -> None:
            await asyncio.sleep(0.1)
            await super().disconnect()

    opened, disconnected = asyncio.Event(), asyncio.Event()
    first = iter([{"type": "http.request", "body": b"", "more_body": False}])

    class Cycle:
        # Its receive() is awaited in the stream's own task, as the real one's is.
        __module__ = "uvicorn.protocols.http"

        async def receive(self) -> Any:
            if (message := next(first, None)) is None:
                await disconnected.wait()
                if at == "in receive()":
                    # The server closes a connection that the stream was just about to end.
                    roster.streams()[0].end("expired")
            return message or {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if b"open" in message.get("body", b""):
            opened.set()

    async def serve() -> int:
        await application(scope, Cycle().receive, send)
        return asyncio.current_task().cancelling()  # type: ignore[union-attr]

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"testserver")]}
    application = Careful.as_asgi(reasons=reasons)
    running = asyncio.ensure_future(serve())
    await asyncio.wait_for(opened.wait(), 5)
    if at == "in receive()":
        disconnected.set()
    else:
        roster.streams()[0].end("expired")
        if at == "before the server":
            await asyncio.sleep(0)
        running.cancel()
    assert await asyncio.wait_for(running, 5) == 0
    assert reasons == ["expired"]


async def test_client_that_does_not_read_holds_no_server_that_cancels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "GOODBYE_SECONDS", 0.05)
    reasons: list[str] = []
    full = asyncio.Event()

    class Flood(Endless):
        async def stream(self) -> None:
            while True:
                await self.send("x" * 70_000)

    messages: asyncio.Queue[str] = asyncio.Queue()
    messages.put_nowait("http.request")

    async def receive() -> Any:
        return {"type": await messages.get(), "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message.get("body"):
            full.set()
            await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"testserver")]}
    application = Flood.as_asgi(reasons=reasons)
    running = asyncio.ensure_future(application(scope, receive, send))
    await asyncio.wait_for(full.wait(), 5)
    running.cancel()
    await asyncio.wait_for(running, 5)
    assert reasons == ["shutdown"]


async def test_client_may_leave_while_its_user_is_asked_for_again() -> None:
    reasons: list[str] = []
    asking, answer = threading.Event(), threading.Event()

    class Slowly(BasePermission):
        def has_permission(self, request: Any, view: Any) -> bool:
            if view.event_loop is not None:
                asking.set()
                assert answer.wait(5)
            return True

    view = Endless.as_view(reasons=reasons, recheck_period=0.01, permission_classes=[Slowly])
    async with connect(view) as stream:
        await stream.receive()
        assert await asyncio.to_thread(asking.wait, 5)
        asyncio.get_running_loop().call_later(0.1, answer.set)
    assert reasons == ["client"]
    assert roster.streams() == []


async def test_stream_that_is_abandoned_twice_ends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []
    prepare = SSEView.prepare

    async def give_up(view: SSEView) -> None:
        await prepare(view)
        await view.abandon("closed")
        await view.abandon("error")
        raise RuntimeError("It was abandoned.")

    monkeypatch.setattr(SSEView, "prepare", give_up)
    async with connect(Endless.as_view(reasons=reasons)) as answer:
        assert answer.status_code == 500
    assert reasons == ["closed"]


@pytest.mark.parametrize("follows", [False, True])
async def test_stream_that_has_ended_is_gone_without_a_collection(
    broker: MemoryBroker, follows: bool
) -> None:
    gone: list[weakref.ref[SSEView]] = []

    class Noted(Endless):
        topics = ["a"] if follows else []

        async def connect(self) -> None:
            gone.append(weakref.ref(self))

    if follows:
        Noted.stream = SSEView.stream  # type: ignore[method-assign]
    async with connect(Noted.as_asgi(reasons=[])) as stream:
        await stream.receive_block()
    gc.collect()
    gc.disable()
    try:
        async with connect(Noted.as_asgi(reasons=[])) as stream:
            await stream.receive_block()
        del stream
        await asyncio.sleep(0)
        assert gone[1]() is None
    finally:
        gc.enable()


async def test_streams_that_never_began_are_not_counted_as_ended() -> None:
    async def lost(message: Any) -> None:
        raise OSError("The client is gone.")

    before = stats()
    view = Endless.as_asgi(reasons=[])

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await view(scope, receive, lost)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with connect(application):
        pass
    after = stats()
    assert after["opened"] == before["opened"]
    assert after["closed"] == before["closed"]
    assert after["open"] == before["open"]
