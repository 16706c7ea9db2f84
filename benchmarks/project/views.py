"""Ordinary views: what streams are compared with, and what makes them send."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from django_sse import alatest_event_id, apublish, publish

from .reading import ReadingSerializer, reading


class Ordinary(APIView):
    """A DRF view as any other, for those who are logged in."""

    permission_classes = [IsAuthenticated]
    renderer_classes = [JSONRenderer]

    def get(self, request: Request) -> Response:
        return Response({"user": request.user.pk})


async def own(request: HttpRequest) -> StreamingHttpResponse:
    """Stream in Django's own way."""

    async def body() -> AsyncIterator[bytes]:
        yield b":\n\n"
        await asyncio.get_running_loop().create_future()

    return StreamingHttpResponse(body(), content_type="text/event-stream")


async def known(request: HttpRequest) -> HttpResponse:
    """Say who is logged in, in the least that Django needs for it."""
    user = await request.auser()
    return HttpResponse(str(user.pk))


async def warm_up(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ready")


async def serialize(request: HttpRequest) -> HttpResponse:
    """Do with DRF alone, so many times, what the burst does for each of its events."""
    obj, serializer, renderer = reading(), ReadingSerializer(), JSONRenderer()
    for _ in range(int(request.GET["count"])):
        renderer.render(serializer.to_representation(obj))
    return HttpResponse("done")


async def collect(request: HttpRequest) -> HttpResponse:
    """Collect garbage, so that all objects that are left are referenced."""
    return JsonResponse(gc.collect(), safe=False)


async def publish_async(request: HttpRequest) -> HttpResponse:
    """Publish so many events of so many bytes: at a rate, or as fast as may be."""
    topic, send = request.GET.get("topic", "readings"), sender(request.GET.get("by", "apublish"))
    size, rate = int(request.GET["size"]), float(request.GET.get("rate", 0))
    begun = time.monotonic()
    for number in range(int(request.GET["count"])):
        await send(topic, f"t={time.monotonic_ns()};".ljust(size, "x"))
        pause = begun + (number + 1) / rate - time.monotonic() if rate else 0
        await asyncio.sleep(max(pause, 0))
    return JsonResponse(time.monotonic() - begun, safe=False)


async def cursor(request: HttpRequest) -> HttpResponse:
    """Return the newest event's id."""
    return HttpResponse(await alatest_event_id())


def sender(name: str) -> Any:
    """Return what publishes: this package, or django-eventstream."""
    if name == "eventstream":
        from django_eventstream import send_event  # noqa: PLC0415 - it may not be installed

        async def send(topic: str, text: str) -> None:
            send_event(topic, "message", text, json_encode=False, async_publish=False)

        return send
    return apublish


def publish_sync(request: HttpRequest) -> HttpResponse:
    """Publish so many events of so many bytes from a thread."""
    text = "x" * int(request.GET["size"])
    for _ in range(int(request.GET["count"])):
        publish("nobody-follows", text)
    return HttpResponse("done")
