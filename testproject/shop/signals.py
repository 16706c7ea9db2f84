"""What the shop tells its streams."""

from __future__ import annotations

from typing import Any

from django.db.models.signals import post_save
from django.dispatch import receiver

from django_sse import publish

from .models import Order


@receiver(post_save, sender=Order)
def publish_order(sender: type[Order], instance: Order, created: bool, **kwargs: Any) -> None:
    """Publish an order once its transaction commits; nobody hears of one that is rolled back."""
    if kwargs["raw"]:
        return  # A fixture is being loaded: what the order refers to may not be there yet.
    publish("orders", instance, event="created" if created else "changed", key=str(instance.pk))
