"""The shop's ordinary views: its page, and what the page's buttons do."""

from __future__ import annotations

import inspect
import os
import secrets
import signal
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.views.generic import TemplateView
from rest_framework import serializers, status
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from django_sse import close_streams, publish

from . import pages, streams
from .models import Import
from .ordering import place_random_order
from .serializers import ImportSerializer, OrderSerializer

try:
    from drf_spectacular.utils import extend_schema
except ImportError:  # The demo runs without drf-spectacular, too.

    def extend_schema(**described: Any) -> Callable[[Any], Any]:
        return lambda view: view


def pages_of_demo(request: HttpRequest) -> dict[str, Any]:
    """Return the pages between which all pages link; the further ones need `make demo`."""
    further = [("market", "Market"), ("work", "Work"), ("team", "Team")]
    return {"pages": [("live", "Orders"), *(further if settings.HAS_DEMO_PAGES else [])]}


class LivePage(TemplateView):
    """A page on which streams' events arrive, and beside each the code that makes it."""

    template_name = "shop/live.html"
    shown: ClassVar[dict[str, type]] = {
        "orders": streams.Orders,
        "clock": streams.Clock,
        "generate": streams.Generate,
        "serialization": streams.Serialization,
    }

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add the source of what the page shows, from the very files."""
        sources = {name: inspect.getsource(it) for name, it in self.shown.items()}
        # The demo's login is no secret while DEBUG is on, and does not exist elsewhere.
        return super().get_context_data(sources=sources, debug=settings.DEBUG, **kwargs)


class DemoPage(LivePage):
    """One of the further pages, whose streams a button can cut: they know the page by its id."""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add the page's id."""
        return super().get_context_data(page=secrets.token_hex(8), **kwargs)


class MarketPage(DemoPage):
    """Prices."""

    template_name = "shop/market.html"
    shown: ClassVar[dict[str, type]] = {"prices": pages.Prices}


class WorkPage(DemoPage):
    """A long job, and an answer that outlives its connection."""

    template_name = "shop/work.html"
    shown: ClassVar[dict[str, type]] = {"imports": pages.Imports, "answer": pages.Answer}


class TeamPage(DemoPage):
    """Who is here, and a table for htmx."""

    template_name = "shop/team.html"
    shown: ClassVar[dict[str, type]] = {"team": pages.Team, "sales": pages.Sales}


class RefusalSerializer(serializers.Serializer):
    """Why there is no order."""

    detail = serializers.CharField()


class PlaceOrder(APIView):
    """Create a random order, which then arrives on the page by its stream."""

    permission_classes = [IsAuthenticated]

    @extend_schema(
        request=None,
        responses={201: OrderSerializer, 403: RefusalSerializer, 409: RefusalSerializer},
    )
    def post(self, request: Request) -> Response:
        order = place_random_order()
        if order is None:
            return Response(
                {"detail": "The shop is empty: run `python manage.py sampledata` first."},
                status=status.HTTP_409_CONFLICT,
            )
        return Response(OrderSerializer(order).data, status=status.HTTP_201_CREATED)


class StartImport(APIView):
    """Begin an import, which ``manage.py backstage`` works on."""

    @extend_schema(request=None, responses={201: ImportSerializer})
    def post(self, request: Request) -> Response:
        job = Import.objects.create()
        publish("imports", job, event="progress", key=str(job.pk))
        return Response(ImportSerializer(job).data, status=status.HTTP_201_CREATED)


class CancelImport(APIView):
    """Cancel an import."""

    @extend_schema(request=None, responses={204: None})
    def post(self, request: Request, pk: int) -> Response:
        Import.objects.filter(pk=pk).update(cancelled=True)
        return Response(status=status.HTTP_204_NO_CONTENT)


class Notify(APIView):
    """Tell every user something of their own."""

    permission_classes = [IsAuthenticated]

    @extend_schema(request=None, responses={204: None, 403: RefusalSerializer})
    def post(self, request: Request) -> Response:
        for user in User.objects.filter(is_active=True):
            text = "You rang." if user == request.user else f"{request.user} rings."
            publish(f"user:{user.pk}", {"text": text}, event="note")
        return Response(status=status.HTTP_204_NO_CONTENT)


class Break(APIView):
    """Break something, so that everybody sees it heal; in ``make demo`` alone."""

    def post(self, request: Request, what: str) -> Response:
        if what not in ("connection", "stop", "kill"):
            return Response(status=status.HTTP_404_NOT_FOUND)
        if what == "connection":
            close_streams(topic=f"page:{request.data.get('page', '')}")
            return Response({"text": "The server has cut the streams of this page."})
        # After the answer: this process is the one that gives it.
        number = signal.SIGKILL if what == "kill" else signal.SIGTERM
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        how = "is killed" if what == "kill" else "stops, and tells its clients when to come back"
        return Response({"text": f"Worker {os.getpid()} {how}. Another one is started."})
