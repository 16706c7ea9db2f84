"""A module as a user would write it: what type checkers see of the public API.

``mypy --strict`` reads it, and pytest imports it, so that it is right in both worlds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, assert_type

from django.contrib.auth.models import User
from django.urls import URLPattern
from rest_framework import serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request

from django_sse import (
    Heartbeat,
    InvalidEvent,
    SerializerNotFound,
    ServerSentEvent,
    SSEError,
    SSEView,
    StreamClosed,
    StreamFinished,
    apublish_template,
    publish,
    publish_template,
    serializes,
    sse_path,
)
from django_sse.asgi import ASGIHandler, get_asgi_application
from django_sse.contrib import turbo
from django_sse.contrib.datastar import patch_elements, patch_signals
from django_sse.contrib.htmx import delete, oob
from django_sse.events import EventDecoder
from django_sse.testing import StreamClient, connect


@dataclass
class Point:
    """Something to send."""

    x: int
    y: int


def register() -> None:
    """Register a serializer: the decorator keeps its class as it is."""

    @serializes(Point)
    class PointSerializer(serializers.Serializer[Point]):
        x = serializers.IntegerField()
        y = serializers.IntegerField()

    assert_type(PointSerializer, type[PointSerializer])


class CompactSerializer(serializers.BaseSerializer[Point]):
    """Another one, for one view."""

    def to_representation(self, instance: Point) -> Any:
        return [instance.x, instance.y]


async def beat() -> ServerSentEvent:
    """Return the event of a beat."""
    return ServerSentEvent("beat")


class Coroutine(SSEView):
    """A stream that sends."""

    serializer_classes = {Point: CompactSerializer}
    serialize_in_thread = True
    permission_classes = [IsAuthenticated]
    renderer_class = JSONRenderer
    heartbeat = Heartbeat(5, beat)
    retry = timedelta(seconds=3)
    groups = ["points"]

    async def connect(self) -> None:
        self.headers["X-Own"] = "yes"
        if self.request.query_params.get("over"):
            raise StreamFinished

    async def stream(self) -> None:
        assert_type(self.request, Request)
        assert_type(self.headers, dict[str, str])
        assert_type(self.last_event_id, str | None)
        assert_type(self.is_open, bool)
        assert_type(self.close_reason, str | None)
        assert_type(self.serialize(Point(1, 2)), str)
        await self.send(Point(1, 2))
        await self.send(Point(1, 2), event="point", id="7", retry=2000, comments="c")
        await self.send("text", "event", "id", timedelta(seconds=1), "comments")
        await self.send(ServerSentEvent(Point(1, 2), id="8"))
        await self.send(5, id=5)  # type: ignore[arg-type]
        self.start_heartbeat(5)
        self.start_heartbeat(timedelta(seconds=5), ServerSentEvent("beat"))
        self.start_heartbeat(Heartbeat(5))
        self.start_heartbeat(event=beat)
        self.stop_heartbeat()
        try:
            await asyncio.gather(self.send("a"), self.send("b"))
        except StreamClosed:
            await self.close()

    async def disconnect(self) -> None:
        assert self.close_reason is not None

    async def get_groups(self) -> Iterable[str]:
        return [f"points-{self.kwargs['shop']}"]

    def get_serializer_context(self) -> dict[str, Any]:
        return super().get_serializer_context() | {"extra": 1}

    def get_renderer(self) -> BaseRenderer:
        return JSONRenderer()

    async def point_moved(self, message: dict[str, Any]) -> None:
        """Handle a message of a group."""
        await self.send(Point(**message["point"]))


class Generator(SSEView):
    """A stream that yields."""

    heartbeat = None
    retry = 2000

    async def stream(self) -> AsyncIterator[Point | ServerSentEvent]:
        yield Point(1, 2)
        yield ServerSentEvent("text", event="event")


def routes() -> list[URLPattern]:
    """Return addresses; what is no stream is for its runtime check to find."""
    return [
        sse_path("a/<int:shop>/", Coroutine, name="a"),
        sse_path("b/", Generator.as_view(heartbeat=Heartbeat(None)), {"extra": 1}),
    ]


def events() -> None:
    """Make, read and decode events."""
    event = ServerSentEvent("data", event="e", id="1", retry=timedelta(seconds=1), comments="c")
    assert_type(event.event, str | None)
    assert_type(event.id, str | None)
    assert_type(event.retry, int | None)
    assert_type(event.comments, str | None)
    assert_type(event.encode(), bytes)
    decoder = EventDecoder()
    assert_type(decoder.feed(event.encode()), list[ServerSentEvent])
    assert_type(decoder.last_event_id, str)
    assert_type(decoder.retry, int | None)
    ServerSentEvent("data", id=7)  # type: ignore[arg-type]


def heartbeats() -> None:
    """Make heartbeats of every kind."""
    Heartbeat(None)
    Heartbeat(0.5, {"event": "beat", "data": ""})
    Heartbeat(timedelta(seconds=5), "project.beats.beat")
    Heartbeat(5, lambda: ServerSentEvent("beat"))
    Heartbeat(5, ServerSentEvent("beat"))
    assert_type(Heartbeat(5).period, float)
    Heartbeat("5s")  # type: ignore[arg-type]
    Heartbeat(5, lambda: "beat")  # type: ignore[arg-type, return-value]


def errors(error: SSEError) -> object:
    """Tell errors apart."""
    if isinstance(error, InvalidEvent):
        assert_type(error.field, str)
        return error.value
    if isinstance(error, SerializerNotFound):
        assert_type(error.view, type | None)
        return error.type
    return None


def serve() -> ASGIHandler:
    """Make the application."""
    return get_asgi_application()


async def check(user: User) -> None:
    """Test a stream, as a user's tests do."""
    async with connect(serve(), "/a/7/", headers={"X-Own": "1"}, user=user) as stream:
        assert_type(stream, StreamClient)
        assert_type(stream.status_code, int)
        assert_type(stream.headers["content-type"], str)
        assert_type(await stream.receive(timeout=1), ServerSentEvent)
        await stream.receive_nothing(timeout=0.1)
        assert_type(stream.received, bytes)
        assert_type(stream.blocks, list[ServerSentEvent])
    async with connect(Coroutine, method="POST", json={"a": 1}, kwargs={"shop": 7}) as stream:
        await stream.receive_end()


