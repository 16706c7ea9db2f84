"""The addresses of the streams of numbers, and of what publishes within the server's process."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import RequestContext, Template
from django.urls import path

from django_sse import apresence, apublish, presence, publish, sse_path

from . import streams
from .publishers import Job, apublish_all, as_dicts, publish_all


async def publish_in_loop(request: HttpRequest) -> JsonResponse:
    """Publish a job on the server's event loop."""
    return JsonResponse(as_dicts(await apublish_all(_job(request))), safe=False)


def publish_in_thread(request: HttpRequest) -> JsonResponse:
    """Publish a job in a thread of the server."""
    return JsonResponse(as_dicts(publish_all(_job(request))), safe=False)


async def publish_one(request: HttpRequest) -> JsonResponse:
    """Publish one event as it is described."""
    return JsonResponse({"id": await apublish(**json.loads(request.body))})


async def present(request: HttpRequest) -> JsonResponse:
    """Tell who is present in ``?topic=``."""
    return JsonResponse(asdict(await apresence(request.GET["topic"])))


def present_sync(request: HttpRequest) -> JsonResponse:
    """Do the same in a thread."""
    return JsonResponse(asdict(presence(request.GET["topic"])))


def change(request: HttpRequest) -> JsonResponse:
    """Publish to everybody but the page that asks for it."""
    return JsonResponse({"id": publish("a", request.POST["data"], exclude=request)})


def page(request: HttpRequest) -> HttpResponse:
    """Give a page the address of its stream, and its id."""
    text = "{% load sse %}{% sse_url 'numbers' client=True %} {% sse_client %}"
    return HttpResponse(Template(text).render(RequestContext(request)))


async def publish_heavily(request: HttpRequest) -> JsonResponse:
    """Publish ``count`` events of 20 kB to ``heavy``, and with each 25 the time to ``ticks``."""
    for number in range(json.loads(request.body)["count"]):
        await apublish("heavy", f"{number}:".ljust(20_000, "x"), key=str(number % 10))
        if number % 25 == 0:
            await apublish("ticks", str(time.monotonic()))
            # The others' turn.
            await asyncio.sleep(0.005)
    return JsonResponse({})


def _job(request: HttpRequest) -> Job:
    fields: dict[str, Any] = json.loads(request.body)
    return Job(**fields)


urlpatterns = [
    sse_path("numbers/", streams.Numbers, name="numbers"),
    sse_path("forgetful/", streams.Forgetful),
    sse_path("newest/", streams.Newest),
    sse_path("room/", streams.Room),
    path("present/", present),
    path("present/sync/", present_sync),
    path("publish/loop/", publish_in_loop),
    path("publish/thread/", publish_in_thread),
    path("publish/heavily/", publish_heavily),
    path("publish/one/", publish_one),
    path("change/", change),
    path("page/", page),
]
