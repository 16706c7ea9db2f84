"""The shop's ordinary views: the pages, and the actions of their buttons."""

from __future__ import annotations

import inspect
import os
import secrets
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.shortcuts import get_object_or_404
from django.template.loader import get_template
from django.views.decorators.http import require_POST
from django.views.generic import TemplateView
from rest_framework import serializers, status
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from django_sse import close_streams, publish
from django_sse.topics.orders import reports

from . import html, pages, streams
from .models import Import, Order
from .ordering import place_random_order
from .serializers import ImportSerializer, OrderSerializer

try:
    from drf_spectacular.utils import extend_schema
except ImportError:  # The demo runs without drf-spectacular, too.

    def extend_schema(**described: Any) -> Callable[[Any], Any]:
        return lambda view: view


def pages_of_demo(request: HttpRequest) -> dict[str, Any]:
    """Return the pages to which each page links. All but the first need `make demo`."""
    further = [("market", "Market"), ("work", "Work"), ("team", "Team"), ("html", "HTML")]
    return {"pages": [("live", "Orders"), *(further if settings.HAS_DEMO_PAGES else [])]}


class LivePage(TemplateView):
    """A page that shows the events of streams, and beside each stream its code."""

    template_name = "shop/live.html"
    #: The page shows the source of these: objects of Python, and templates by their names.
    shown: ClassVar[dict[str, Sequence[Any]]] = {
        "orders": [streams.Orders],
        "clock": [streams.Clock],
        "generate": [streams.Generate],
        "serialization": [streams.Serialization],
    }

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add the source code that the page shows, read from the files."""
        sources = {name: "\n\n".join(map(source, parts)) for name, parts in self.shown.items()}
        # The demo's login is no secret while DEBUG is on, and does not exist elsewhere.
        return super().get_context_data(sources=sources, debug=settings.DEBUG, **kwargs)


def source(part: Any) -> str:
    """Return the source of a class or function, or of a template by its name."""
    if isinstance(part, str):
        template: Any = get_template(part)
        return f"{{# {part} #}}\n{template.template.source}"
    return inspect.getsource(part)


class DemoPage(LivePage):
    """A page whose streams a button can cut. The streams have the page's id in their address."""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add the page's id."""
        return super().get_context_data(page=secrets.token_hex(8), **kwargs)


class MarketPage(DemoPage):
    """Prices."""

    template_name = "shop/market.html"
    shown = {"prices": [pages.Prices]}


class WorkPage(DemoPage):
    """A long job, and an answer that outlives its connection."""

    template_name = "shop/work.html"
    shown = {"imports": [pages.Imports], "answer": [pages.Answer]}


class TeamPage(DemoPage):
    """The present users, and the notifications of the user who is logged in."""

    template_name = "shop/team.html"
    shown = {"team": [pages.Team]}


class HTMLPage(DemoPage):
    """HTML over the wire, for htmx, Turbo and Datastar."""

    template_name = "shop/html.html"
    shown = {
        "sales": [
            html.Sales,
            html.products,
            html.publish_sale,
            "shop/sale.html",
            "shop/connect_htmx.html",
        ],
        "tickets": [
            html.Tickets,
            html.publish_ticket,
            "shop/ticket.html",
            "shop/connect_turbo.html",
        ],
        "revenue": [
            html.Revenue,
            html.totals,
            html.publish_revenue,
            "shop/newest.html",
            "shop/connect_datastar.html",
        ],
    }


class RefusalSerializer(serializers.Serializer):
    """Why there is no order."""

    detail = serializers.CharField()


class PlaceOrder(APIView):
    """Create a random order, which the page then gets from its stream."""

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


@require_POST
def advance(request: HttpRequest, pk: int) -> HttpResponse:
    """Give an order its next status, until it is shipped."""
    if not request.user.is_authenticated:
        return HttpResponseForbidden()
    order = get_object_or_404(Order.objects.select_related("customer", "product"), pk=pk)
    if order.next_status is not None:
        order.status = order.next_status
        order.save(update_fields=["status"])
    return HttpResponse(status=204)  # The page gets the change from its stream.


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
    """Send every user a notification of their own."""

    permission_classes = [IsAuthenticated]

    @extend_schema(request=None, responses={204: None, 403: RefusalSerializer})
    def post(self, request: Request) -> Response:
        for user in User.objects.filter(is_active=True):
            text = (
                "You notified everyone." if user == request.user else f"{request.user} says hello."
            )
            publish(f"user:{user.pk}", {"text": text}, event="note")
        return Response(status=status.HTTP_204_NO_CONTENT)


class Break(APIView):
    """Cut connections, or end a worker, to show how streams recover. Only ``make demo`` has it."""

    def post(self, request: Request, what: str) -> Response:
        if what not in ("connection", "stop", "kill"):
            return Response(status=status.HTTP_404_NOT_FOUND)
        topic = f"page:{request.data.get('page', '')}"
        if what == "connection":
            close_streams(topic=topic)
            return Response({"text": "The server closed the streams of this page."})
        worker, is_found = worker_of(topic)
        # Wait for the response to be sent: the worker that ends may be this process.
        number = signal.SIGKILL if what == "kill" else signal.SIGTERM
        threading.Timer(0.2, os.kill, (worker, number)).start()
        how = "is killed" if what == "kill" else "stops, and tells its clients when to reconnect"
        hint = "" if is_found else " If your streams stay open, press again."
        return Response({"text": f"Worker {worker} {how}. A new one starts.{hint}"})


def worker_of(topic: str) -> tuple[int, bool]:
    """Return the worker that has a stream of a topic, or this one, and whether one was found."""
    for report in reports(wait=0.3, streams=True):
        if any(topic in stream["topics"] for stream in report["streams"]):
            return int(report["process"].rpartition(":")[2]), True
    return os.getpid(), False