def test_module_of_a_user_works() -> None:
    assert [route.name for route in routes()] == ["a", None]
    assert errors(InvalidEvent("x", field="id", value=5)) == 5
    assert errors(SerializerNotFound("x", type=int, view=None)) is int
    assert errors(SSEError("x")) is None


class Rendered(SSEView[Point]):
    """A view that sends templates, and the ways to publish them."""

    async def stream(self) -> None:
        await self.send_template("row.html", {"a": 1}, event="row", request=True, using="jinja2")
        await self.send_template(["a.html", "b.html"], wrap=oob)
        await self.send_template("a.html", wrap=patch_elements)
        await self.send_template("a.html", wrap=partial(turbo.append, target="rows"))
        await self.send_template("a.html", wrap=len)  # type: ignore[arg-type]
        await self.send(patch_signals({"a": 1}))
        assert_type(await apublish_template("a", "row.html", {"a": 1}, key="k"), str)

    def publish(self) -> None:
        assert_type(publish_template(["a", "b"], "row.html", wrap=oob, on_commit=False), str | None)
        publish("a", delete("#a") + turbo.remove("a"))
        publish("a", patch_elements("<b>", "#a", mode="append"))
        oob("<b>", "#a", "below")  # type: ignore[arg-type]
        patch_elements("<b>", mode="below")  # type: ignore[arg-type]
        turbo.replace("<b>", "a", method="slowly")  # type: ignore[arg-type]


class TypedPoints(SSEView[Point]):
    """A view that says what it sends: mypy knows where it does not."""

    events = {"point": Point, "end": None}

    async def stream(self) -> None:
        await self.send(Point(1, 2), event="point")
        await self.send(ServerSentEvent("text"))
        await self.send("text", event="end")
        await self.send(7)  # type: ignore[arg-type]


class Untyped(SSEView):
    """A view that does not may send anything."""

    async def stream(self) -> None:
        await self.send(7)
        await self.send(Point(1, 2))
