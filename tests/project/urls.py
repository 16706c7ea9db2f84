"""The addresses of the streams for tests, beside those of the demo."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_not_required, login_required
from django.http import HttpResponse
from django.urls import include, path
from django.views.decorators.cache import never_cache

from django_sse import sse_path

from . import streams


async def next_step(request: Any) -> HttpResponse:
    """Let ``Steps`` send its next event."""
    streams.Steps.gate.set()
    return HttpResponse("ok")


async def start_slow(request: Any) -> HttpResponse:
    """Let all of ``Slow`` begin their work."""
    streams.Slow.start.set()
    return HttpResponse("ok")


shop = (
    [
        sse_path("orders/<int:number>/", streams.Echo, {"kind": "order"}, name="order"),
        sse_path(
            "greeting/", streams.Echo.as_view(greeting="hello"), kwargs={"a": 1}, name="greeting"
        ),
    ],
    "shop",
)

urlpatterns = [
    path("shops/<slug:shop>/", include(shop, namespace="eu")),
    sse_path("quiet/", streams.Quiet, name="quiet"),
    sse_path("private/", streams.Private),
    sse_path("steps/", streams.Steps),
    path("steps/next/", next_step),
    sse_path("busy/", streams.Busy),
    sse_path("flood/", streams.Flood),
    sse_path("slow/", streams.Slow),
    path("slow/start/", start_slow),
    sse_path("echo/", streams.Echo),
    sse_path("by-header/", streams.ByHeader),
    sse_path("by-token/", streams.ByToken),
    sse_path("admins/", streams.AdminsOnly),
    sse_path("even/<int:number>/", streams.Even),
    sse_path("throttled/", streams.Throttled),
    sse_path("own-errors/", streams.OwnErrors),
    sse_path("raises/<str:error>/", streams.Raises),
    sse_path("breaks/", streams.Breaks),
    sse_path("busywork/", streams.Busywork),
    sse_path("hesitant/", streams.Hesitant),
    sse_path("dressed/", streams.Dressed),
    sse_path("chat/<int:room>/", streams.Chat),
    sse_path("transactional/", streams.Transactional),
    sse_path("guarded/", streams.Guarded),
    sse_path("open-to-all/", streams.OpenToAll),
    sse_path("opened/", login_not_required(streams.Echo.as_view())),
    sse_path("login-required/", login_required(streams.Echo.as_view())),
    sse_path("never-cache/", never_cache(streams.Echo.as_view())),
    path("", include("testproject.shop.urls")),
]
