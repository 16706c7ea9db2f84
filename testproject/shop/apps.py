"""The shop as a Django app."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """Connects the shop's signals when Django starts; django_sse imports its serializers."""

    name = "testproject.shop"

    def ready(self) -> None:
        from . import signals  # noqa: F401, PLC0415 - models are loaded only now
