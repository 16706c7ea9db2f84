"""Publish the shop's changes to its streams."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.models.signals import post_save
from django.dispatch import receiver

from django_sse import publish

from .html import publish_revenue, publish_sale, publish_ticket
from .models import Order


@receiver(post_save, sender=Order)
def publish_order(sender: type[Order], instance: Order, created: bool, **kwargs: Any) -> None:
    """Publish an order when its transaction commits, and not if it is rolled back."""
    if kwargs["raw"]:
        return  # A fixture is being loaded: the order's customer and product may be missing yet.
    publish("orders", instance, event="created" if created else "changed", key=str(instance.pk))


@receiver(post_save, sender=Order)
def publish_html(sender: type[Order], instance: Order, **kwargs: Any) -> None:
    """Publish the parts of the page "HTML" that an order changes."""
    if kwargs["raw"] or not settings.HAS_DEMO_PAGES:
        return
    for publish_part in (publish_sale, publish_ticket, publish_revenue):
        publish_part(instance)
