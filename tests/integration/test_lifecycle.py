"""A stream from its beginning to each of its ends, and the groups it listens to meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from channels.layers import get_channel_layer

from django_sse.testing import connect
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

Make = Callable[..., Any]
Recorded = Callable[..., list[dict[str, Any]]]

IN_MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer"}


def _scope(path: str) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"testserver")]}


async def test_middleware_whose_send_fails_ends_the_stream_and_is_logged(
    application: Make, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    app = application()

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        async def send_some(message: Any) -> None:
            if b"joined" in message.get("body", b""):
                raise ValueError("This word is not allowed.")
            await send(message)

        await app(scope, receive, send_some)

    async with connect(failing, "/chat/1/") as stream:
        await stream.receive_end()
        assert recorded("disconnect")[-1]["reason"] == "error"
    [logged] = [entry for entry in caplog.records if entry.name == "django_sse"]
    assert logged.levelno == logging.ERROR
    assert "Chat could not send" in logged.message
    assert logged.exc_info is not None
    assert "This word is not allowed" in str(logged.exc_info[1])


# Groups.


@pytest.fixture(params=["memory", "redis"])
async def layer(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """The configuration of a channel layer."""
    if request.param == "memory":
        yield IN_MEMORY
        return
    with RedisServer(tmp_path) as server:
        yield {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            # Without it, redis-py 8 gives up reading at the very moment at which the layer, which
            # waits as long for a message, would ask again.
            "CONFIG": {"hosts": [{"address": server.url(), "socket_timeout": None}]},
        }
        await get_channel_layer().close_pools()


async def test_group_messages_arrive_while_the_stream_runs(
    application: Make, recorded: Recorded, layer: dict[str, Any]
) -> None:
    app = application(CHANNEL_LAYERS={"default": layer})
    groups = get_channel_layer()
    async with connect(app, "/chat/1/") as one, connect(app, "/chat/2/") as two:
        for stream in (one, two):
            assert (await stream.receive()).data == "joined"
        await groups.group_send("room-1", {"type": "chat.said", "text": "to one"})
        await groups.group_send("room-2", {"type": "chat_said", "text": "to two"})
        for number in range(5):
            await groups.group_send("everywhere", {"type": "chat.said", "text": f"to all {number}"})
        for stream, name in ((one, "one"), (two, "two")):
            said = [await stream.receive() for _ in range(6)]
            assert {event.event for event in said} == {"said"}
            assert [event.data for event in said] == [
                f"to {name}",
                *(f"to all {number}" for number in range(5)),
            ]
        # A handler may end its stream; one of a mixin is as good as another.
        await groups.group_send("room-1", {"type": "chat.stop"})
        await one.receive_end()
        await groups.group_send("everywhere", {"type": "chat.said", "text": "still there"})
        assert (await two.receive()).data == "still there"
    assert {entry["reason"] for entry in recorded("disconnect")} == {"closed", "client"}
    # Nobody is left in the groups: the next stream gets what is meant for it alone.
    await groups.group_send("room-1", {"type": "chat.said", "text": "to nobody"})
    async with connect(app, "/chat/1/") as stream:
        assert (await stream.receive()).data == "joined"
        await stream.receive_nothing()


@pytest.mark.parametrize(
    "name",
    [
        "http.disconnect",
        "http.request",
        "http_request",
        "stream",
        "disconnect",
        "connect",
        "send",
        "close",
        "dispatch",
        "get.groups",
        "get",
        "helper",
        "_x",
        ".x",
        "__call__",
        "",
    ],
)
async def test_message_with_a_type_of_the_protocol_does_nothing(
    application: Make, recorded: Recorded, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    app = application(CHANNEL_LAYERS={"default": IN_MEMORY})
    groups = get_channel_layer()
    with caplog.at_level(logging.DEBUG, "django_sse"):
        async with connect(app, "/chat/1/") as stream:
            assert (await stream.receive()).data == "joined"
            await groups.group_send("room-1", {"type": name, "text": "spoofed"})
            await groups.group_send("room-1", {"type": "chat.said", "text": "real"})
            assert (await stream.receive()).data == "real"
            assert stream.received == b":\n\ndata: joined\n\nevent: said\ndata: real\n\n"
    assert recorded("spoofed") == []
    assert [entry["reason"] for entry in recorded("disconnect")] == ["client"]
    [logged] = [entry for entry in caplog.records if entry.name == "django_sse"]
    assert f"Chat has no handler for channel-layer messages of the type {name!r}" in (
        logged.getMessage()
    )


async def test_handler_that_fails_ends_the_stream(
    application: Make, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    app = application(CHANNEL_LAYERS={"default": IN_MEMORY})
    async with connect(app, "/chat/1/") as stream:
        assert (await stream.receive()).data == "joined"
        await get_channel_layer().group_send("room-1", {"type": "chat.fail"})
        await stream.read()
        assert "the handler is broken" in str(stream.failure)
    assert [entry["reason"] for entry in recorded("disconnect")] == ["error"]
    assert [entry.message for entry in caplog.records if entry.exc_info] == [
        "Chat.chat_fail() failed."
    ]


async def test_channel_layer_that_swallows_a_cancellation_holds_nobody_up(
    application: Make, recorded: Recorded
) -> None:
    layer = {"BACKEND": "tests.project.layers.DeafLayer"}
    tasks = asyncio.all_tasks()
    async with connect(application(CHANNEL_LAYERS={"default": layer}), "/chat/1/") as stream:
        assert (await stream.receive()).data == "joined"
        # The layer waits for a message by now, so that it is cancelled there.
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    assert [entry["reason"] for entry in recorded("disconnect")] == ["client"]


async def test_view_without_groups_needs_no_channel_layer(application: Make) -> None:
    async with connect(application(CHANNEL_LAYERS={}), "/quiet/") as stream:
        assert (await stream.receive()).data == "open"


async def test_groups_without_a_channel_layer_are_an_error(application: Make) -> None:
    async with connect(application(CHANNEL_LAYERS={}), "/chat/1/") as answer:
        assert answer.status_code == 500
        await answer.read()


# Ends.


async def test_error_in_stream_ends_the_response_and_is_logged_once(
    application: Make, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(application(), "/breaks/") as stream:
        assert stream.status_code == 200
        assert await stream.read() == b":\n\ndata: before\n\n"
        assert "stream() is broken" in str(stream.failure)
    [logged] = [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert (logged.name, logged.getMessage()) == ("django_sse", "Breaks.stream() failed.")
    assert logged.exc_info is not None
    assert "stream() is broken" in str(logged.exc_info[1])
    assert [entry["reason"] for entry in recorded("disconnect")] == ["error"]


@pytest.mark.parametrize("path", ["/quiet/", "/busy/", "/flood/", "/busywork/"])
async def test_client_that_leaves_ends_the_stream(
    application: Make, recorded: Recorded, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(application(), path) as stream:
        await stream.receive()
    assert [entry["reason"] for entry in recorded("disconnect")] == ["client"]
    assert caplog.records == []


async def test_events_of_several_tasks_arrive_whole(application: Make, recorded: Recorded) -> None:
    async with connect(application(), "/busywork/") as stream:
        await stream.read(timeout=30)
        blocks = stream.blocks[1:]
    assert {block.comments for block in blocks} == {"x" * 100}
    for name in "abc":
        own = [block.data for block in blocks if block.data.startswith(name)]
        assert own == [f"{name}{number}" for number in range(1000)]
    assert [entry["reason"] for entry in recorded("disconnect")] == ["completed"]


async def test_client_that_leaves_during_connect_leaves_nothing(
    application: Make, recorded: Recorded
) -> None:
    app = application()
    tasks, threads = asyncio.all_tasks(), threading.active_count()
    for count in range(1, 4):
        leave = asyncio.Event()
        sent: list[Any] = []
        asked = False

        async def receive(leave: asyncio.Event = leave) -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        scope = _scope("/hesitant/")
        request = asyncio.create_task(app(scope, receive, send))
        await eventually(lambda count=count: len(recorded("connect")) == count)
        leave.set()
        await asyncio.wait_for(request, 5)
        assert sent == []
        assert len(recorded("left")) == count
        assert len(recorded("request finished")) == count
    await eventually(lambda: threading.active_count() <= threads)
    assert asyncio.all_tasks() == tasks
    assert recorded("stream") == recorded("disconnect") == []
    gc.collect()  # What was not awaited would be told of now, as an error.


async def test_stream_leaves_no_task_and_no_thread(application: Make, recorded: Recorded) -> None:
    app = application(CHANNEL_LAYERS={"default": IN_MEMORY})
    tasks = asyncio.all_tasks()
    for path in ("/quiet/", "/busy/", "/flood/", "/chat/1/", "/slow/", "/echo/", "/hello/"):
        async with connect(app, path) as stream:
            if stream.status_code == 200:
                await stream.receive()
        assert asyncio.all_tasks() == tasks, path

    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith("django_sse")]

    with contextlib.suppress(TimeoutError):
        await eventually(lambda: not threads())
    assert threads() == []


async def test_disconnect_that_comes_with_the_response_is_not_lost(
    application: Make, recorded: Recorded
) -> None:
    app = application(MIDDLEWARE=["tests.project.middleware.leaving"])
    scope = _scope("/quiet/") | {"leave": asyncio.Event()}
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b""}]

    async def receive() -> dict[str, Any]:
        if len(messages) == 1:
            await scope["leave"].wait()
        if not messages:
            # Django's handler, which waits beside the view, has had it.
            await asyncio.Event().wait()
        return messages.pop()

    async def send(message: Any) -> None:
        """Take everything, as servers do whose client is gone."""

    await asyncio.wait_for(app(scope, receive, send), 5)
    assert messages == []
    assert [entry["reason"] for entry in recorded("disconnect")] == ["client"]
