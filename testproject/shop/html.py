"""HTML over the wire: the events for each library when an order changes. The page shows the code."""

from __future__ import annotations

from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.db.models import Count, QuerySet, Sum

from django_sse import Topic, publish, publish_template
from django_sse.contrib import turbo
from django_sse.contrib.datastar import patch_elements, patch_signals
from django_sse.contrib.htmx import oob

from .models import Order, Product
from .pages import OnPage


class Sales(OnPage):
    """A table that htmx keeps up to date: each row replaces the one with its id."""

    topics = [Topic("sales", events={None: str})]
    authentication_classes = []
    permission_classes = []

    async def snapshot(self) -> None:
        await self.send_template("shop/sales.html", {"products": products()}, wrap=oob)


def products() -> QuerySet[Product]:
    sold = {"count": Count("orders"), "revenue": Sum("orders__total")}
    return Product.objects.annotate(**sold).order_by("name")


def publish_sale(order: Order) -> None:
    product = products().get(pk=order.product_id)
    publish_template("sales", "shop/sale.html", {"product": product}, wrap=oob)


class Tickets(OnPage):
    """Cards that Turbo moves from column to column, as orders are paid and shipped."""

    topics = [Topic("tickets", events={None: str})]
    authentication_classes = []
    permission_classes = []

    async def snapshot(self) -> None:
        newest = Order.objects.select_related("product").order_by("-pk")[:9]
        context = {"orders": newest, "statuses": Order.Status.choices}
        replace = partial(turbo.replace, target="columns")
        await self.send_template("shop/tickets.html", context, wrap=replace)


def publish_ticket(order: Order) -> None:
    def move(html: str) -> str:
        return turbo.remove(f"ticket-{order.pk}") + turbo.prepend(html, f"status-{order.status}")

    publish_template("tickets", "shop/ticket.html", {"order": order}, wrap=move)


class Revenue(OnPage):
    """Signals and an element for Datastar: the page computes with the numbers of the server."""

    topics = ["revenue"]
    authentication_classes = []
    permission_classes = []

    async def snapshot(self) -> None:
        await self.send(patch_signals(await sync_to_async(totals)()))
        newest = await Order.objects.select_related("customer", "product").alast()
        await self.send_template("shop/newest.html", {"order": newest}, wrap=patch_elements)


def totals() -> dict[str, Any]:
    sums = Order.objects.aggregate(orders=Count("pk"), revenue=Sum("total"))
    return {"orders": sums["orders"], "revenue": float(sums["revenue"] or 0)}


def publish_revenue(order: Order) -> None:
    publish("revenue", patch_signals(totals()))
    publish_template("revenue", "shop/newest.html", {"order": order}, wrap=patch_elements)
