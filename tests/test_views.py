"""The session: one ``SSEView`` on one connection, seen from its client and from itself."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from rest_framework import serializers

from django_sse import (
    Heartbeat,
    InvalidEvent,
    SerializerNotFound,
    ServerSentEvent,
    SSEView,
    StreamClosed,
    StreamFinished,
    aclose_streams,
    apublish,
    sse_path,
)
from django_sse.brokers import use_broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.connection import tasks
from django_sse.connection.roster import roster
from django_sse.testing import StreamEnded, connect

OPENING = b":\n\n"


class Scripted(SSEView):
    """Runs the coroutine function that it is made with, and tells how it ended."""

    script: Any = None
    reasons: Any = None
    heartbeat = None

    async def stream(self) -> None:
        await self.script(self)

    async def disconnect(self) -> None:
        self.reasons.append(self.close_reason)


def scripted(script: Any, cls: type[Scripted] = Scripted) -> tuple[Any, list[str | None]]:
    """A view whose stream is ``script(view)``, and the list of the reasons of its ends."""
    reasons: list[str | None] = []
    return cls.as_view(script=staticmethod(script).__func__, reasons=reasons), reasons


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


# Sending.


async def test_send_writes_each_field_as_it_is_given() -> None:
    async def script(view: SSEView) -> None:
        await view.send("text")
        await view.send({"a": 1}, "e", "1", 2000, "c")
        await view.send([1], event="e", id="2", retry=timedelta(seconds=1), comments="x\ny")
        await view.send(data=5)
        await view.send(ServerSentEvent("d", "e", "3", 7, "c"))
        await view.send(ServerSentEvent({"a": [1]}, id="4"))
        await view.send(event="only")
        await view.send(id="5")
        await view.send(retry=9)
        await view.send(comments="")
        await view.send("")
        await view.send(data=ServerSentEvent("by name"))

    view, reasons = scripted(script)
    async with connect(view) as stream:
        body = await stream.read()
    assert body == OPENING + (
        b"data: text\n\n"
        b'event: e\ndata: {"a":1}\nid: 1\nretry: 2000\n: c\n\n'
        b"event: e\ndata: [1]\nid: 2\nretry: 1000\n: x\n: y\n\n"
        b"data: 5\n\n"
        b"event: e\ndata: d\nid: 3\nretry: 7\n: c\n\n"
        b'data: {"a":[1]}\nid: 4\n\n'
        b"event: only\n\n"
        b"id: 5\n\n"
        b"retry: 9\n\n"
        b":\n\n"
        b"data:\n\n"
        b"data: by name\n\n"
    )
    assert reasons == ["completed"]


async def test_send_refuses_what_it_cannot_send_and_sends_nothing_of_it() -> None:
    async def script(view: SSEView) -> None:
        event = ServerSentEvent("never")
        for extra in ({"event": "e"}, {"id": "1"}, {"retry": 0}, {"comments": ""}):
            with pytest.raises(TypeError, match=r"takes a ServerSentEvent alone.*replace"):
                await view.send(event, **extra)
        for wrong in (
            {},
            {"event": "a\nb"},
            {"id": "\0"},
            {"retry": True},
            {"comments": 5},
            {"data": "\ud800"},
            {"data": {"a": "\ud800"}},
        ):
            with pytest.raises(InvalidEvent):
                await view.send(**wrong)
        await view.send("sent")

    view, reasons = scripted(script)
    async with connect(view) as stream:
        assert await stream.read() == OPENING + b"data: sent\n\n"
    assert reasons == ["completed"]


async def test_several_tasks_send_whole_events() -> None:
    number = 8

    async def script(view: SSEView) -> None:
        async def sender(name: int) -> None:
            for i in range(50):
                await view.send("\n".join([f"{name}:{i}"] * 400), event=str(name), id=str(i))

        async with asyncio.TaskGroup() as tasks:
            for name in range(number):
                tasks.create_task(sender(name))

    view, reasons = scripted(script)
    async with connect(view) as stream:
        await stream.read(timeout=30)
    events = [event for event in stream.blocks if event.data is not None]
    assert len(events) == number * 50
    for name in range(number):
        own = [event for event in events if event.event == str(name)]
        assert [event.id for event in own] == [str(i) for i in range(50)]
        assert all(event.data == "\n".join([f"{name}:{event.id}"] * 400) for event in own)
    assert reasons == ["completed"]


async def test_send_waits_for_a_client_that_does_not_read() -> None:
    sent = 0

    async def script(view: SSEView) -> None:
        nonlocal sent
        while True:
            await view.send("x" * 100_000)
            sent += 1

    view, reasons = scripted(script)
    async with connect(view) as stream:
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 40
        for _ in range(50):
            assert len((await stream.receive()).data) == 100_000
        assert sent > before
    assert reasons == ["client"]


async def test_generator_that_yields_objects_is_a_stream() -> None:
    closed = asyncio.Event()

    class Counting(SSEView):
        async def stream(self) -> AsyncIterator[Any]:
            try:
                yield "a"
                yield {"b": 1}
                yield ServerSentEvent("c", id="7")
                await self.send("d")
                yield [1]
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                closed.set()

    async with connect(Counting) as stream:
        events = [await stream.receive() for _ in range(5)]
    assert events == [
        ServerSentEvent("a"),
        ServerSentEvent('{"b":1}'),
        ServerSentEvent("c", id="7"),
        ServerSentEvent("d"),
        ServerSentEvent("[1]"),
    ]
    assert closed.is_set()


async def test_generator_is_closed_when_its_event_cannot_be_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed = []

    class Wrong(SSEView):
        async def stream(self) -> AsyncIterator[Any]:
            try:
                yield "a"
                yield object()
            finally:
                closed.append(self.close_reason)

    async with connect(Wrong) as stream:
        assert await stream.read() == OPENING + b"data: a\n\n"
        assert isinstance(stream.failure, SerializerNotFound)
    assert closed == [None]
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize(
    ("retry", "setting", "opening"),
    [
        (None, None, b":\n\n"),
        (None, 3000, b"retry: 3000\n\n"),
        (1000, 3000, b"retry: 1000\n\n"),
        (timedelta(seconds=2), None, b"retry: 2000\n\n"),
        (0, 3000, b"retry: 0\n\n"),
    ],
)
async def test_first_bytes_leave_at_once(retry: Any, setting: Any, opening: bytes) -> None:
    class Silent(SSEView):
        async def stream(self) -> None:
            await asyncio.Event().wait()

    with override_settings(DJANGO_SSE={"RETRY": setting, "HEARTBEAT": None}):
        async with connect(Silent.as_view(retry=retry)) as stream:
            await stream.receive_block()
            assert stream.received == opening


# Ends.


async def test_disconnect_runs_once_with_the_reason() -> None:
    async def completed(view: SSEView) -> None:
        await view.send("a")

    async def client(view: SSEView) -> None:
        await view.send("a")
        await asyncio.Event().wait()

    async def closed(view: SSEView) -> None:
        await view.send("a")
        await view.close()
        await asyncio.Event().wait()

    async def error(view: SSEView) -> None:
        await view.send("a")
        raise RuntimeError("expected")

    for script in (completed, client, closed, error):
        view, reasons = scripted(script)
        async with connect(view) as stream:
            assert await stream.receive() == ServerSentEvent("a")
            if script is error:
                with pytest.raises(StreamEnded, match="has failed: RuntimeError") as ended:
                    await stream.receive_end()
                assert ended.value.__cause__ is stream.failure is not None
            elif script is not client:
                await stream.receive_end()
        assert reasons == [script.__name__]


async def test_exception_is_logged_once_and_ends_the_response(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def script(view: SSEView) -> None:
        await view.send("before")
        raise RuntimeError("a fault")

    view, reasons = scripted(script)
    async with connect(view) as stream:
        assert await stream.read() == OPENING + b"data: before\n\n"
        assert isinstance(stream.failure, RuntimeError)
    assert reasons == ["error"]
    [record] = errors(caplog)
    assert record.name == "django_sse"
    assert record.getMessage() == "Scripted.stream() failed."
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a fault"
    known = {name: getattr(record, name) for name in ("view", "path", "user", "close_reason")}
    assert known == {
        "view": f"{__name__}.Scripted",
        "path": "/",
        "user": None,
        "close_reason": None,
    }
    assert record.stream_id  # type: ignore[attr-defined]


async def test_failing_disconnect_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(SSEView):
        async def stream(self) -> None:
            await self.send("a")

        async def disconnect(self) -> None:
            raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        async with connect(Failing) as stream:
            await stream.read()
    [record] = errors(caplog)
    assert record.getMessage().endswith("Failing.disconnect() failed.")


async def test_close_within_the_stream_ends_it_at_its_next_await() -> None:
    steps = []

    async def script(view: SSEView) -> None:
        await view.send("last")
        await view.close()
        steps.append(view.is_open)
        with pytest.raises(StreamClosed, match=r"ended \(closed\)"):
            await view.send("never")
        await view.close()
        steps.append("closed twice")
        await asyncio.Event().wait()
        steps.append("never")

    view, reasons = scripted(script)
    async with connect(view) as stream:
        assert await stream.read() == OPENING + b"data: last\n\n"
    assert steps == [False, "closed twice"]
    assert reasons == ["closed"]


async def test_close_from_another_task_ends_the_stream() -> None:
    views: asyncio.Queue[SSEView] = asyncio.Queue()

    async def script(view: SSEView) -> None:
        await view.send("first")
        views.put_nowait(view)
        await asyncio.Event().wait()

    view, reasons = scripted(script)
    async with connect(view) as stream:
        session = await views.get()
        await session.send("from outside")
        await asyncio.gather(session.close(), session.close())
        assert not session.is_open
        await session.close()
        assert await stream.read() == OPENING + b"data: first\n\ndata: from outside\n\n"
    assert reasons == ["closed"]


async def test_close_sends_what_a_slow_client_has_not_read() -> None:
    views: asyncio.Queue[SSEView] = asyncio.Queue()

    async def script(view: SSEView) -> None:
        views.put_nowait(view)
        for _ in range(100):
            await view.send("x" * 10_000)
        await asyncio.Event().wait()

    view, reasons = scripted(script)
    async with connect(view) as stream:
        session = await views.get()
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(session.close())
        body = await stream.read()
        await closing
    assert body.endswith(b"x\n\n")
    assert body.count(b"data: ") > 6
    assert reasons == ["closed"]


@pytest.mark.parametrize("end", ["client", "closed", "completed"])
async def test_close_in_clean_up_does_not_wait_for_ever(end: str) -> None:
    async def script(view: SSEView) -> None:
        try:
            await view.send("a")
            if end == "closed":
                await view.close()
            if end != "completed":
                await asyncio.Event().wait()
        finally:
            await view.close()

    class Closing(Scripted):
        async def disconnect(self) -> None:
            await self.close()
            await super().disconnect()

    view, reasons = scripted(script, Closing)
    async with connect(view) as stream:
        assert await stream.receive() == ServerSentEvent("a")
        if end != "client":
            await stream.receive_end()
    assert reasons == ["closed" if end == "completed" else end]


async def test_send_after_the_end_raises_and_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused: list[str] = []
    sessions: list[SSEView] = []

    class Late(SSEView):
        async def connect(self) -> None:
            sessions.append(self)
            assert not self.is_open
            with pytest.raises(StreamClosed, match=r"Late cannot send yet.*Send in stream\(\)"):
                await self.send("early")
            with pytest.raises(StreamClosed, match=r"In connect\(\), raise StreamFinished"):
                await self.close()

        async def stream(self) -> None:
            assert self.is_open
            while True:
                await self.send("a")

        async def disconnect(self) -> None:
            assert not self.is_open
            with pytest.raises(StreamClosed) as caught:
                await self.send("late")
            refused.append(str(caught.value))

    async with connect(Late) as stream:
        await stream.receive()
    [text] = refused
    assert text.endswith("Late cannot send any more: its stream has ended (client).")
    with pytest.raises(StreamClosed):
        await sessions[0].send("later still")
    with pytest.raises(StreamClosed):
        sessions[0].start_heartbeat(5)
    assert errors(caplog) == []


@pytest.mark.parametrize("end", ["client", "closed"])
async def test_senders_in_a_task_group_end_quietly(
    end: str, caplog: pytest.LogCaptureFixture
) -> None:
    views: asyncio.Queue[SSEView] = asyncio.Queue()

    async def script(view: SSEView) -> None:
        async def sender() -> None:
            while True:
                await view.send("x" * 10_000)

        views.put_nowait(view)
        async with asyncio.TaskGroup() as outer:
            for _ in range(2):
                outer.create_task(sender())
            async with asyncio.TaskGroup() as inner:
                inner.create_task(sender())

    view, reasons = scripted(script)
    async with connect(view) as stream:
        session = await views.get()
        await stream.receive()
        if end == "closed":
            closing = asyncio.create_task(session.close())
            await stream.read()
            await closing
    assert reasons == [end]
    assert errors(caplog) == []


async def test_fault_beside_a_closed_stream_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def script(view: SSEView) -> None:
        raise ExceptionGroup("both", [StreamClosed("closed"), RuntimeError("a fault")])

    view, reasons = scripted(script)
    async with connect(view) as stream:
        await stream.read()
        assert isinstance(stream.failure, ExceptionGroup)
    assert reasons == ["error"]
    assert len(errors(caplog)) == 1


async def test_nothing_is_sent_after_the_end_by_a_serializer_that_was_slow() -> None:
    started, proceed = threading.Event(), threading.Event()
    sessions: list[SSEView] = []
    outcome: list[BaseException | None] = []

    class Thing:
        pass

    class SlowSerializer(serializers.BaseSerializer[Thing]):
        def to_representation(self, instance: Thing) -> str:
            started.set()
            assert proceed.wait(10)
            return "late"

    class Slow(SSEView):
        serializer_classes = {Thing: SlowSerializer}
        serialize_in_thread = True

        async def stream(self) -> None:
            sessions.append(self)
            await asyncio.Event().wait()

    messages: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def recorded(message: Any) -> None:
            messages.append(message)
            await send(message)

        await Slow.as_asgi()(scope, receive, recorded)

    async with connect(application) as stream:
        await stream.receive_block()
        sending = asyncio.create_task(sessions[0].send(Thing()))
        await asyncio.to_thread(started.wait, 10)
        await sessions[0].close()
        proceed.set()
        [error] = await asyncio.gather(sending, return_exceptions=True)
        outcome.append(error)  # type: ignore[arg-type]
    assert isinstance(outcome[0], StreamClosed)
    assert [message.get("more_body") for message in messages] == [None, True, False]


async def test_finished_stream_answers_204() -> None:
    disconnected = []

    class Finished(SSEView):
        async def connect(self) -> None:
            raise StreamFinished

        async def disconnect(self) -> None:
            disconnected.append(self)

    async with connect(Finished) as stream:
        assert (stream.status_code, await stream.read()) == (204, b"")
    assert disconnected == []


async def test_head_ends_without_a_stream() -> None:
    async def script(view: SSEView) -> None:
        raise AssertionError("never")

    view, reasons = scripted(script)
    async with connect(view, method="HEAD") as stream:
        assert (stream.status_code, await stream.read()) == (200, b"")
        assert stream.headers["content-type"] == "text/event-stream"
    assert reasons == ["completed"]


# What a stream has at hand.


@pytest.mark.parametrize(
    ("headers", "path", "expected"),
    [
        ({}, "/", None),
        ({"Last-Event-ID": "7"}, "/", "7"),
        ({"Last-Event-ID": "é😀"}, "/", "é😀"),
        ({}, "/?last_event_id=%C3%A9", "é"),
        ({"Last-Event-ID": "7"}, "/?last_event_id=8", "7"),
        ({"Last-Event-ID": ""}, "/?last_event_id=8", ""),
    ],
)
async def test_last_event_id_is_as_the_client_was_sent_it(
    headers: dict[str, str], path: str, expected: str | None
) -> None:
    async def script(view: SSEView) -> None:
        await view.send([view.last_event_id])

    view, _ = scripted(script)
    async with connect(view, path, headers=headers) as stream:
        text = (await stream.receive()).data
    assert text == ("[null]" if expected is None else f'["{expected}"]')


async def test_headers_are_those_of_a_stream_and_the_views_own() -> None:
    class Own(SSEView):
        async def connect(self) -> None:
            self.headers["X-Own"] = "yes"
            self.headers["Cache-Control"] = "no-cache"

        async def stream(self) -> None:
            pass

    async with connect(Own) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["x-own"] == "yes"
        assert stream.headers["cache-control"] == "no-cache"
    async with connect(scripted(lambda view: asyncio.sleep(0))[0]) as stream:
        assert stream.headers["cache-control"] == "no-store, no-transform"
        assert "x-own" not in stream.headers
        assert "content-encoding" not in stream.headers


async def test_sync_work_of_a_stream_runs_on_one_thread_of_the_pool() -> None:
    async def script(view: SSEView) -> None:
        names = {await sync_to_async(threading.get_ident)() for _ in range(5)}
        names |= set(await asyncio.gather(*[sync_to_async(threading.get_ident)() for _ in "ab"]))
        await view.send([len(names), threading.get_ident() in names])

    view, _ = scripted(script)
    async with connect(view) as stream:
        assert (await stream.receive()).data == "[1,false]"


# Mistakes that are found when the class is made.


async def coroutine(self: Any) -> None:
    """What a hook should be."""


def function(self: Any) -> None:
    """What no hook may be."""


def generator(self: Any) -> Iterator[int]:
    yield 1


async def asynchronous_generator(self: Any) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("stream", function),
        ("stream", generator),
        ("stream", 5),
        ("stream", None),
        ("connect", function),
        ("connect", asynchronous_generator),
        ("disconnect", function),
        ("get_groups", function),
        ("get_topics", function),
        ("snapshot", generator),
    ],
)
@pytest.mark.parametrize("inherited", [False, True])
def test_hook_that_is_no_coroutine_is_refused(name: str, hook: Any, inherited: bool) -> None:
    message = rf"Wrong\.{name}\(\) must be an `async def`.*sync_to_async"
    bases: tuple[type, ...] = (SSEView,)
    members = {name: hook}
    if inherited:
        bases, members = (type("Mixin", (), members), SSEView), {}
    with pytest.raises(ImproperlyConfigured, match=message):
        type("Wrong", bases, members)


@pytest.mark.parametrize("hook", [coroutine, asynchronous_generator])
def test_hook_that_is_a_coroutine_is_accepted(hook: Any) -> None:
    assert issubclass(type("Right", (SSEView,), {"stream": hook}), SSEView)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("heartbeat", 5, r"\.heartbeat must be a Heartbeat or None, got 5\."),
        ("heartbeat", {"PERIOD": 5}, r"\.heartbeat must be a Heartbeat or None, got {"),
        ("retry", -1, r"\.retry: retry must be a whole number of milliseconds"),
        ("retry", "5", r"\.retry: retry must be a whole number of milliseconds"),
        ("serializer_classes", {int: int}, r"\.serializer_classes must name"),
        ("serializer_classes", [int], r"\.serializer_classes must be a dict of types"),
        ("serializer_classes", {"shop.Order": int}, r"\.serializer_classes must have types as its"),
        ("renderer_class", "json", r"\.renderer_class must be a subclass of rest_framework"),
        ("groups", "orders", r"\.groups must be a list of channel-layer groups, got 'orders'"),
        ("groups", ["a b"], r"\.groups must have names of ASCII letters.*got 'a b'"),
        ("topics", [5], r"\.topics: A topic must be a str"),
        ("topics", 5, r"\.topics: Topics must be a str or several, got 5"),
        ("overflow", "block", r"\.overflow must be one of"),
        ("recheck_period", "60", r"\.recheck_period must be a number of seconds"),
        ("recheck_period", -1, r"\.recheck_period must be a number of seconds"),
        ("max_duration", timedelta(-1), r"\.max_duration must be a number of seconds"),
        ("max_duration", True, r"\.max_duration must be a number of seconds"),
        ("outbox_limit", 1.5, r"\.outbox_limit must be a whole number above 0"),
        ("max_connections_per_user", 0, r"\.max_connections_per_user must be a whole number"),
    ],
)
def test_attribute_that_is_wrong_is_refused(attribute: str, value: Any, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="Wrong" + message):
        type("Wrong", (SSEView,), {attribute: value, "stream": coroutine})
    with pytest.raises(ImproperlyConfigured, match="Scripted" + message):
        Scripted.as_view(**{attribute: value})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"revoke": coroutine}, r"Wrong\.revoke takes the place of what SSEView needs"),
        ({"announce": coroutine}, r"Wrong\.announce takes the place.*Give it another name"),
        ({"event_loop": 3}, r"Wrong\.event_loop takes the place"),
        ({"serialize": coroutine}, r"Wrong\.serialize\(\) must be a plain `def`"),
    ],
)
def test_name_that_the_view_needs_itself_is_refused(members: Any, message: str) -> None:
    for bases in ((SSEView,), (type("Mixin", (), members), SSEView)):
        with pytest.raises(ImproperlyConfigured, match=message):
            type("Wrong", bases, {"stream": coroutine, **members})


def test_hook_is_no_argument_of_as_view() -> None:
    for name in ("stream", "connect", "revoke"):
        with pytest.raises(ImproperlyConfigured, match=rf"as_view\(\) takes.* {name} is none"):
            Scripted.as_view(**{name: coroutine})


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, r"serialize\(\) must return a str, got None"),
        (b"bytes", r"serialize\(\) must return a str, got b'bytes'"),
    ],
)
async def test_serialize_has_to_return_text(returned: Any, message: str) -> None:
    class Mute(SSEView):
        def serialize(self, obj: Any) -> str:
            return returned  # type: ignore[no-any-return]

        async def stream(self) -> None:
            with pytest.raises(TypeError, match=message):
                await self.send({"a": 1}, event="never")
            await self.send("text")

    async with connect(Mute) as stream:
        assert await stream.read() == OPENING + b"data: text\n\n"


async def test_what_a_stream_returns_is_not_lost_in_silence() -> None:
    class Returning(SSEView):
        async def stream(self) -> Any:
            return asynchronous_generator(self)

    async with connect(Returning) as stream:
        await stream.read()
        assert "Returning returned <async_generator" in str(stream.failure)


async def test_coroutine_that_was_not_awaited_is_named() -> None:
    async def script(view: SSEView) -> None:
        forgotten = coroutine(view)
        with pytest.raises(TypeError, match="`await` it"):
            await view.send(forgotten)
        forgotten.close()

    view, _ = scripted(script)
    async with connect(view) as stream:
        await stream.receive_end()


@pytest.mark.parametrize("name", ["send_body", "send_headers", "send_response"])
async def test_methods_of_a_plain_consumer_send_nothing(name: str) -> None:
    arguments = {"send_body": (b"x",), "send_headers": (), "send_response": (200, b"x")}

    async def script(view: SSEView) -> None:
        with pytest.raises(TypeError, match=rf"Scripted\.{name}\(\) is of a plain Channels"):
            await getattr(view, name)(*arguments[name])

    view, _ = scripted(script)
    async with connect(view) as stream:
        assert await stream.read() == OPENING


async def test_stream_that_swallows_its_cancellation_is_left_to_itself(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(tasks, "GOODBYE_SECONDS", 0.02)
    swallowed = []
    over = asyncio.Event()

    async def script(view: SSEView) -> None:
        await view.send("a")
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                swallowed.append(view.close_reason)

    view, reasons = scripted(script)
    async with connect(view) as stream:
        await stream.receive()
    over.set()
    assert reasons == ["client"]
    assert swallowed == ["client"] * 4
    assert "Scripted.stream() does not end when it is cancelled" in caplog.text


async def test_stream_has_time_to_clean_up_after_its_cancellation() -> None:
    cleaned = []

    async def script(view: SSEView) -> None:
        try:
            await view.send("a")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.3)
            cleaned.append(view.close_reason)

    view, reasons = scripted(script)
    async with connect(view) as stream:
        await stream.receive()
    assert (cleaned, reasons) == (["client"], ["client"])


async def test_close_in_disconnect_waits_for_nothing() -> None:
    class Closing(Scripted):
        async def disconnect(self) -> None:
            began = asyncio.get_running_loop().time()
            await self.close()
            self.reasons.append((self.close_reason, asyncio.get_running_loop().time() - began))

    async def script(view: SSEView) -> None:
        await asyncio.Event().wait()

    view, reasons = scripted(script, Closing)
    async with connect(view) as stream:
        await stream.receive_block()
        for opened in roster.streams():
            opened.shut_down()
        await stream.receive_end()
    [(reason, seconds)] = reasons
    assert reason == "shutdown"
    assert seconds < 0.5


def test_attributes_that_are_right_are_accepted() -> None:
    assert repr(SSEView.heartbeat) == "the value in DJANGO_SSE"
    assert Scripted.as_view(heartbeat=None, retry=timedelta(seconds=1), recheck_period=0)
    assert Scripted.as_view(max_duration=timedelta(hours=1), recheck_period=60.5)
    assert Scripted.as_view(outbox_limit=4096, max_connections_per_user=None)
    assert Scripted.as_view(heartbeat=Heartbeat(5), retry=None, serializer_classes={})
    with pytest.raises(TypeError, match="no_such_attribute"):
        Scripted.as_view(no_such_attribute=1)


async def test_attribute_may_be_a_property() -> None:
    class Own(SSEView):
        @property
        def retry(self) -> int:  # type: ignore[override]
            return int(self.kwargs["retry"])

        async def stream(self) -> None:
            pass

    async with connect(Own, kwargs={"retry": "7"}) as stream:
        assert await stream.read() == b"retry: 7\n\n"


async def test_view_without_a_stream_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Empty(SSEView):
        pass

    class Choosy(SSEView):
        async def connect(self) -> None:
            pass

    says = r"must define `async def stream\(self\)`, or topics"
    with pytest.raises(ImproperlyConfigured, match=rf"Empty {says}"):
        Empty.as_view()
    with pytest.raises(ImproperlyConfigured, match=rf"SSEView {says}"):
        sse_path("", SSEView)
    assert Empty.as_view(topics=["a"])
    # It might have refused everybody.
    async with connect(Choosy) as stream:
        assert stream.status_code == 500
    assert re.search(rf"Choosy {says}", caplog.text)


# Following topics.


class Followed(Scripted):
    """Follows the topic ``a``, after a snapshot."""

    topics = ["a"]

    async def snapshot(self) -> AsyncIterator[str]:
        yield "snapshot"


async def test_stream_may_do_the_default_and_more(broker: MemoryBroker) -> None:
    async def script(view: SSEView) -> None:
        await view.send("before")
        # What super().stream() is in a view of one's own.
        await SSEView.stream(view)
        await view.send("never")

    view, reasons = scripted(script, Followed)
    async with connect(view) as stream:
        assert [(await stream.receive()).data for _ in range(2)] == ["before", "snapshot"]
        await apublish("a", "one")
        assert (await stream.receive()).data == "one"
    await apublish("a", "two")
    headers = {"Last-Event-ID": stream.last_event_id}
    async with connect(view, headers=headers) as stream:
        # It goes on where it was, and needs no snapshot.
        assert [(await stream.receive()).data for _ in range(2)] == ["before", "two"]
        await stream.receive_nothing()
    assert reasons == ["client", "client"]


async def test_follow_without_topics_says_so(caplog: pytest.LogCaptureFixture) -> None:
    view, reasons = scripted(SSEView.follow)
    async with connect(view) as stream:
        assert await stream.read() == OPENING
        assert isinstance(stream.failure, ImproperlyConfigured)
    assert reasons == ["error"]
    assert "Scripted has no topics to follow: define `topics`" in caplog.text


class Hasty(Followed):
    outbox_limit = 1000


async def test_stream_that_follows_too_late_ends_and_its_client_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    published = asyncio.Event()

    async def script(view: SSEView) -> None:
        await published.wait()
        await view.follow()

    before = use_broker(MemoryBroker("", {"HISTORY": 2}))
    try:
        view, reasons = scripted(script, Hasty)
        first = await apublish("a", "seen")
        async with connect(view, headers={"Last-Event-ID": first}) as stream:
            for number in range(5):
                await apublish("a", f"{number} " * 300)
            published.set()
            await stream.receive_end()
        # It comes back with the same id, which is not held any more.
        async with connect(view, headers={"Last-Event-ID": first}) as stream:
            assert (await stream.receive()).event == "reset"
    finally:
        use_broker(before)
    assert reasons == ["overflow", "client"]
    assert errors(caplog) == []


@pytest.mark.parametrize("last_id", [None, "1-0", "no id"])
async def test_stream_without_topics_at_the_moment_is_one_that_nothing_is_published_to(
    broker: MemoryBroker, last_id: str | None
) -> None:
    class FollowsNothing(SSEView):
        heartbeat = None

        async def get_topics(self) -> Any:
            return iter(())

        async def snapshot(self) -> None:
            await self.send("snapshot")

    class FollowsByItself(FollowsNothing):
        async def stream(self) -> None:
            await self.send("own")
            await self.follow()

    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    async with connect(FollowsNothing, headers=headers) as stream:
        events = [await stream.receive() for _ in range(1 if last_id is None else 2)]
        assert [event.event for event in events[:-1]] == ["reset"][: len(events) - 1]
        assert events[-1].data == "snapshot"
        [view] = roster.streams()
        assert view.describe()["topics"] == []
        await aclose_streams(stream=view.stream_id)
        assert (await stream.receive()).event == "revoked"
    async with connect(FollowsByItself, headers=headers) as stream:
        data = [(await stream.receive()).data for _ in range(1 if last_id is None else 2)]
        assert data[-1] == "own"
        await stream.receive_nothing()


@pytest.mark.parametrize(
    ("topics", "status"),
    [(["a", "a" * 201], 404), (["a\n"], 404), ([5], 500), (5, 500), ("a", 500)],
)
async def test_topics_made_of_what_the_client_said_may_not_be_there(
    caplog: pytest.LogCaptureFixture, topics: Any, status: int
) -> None:
    class Asked(Followed):
        async def get_topics(self) -> Any:
            return topics

    async with connect(Asked.as_view(reasons=[])) as stream:
        assert stream.status_code == status
        if status == 404:
            assert await stream.json() == {"detail": "Not found."}
    [record] = [it for it in errors(caplog) if it.name != "django.request" or status == 500]
    assert record.levelno == (logging.WARNING if status == 404 else logging.ERROR)
    assert "opic" in caplog.text


async def test_topics_of_the_class_that_are_wrong_are_a_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Wrong(Followed):
        @property
        def topics(self) -> list[str]:  # type: ignore[override]
            return ["a\n"]

    async with connect(Wrong.as_view(reasons=[])) as stream:
        assert stream.status_code == 500
    assert "InvalidTopic" in caplog.text


async def test_loss_that_is_told_after_the_end_begins_nothing(broker: MemoryBroker) -> None:
    views: list[Any] = []

    class Noted(Followed):
        stream = SSEView.stream

        async def connect(self) -> None:
            views.append(self)

    async with connect(Noted.as_view(reasons=[])) as stream:
        assert (await stream.receive()).data == "snapshot"
        [view] = views
        view.end("closed")
        tasks = asyncio.all_tasks()
        view._subscription.lose()
        assert asyncio.all_tasks() == tasks
        await stream.receive_end()
        assert b"reset" not in stream.received


async def test_stream_that_cancels_itself_is_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    async def script(view: SSEView) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    view, reasons = scripted(script)
    async with connect(view) as stream:
        assert await stream.read() == OPENING
    assert reasons == ["error"]
    assert [it.getMessage() for it in errors(caplog)] == ["Scripted.stream() cancelled itself."]


@pytest.mark.parametrize(
    ("query", "header", "seen"),
    [
        ("", None, None),
        ("?last_event_id=1", None, "1"),
        # Polyfills, which send no header.
        ("?lastEventId=2", None, "2"),
        ("?lastEventID=2", None, "2"),
        ("?Last-Event-ID=2", None, "2"),
        ("?Last-Event-Id=2", None, "2"),
        # A page's own is older than what a polyfill adds to it.
        ("?last_event_id=1&lastEventId=2", None, "2"),
        ("?lastEventId=2&last_event_id=1", None, "2"),
        ("?last_event_id=1&lastEventId=", None, "1"),
        ("?last_event_id=", None, ""),
        ("?lastEventIds=2&event=3", None, None),
        # The header counts.
        ("?lastEventId=2&last_event_id=1", "3", "3"),
    ],
)
async def test_last_id_is_read_as_each_client_sends_it(
    query: str, header: str | None, seen: str | None
) -> None:
    class Echo(SSEView):
        async def stream(self) -> None:
            await self.send([self.last_event_id])

    headers = {} if header is None else {"Last-Event-ID": header}
    async with connect(Echo, f"/{query}", headers=headers) as stream:
        assert json.loads((await stream.receive()).data) == [seen]


async def test_polyfill_that_comes_back_misses_nothing(broker: MemoryBroker) -> None:
    class News(SSEView):
        topics = ["news"]

    first = await apublish("news", "seen")
    await apublish("news", "missed")
    async with connect(News, f"/?lastEventId={first}") as stream:
        assert (await stream.receive()).data == "missed"
