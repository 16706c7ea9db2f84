"""The ordinary views of the bench: they publish, and tell what the process holds."""

from __future__ import annotations

import asyncio
import json
import os
import time

from django.http import HttpRequest, HttpResponse, JsonResponse

from django_sse import apublish, publish, stats

from .streams import ended


async def publish_many(request: HttpRequest) -> JsonResponse:
    """Publish ``count`` events, each with the machine's monotonic time."""
    count = int(request.GET["count"])
    for _ in range(count):
        await apublish("news", {"at": time.monotonic(), "text": "x" * 100}, event="news")
        # What is published within one turn of the event loop would be sent in one piece.
        for _turn in range(3):
            await asyncio.sleep(0)
    return JsonResponse({"published": count})


def publish_one(request: HttpRequest) -> JsonResponse:
    """Publish an event as most projects do, in a synchronous view."""
    publish("news", {"at": time.monotonic()}, event="news")
    return JsonResponse({"published": 1})


async def state(request: HttpRequest) -> JsonResponse:
    """Tell which process this is, and how its streams have ended."""
    return JsonResponse({"pid": os.getpid(), "ended": ended, "open": stats()["open"]})


def page(request: HttpRequest) -> HttpResponse:
    """Show a page of HTML, for packages that write into pages."""
    return HttpResponse("<!doctype html><html><head></head><body><p>page</p></body></html>")


def newrelic(request: HttpRequest) -> JsonResponse:
    """Tell what New Relic's agent holds ready for its collector, which there is none of here."""
    from newrelic.core.agent import agent_instance

    [application] = agent_instance().applications.values()
    engine = application._stats_engine
    return JsonResponse(
        json.loads(
            json.dumps(
                {
                    "errors": [list(event) for event in engine.error_events],
                    "transactions": [list(event) for event in engine.transaction_events],
                    "spans": len(list(engine.span_events)),
                },
                default=str,
            )
        )
    )
