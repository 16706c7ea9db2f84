"""The addresses of the streams in ``streams.py``, and what tests ask of the server's process."""

from __future__ import annotations

import asyncio
import gc
import signal
from pathlib import Path
from typing import Any

from django.contrib.auth import login, logout
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.urls import include, path
from django.views.decorators.cache import never_cache
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.authtoken.models import Token

from django_sse import apublish, sse_path
from django_sse.monitoring.metrics import stats
from django_sse.tickets import TicketView

from . import streams


def sign_in(request: HttpRequest, name: str) -> JsonResponse:
    """Log a user in, who is made where there is none."""
    user, _ = User.objects.get_or_create(username=name)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    token, _ = Token.objects.get_or_create(user=user)
    return JsonResponse({"pk": user.pk, "token": token.key})


def sign_out(request: HttpRequest) -> HttpResponse:
    """Log whoever asks out."""
    logout(request)
    return HttpResponse("Good-bye")


def page(request: HttpRequest, tag: str) -> HttpResponse:
    """Render a template tag, as part of a page with a script."""
    source = "{% load sse %}<script>const address = '{% " + tag + " %}';</script>"
    return HttpResponse(engines["django"].from_string(source).render({}, request))


async def publish(request: HttpRequest, topic: str) -> HttpResponse:
    """Publish an event."""
    return HttpResponse(await apublish(topic, {"n": 1}, event="note"))


async def inside(request: HttpRequest) -> JsonResponse:
    """Tell what the process holds."""
    gc.collect()
    hooked = [
        getattr(signal.getsignal(number), "__module__", None) or ""
        for number in (signal.SIGTERM, signal.SIGINT)
    ]
    return JsonResponse(
        {
            "stats": stats(),
            "kilobytes": _kilobytes(),
            "tasks": len(asyncio.all_tasks()),
            "hooked": [name.startswith("django_sse") for name in hooked],
        }
    )


def _kilobytes() -> int:
    """Return the resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


class Tickets(TicketView):
    authentication_classes = [TokenAuthentication, SessionAuthentication]


urlpatterns: list[Any] = [
    sse_path("quiet/", streams.Quiet, name="quiet"),
    sse_path("pending/", streams.Pending),
    sse_path("flood/", streams.Flood),
    sse_path("long-goodbye/", streams.LongGoodbye),
    sse_path("late/", streams.Late),
    sse_path("late-connect/", streams.LateConnect),
    sse_path("topics/<str:topic>/", streams.Topical),
    sse_path("few/", streams.Few),
    sse_path("checked/", streams.Checked),
    sse_path("checked/permission/", streams.CheckedPermission),
    sse_path("checked/in-vain/", streams.CheckedInVain),
    sse_path("checked/ticket/", streams.CheckedTicket, name="checked-ticket"),
    sse_path("brief/", streams.Brief),
    sse_path("breaks/", streams.Breaks),
    sse_path("breaks-early/", streams.BreaksEarly),
    sse_path("breaks-late/", streams.BreaksLate),
    sse_path("ticketed/", streams.Ticketed, name="ticketed"),
    sse_path("ticketed/<str:which>/", streams.Ticketed, name="ticketed-name"),
    path("decorated/", never_cache(streams.Ticketed.as_view()), name="decorated"),
    path("tickets/", Tickets.as_view()),
    path("sign-in/<str:name>/", sign_in),
    path("sign-out/", sign_out),
    path("page/<path:tag>", page),
    path("publish/<str:topic>/", publish),
    path("inside/", inside),
    path("", include("testproject.shop.urls")),
]
