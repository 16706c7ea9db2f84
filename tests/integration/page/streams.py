"""Streams whose pages are looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from rest_framework import serializers
from rest_framework.permissions import IsAuthenticated

from django_sse import ServerSentEvent, SSEView, StreamFinished, publish, sse_path

_STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def policy(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Forbid everything that comes from elsewhere, and scripts and styles in a page."""

    def middleware(request: HttpRequest) -> Any:
        response = get_response(request)
        response["Content-Security-Policy"] = _STRICT
        return response

    return middleware


class Kinds(SSEView):
    """Send an event of *each kind*, and stay open.

    Its ids go on from where the client was.
    """

    permission_classes = []
    retry = 200

    async def stream(self) -> None:
        number = int(self.last_event_id or 0) + 1
        await self.send(
            {"number": number, "nested": {"list": [1, 2.5, None, "<b>ä</b>"]}},
            event="created",
            id=str(number),
        )
        await self.send("first line\nsecond line", id=str(number + 1))
        await self.send("", event="reset")
        await self.send(ServerSentEvent(id=str(number + 2)))
        await self.send(ServerSentEvent(comments="a remark"))
        await asyncio.Event().wait()


class Flood(SSEView):
    """A thousand events a second, for ten seconds."""

    permission_classes = []

    async def stream(self) -> AsyncIterator[ServerSentEvent]:
        for number in range(10_000):
            yield ServerSentEvent({"number": number, "text": "x" * 100}, event=f"e{number % 3}")
            if number % 10 == 9:
                await asyncio.sleep(0.01)


class Members(SSEView):
    permission_classes = [IsAuthenticated]
    topics = ["members"]


class Finished(SSEView):
    permission_classes = []

    async def connect(self) -> None:
        raise StreamFinished


class News(SSEView):
    permission_classes = []
    topics = ["page-news"]
    retry = 200


class PromptSerializer(serializers.Serializer[Any]):
    prompt = serializers.CharField(max_length=20, help_text="What to repeat.")
    times = serializers.IntegerField(min_value=1, default=2)
    style = serializers.ChoiceField(choices=[("loud", "Loud"), ("quiet", "Quiet")])
    tags = serializers.ListField(child=serializers.CharField(), required=False)


class Repeat(SSEView):
    """Repeat a prompt."""

    permission_classes = []
    http_method_names = ["post"]
    serializer_class = PromptSerializer

    async def connect(self) -> None:
        prompt = PromptSerializer(data=self.request.data)
        prompt.is_valid(raise_exception=True)
        self.prompt = prompt.validated_data

    async def stream(self) -> None:
        for _ in range(self.prompt["times"]):
            await self.send(dict(self.prompt))


def announce(request: HttpRequest) -> HttpResponse:
    publish("page-news", {"text": request.GET["text"]}, event="announced")
    return HttpResponse(status=204)


urlpatterns = [
    sse_path("kinds/", Kinds),
    sse_path("flood/", Flood),
    sse_path("members/", Members),
    sse_path("finished/", Finished),
    sse_path("news/", News),
    sse_path("repeat/", Repeat),
    path("announce/", announce),
    path("accounts/", include("rest_framework.urls")),
]
