"""The addresses of the streams, and what tests ask of the server's process."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import sys
from contextlib import suppress
from typing import Any

from channels.layers import get_channel_layer
from django.contrib.auth import authenticate, login
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from django_sse import alatest_event_id, apublish, sse_path
from django_sse.brokers import get_broker
from django_sse.exceptions import EventTooLarge, InvalidTopic, PublishFailed
from django_sse.monitoring.metrics import stats
from django_sse.topics.orders import CONTROL

from . import streams


def sign_in(request: HttpRequest) -> HttpResponse:
    """Log ``demo`` in."""
    user = authenticate(request, username="demo", password="demo")
    assert user is not None
    login(request, user)
    return HttpResponse("ok")


async def publish(request: HttpRequest) -> HttpResponse:
    """Publish an event of ``size`` bytes for ``topic``."""
    data = request.GET.get("data", "") + "x" * int(request.GET.get("size", 0))
    try:
        return HttpResponse(await apublish(request.GET["topic"], data))
    except InvalidTopic:
        return HttpResponse(status=400)
    except EventTooLarge:
        return HttpResponse(status=413)


async def flow(request: HttpRequest) -> HttpResponse:
    """Publish events for one of so many ``topics`` after another, and say how many it were."""
    loop, published = asyncio.get_running_loop(), 0
    end = loop.time() + float(request.GET["seconds"])
    while loop.time() < end:
        # A server that has more to do than it can may not do it in time.
        with suppress(PublishFailed):
            await apublish(f"topic-{published % int(request.GET['topics'])}", "x" * 200)
            published += 1
        await asyncio.sleep(0.02)
    return HttpResponse(str(published))


async def latest(request: HttpRequest) -> HttpResponse:
    """Tell the newest id."""
    return HttpResponse(await alatest_event_id())


async def tell_group(request: HttpRequest) -> HttpResponse:
    """Send a message to the group of ``Chat``, unchecked."""
    layer: Any = get_channel_layer()
    await layer.group_send("room", json.loads(request.GET["message"]))
    return HttpResponse("ok")


async def order(request: HttpRequest) -> HttpResponse:
    """Put any bytes where orders to all processes are expected."""
    head = bytes.fromhex(request.GET["head"])
    return HttpResponse(str(await get_broker().apublish([CONTROL], head, timeout=5)))


async def inside(request: HttpRequest) -> JsonResponse:
    """Tell what the process holds."""
    if "collect" in request.GET:
        gc.collect()
        if sys.platform == "linux":
            # What is free, but kept by the C library for later, goes back to the system.
            getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    return JsonResponse({**stats(), "tasks": len(asyncio.all_tasks())})


urlpatterns = [
    sse_path("topics/<path:topic>/", streams.Topical),
    sse_path("private/<path:topic>/", streams.Private),
    sse_path("ticketed/<path:topic>/", streams.Ticketed),
    sse_path("hesitant/<path:topic>/", streams.Hesitant),
    sse_path("echo/", streams.Echo),
    sse_path("ticking/", streams.Ticking),
    sse_path("flood/", streams.Flood),
    sse_path("headers/", streams.Headers),
    sse_path("posting/", streams.Posting),
    sse_path("chat/", streams.Chat),
    path("sign-in/", sign_in),
    path("publish/", publish),
    path("flow/", flow),
    path("latest/", latest),
    path("tell-group/", tell_group),
    path("order/", order),
    path("inside/", inside),
]
