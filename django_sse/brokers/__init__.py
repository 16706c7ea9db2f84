"""Brokers: from ``publish()`` to the hub of every process."""

from __future__ import annotations

import threading
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from django_sse.conf import conf

from .base import Broker

_lock = threading.Lock()
_broker: Broker | None = None


def broker_class(path: str) -> type[Broker]:
    """Import ``DJANGO_SSE["BROKER"]["BACKEND"]``; raise ``ImproperlyConfigured`` if it is none."""
    try:
        found = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f'DJANGO_SSE["BROKER"]["BACKEND"] {path!r} cannot be imported: {error}'
        ) from error
    if not (isinstance(found, type) and issubclass(found, Broker)):
        raise ImproperlyConfigured(
            f'DJANGO_SSE["BROKER"]["BACKEND"] {path!r} must be a subclass of '
            "django_sse.brokers.base.Broker."
        )
    return found


def get_broker() -> Broker:
    """Return the broker of this process, made from the settings when it is first needed."""
    global _broker  # noqa: PLW0603 - one for each process is what is meant
    with _lock:
        if _broker is None:
            backend, location, options = conf.broker
            _broker = broker_class(backend)(location, options)
        return _broker


def use_broker(broker: Broker | None) -> Broker | None:
    """Put another broker in the place of this process's, and return the one that was there.

    ``None`` lets the settings decide again. For tests.
    """
    global _broker
    with _lock:
        previous, _broker = _broker, broker
        return previous


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "DJANGO_SSE":
        previous = use_broker(None)
        if previous is not None:
            previous.close()


setting_changed.connect(_on_setting_changed)
