"""The Django app."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import post_migrate, pre_migrate
from django.utils.module_loading import autodiscover_modules


class DjangoSSEConfig(AppConfig):
    """Registers the checks and the observers, and imports serializers and streams."""

    name = "django_sse"
    verbose_name = "Server-Sent Events"

    def ready(self) -> None:
        """Import each app's ``serializers.py`` and ``streams.py``.

        So any process can send any object, and tells of the changes of models that streams show.
        """
        from . import checks  # noqa: F401, PLC0415 - checks need the apps to be loaded

        autodiscover_modules("serializers", "streams")
        pre_migrate.connect(_prepare_change_table, dispatch_uid="django_sse")
        post_migrate.connect(_prepare_database, dispatch_uid="django_sse")
        for module, library in OBSERVERS.items():
            if _is_installed(library):
                import_module(module).register()
        if apps.is_installed("drf_spectacular"):
            # Its extensions are registered as they are imported.
            import_module("django_sse.contrib.spectacular")


#: Modules whose ``register()`` is called where their library is installed. Where it is missing,
#: they are not imported.
OBSERVERS = {
    "django_sse.contrib.prometheus": "prometheus_client",
    "django_sse.contrib.opentelemetry": "opentelemetry.trace",
}


def _prepare_database(
    *, app_config: AppConfig, using: str, verbosity: int = 1, **kwargs: Any
) -> None:
    """Let the broker make its tables after ``migrate``."""
    from .brokers import broker_class  # noqa: PLC0415 - brokers need the settings
    from .conf import conf  # noqa: PLC0415

    if not _is_first(app_config):
        return
    try:
        backend, location, options = conf.broker
        broker = broker_class(backend)(location, options)
    except ImproperlyConfigured:
        return  # The system checks report it.
    if broker.prepare_database(using) and verbosity > 0:
        print(f"  Made the tables of {backend} in {using!r}.")  # noqa: T201 - as migrate does


def _prepare_change_table(*, app_config: AppConfig, using: str, **kwargs: Any) -> None:
    """Make the table of the triggers before ``migrate`` changes any row."""
    from .rows import change_table  # noqa: PLC0415 - as above

    if _is_first(app_config):
        change_table.prepare_database(using)


def _is_first(app_config: AppConfig) -> bool:
    # The signals come once for each app that has models.
    return app_config is next(it for it in apps.get_app_configs() if it.models_module is not None)


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # The package around it is missing.
        return False
