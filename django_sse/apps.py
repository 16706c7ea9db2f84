"""The Django app."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class DjangoSSEConfig(AppConfig):
    """Registers the checks and the observers, and imports each app's ``serializers.py``."""

    name = "django_sse"
    verbose_name = "Server-Sent Events"

    def ready(self) -> None:
        """Fill the registry of ``@serializes``, so that any process can send any object."""
        from . import checks  # noqa: F401, PLC0415 - checks need the apps to be loaded

        autodiscover_modules("serializers")
        for module, library in OBSERVERS.items():
            if _is_installed(library):
                import_module(module).register()


#: Modules whose ``register()`` is called where their library is installed. Where it is missing,
#: they are not imported.
OBSERVERS = {
    "django_sse.contrib.prometheus": "prometheus_client",
    "django_sse.contrib.opentelemetry": "opentelemetry.trace",
}


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # The package around it is missing.
        return False
