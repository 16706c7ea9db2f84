"""Brokers: they take events from ``publish()`` to the hubs of all processes.

``topics`` and the management commands import this package. It imports the settings, and knows
events, but neither connections nor views. It promises the contract in ``brokers.base``: ids that
rise, delivery once and in order, and no loss without ``lost()`` or ``HistoryLost``.
"""

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
    """Import a broker class by its dotted path; raise ``ImproperlyConfigured`` if it is not one."""
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
    """Return the broker of this process; the first call makes it from the settings."""
    global _broker  # noqa: PLW0603 - one for each process is what is meant
    with _lock:
        if _broker is None:
            backend, location, options = conf.broker
            _broker = broker_class(backend)(location, options)
        return _broker


def use_broker(broker: Broker | None) -> Broker | None:
    """Replace the broker of this process, and return the one before; for tests.

    After ``None``, the next ``get_broker()`` makes one from the settings.
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
