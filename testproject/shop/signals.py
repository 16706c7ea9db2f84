"""What the shop tells its streams."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.models.signals import post_save
from django.dispatch import receiver

from django_sse import publish, publish_template
from django_sse.contrib.htmx import oob

from .models import Order
from .pages import Sales


@receiver(post_save, sender=Order)
def publish_order(sender: type[Order], instance: Order, created: bool, **kwargs: Any) -> None:
    """Publish an order once its transaction commits; nobody hears of one that is rolled back."""
    if kwargs["raw"]:
        return  # A fixture is being loaded: what the order refers to may not be there yet.
    publish("orders", instance, event="created" if created else "changed", key=str(instance.pk))


@receiver(post_save, sender=Order)
def publish_sale(sender: type[Order], instance: Order, **kwargs: Any) -> None:
    """Publish the row of the table of sales that an order changes, as HTML."""
    if kwargs["raw"] or not settings.HAS_DEMO_PAGES:
        return
    product = Sales.products().get(pk=instance.product_id)
    publish_template("sales", "shop/sale.html", {"product": product}, wrap=oob)
