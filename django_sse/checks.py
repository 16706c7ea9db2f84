"""System checks. Each fault has an id and a hint with the remedy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004
from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands
from django.urls import get_resolver

from .brokers import broker_class
from .brokers.base import BROKERS
from .brokers.memory import MemoryBroker
from .conf import DEFAULTS, PARSERS
from .jobs.defined import defined as job_views
from .rows.change_table import covered
from .topics.declarations import declared_topics, declaring
from .topics.presence import attending
from .topics.rendering import default_renderer_class
from .wire.serialization import full_name, registry, replaced

#: The hint for a wrong value; the error itself says the unit and what is allowed.
DOCS = "The settings table in docs/settings.md has all of them, with units and defaults."

#: The id of the error for each setting.
IDS = {
    "HEARTBEAT": "django_sse.E003",
    "RETRY": "django_sse.E005",
    "THREADS": "django_sse.E006",
    "OUTBOX_LIMIT": "django_sse.E007",
    "MAX_EVENT_BYTES": "django_sse.E008",
    "PUBLISH_TIMEOUT": "django_sse.E009",
    "BROKER": "django_sse.E010",
    "SEND_TIMEOUT": "django_sse.E012",
    "DRAIN_SECONDS": "django_sse.E013",
    "RECHECK_PERIOD": "django_sse.E014",
    "MAX_CONNECTIONS": "django_sse.E015",
    "MAX_CONNECTIONS_PER_ADDRESS": "django_sse.E016",
    "TICKET_SECONDS": "django_sse.E017",
    "RENDERER": "django_sse.E019",
    "BASE_URL": "django_sse.E020",
    "MAX_HANDSHAKES": "django_sse.E021",
    "CHECK_EVENTS": "django_sse.E022",
    "PRESENCE": "django_sse.E024",
    "MAX_JOBS": "django_sse.E026",
    "JOB_LEASE": "django_sse.E027",
}


@register()
def check_settings(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Find unknown settings and wrong values in ``DJANGO_SSE``."""
    given = getattr(settings, "DJANGO_SSE", {})
    if not isinstance(given, Mapping):
        return [
            Error(
                f"DJANGO_SSE must be a dict, got {given!r}.",
                hint='For example DJANGO_SSE = {"HEARTBEAT": {"PERIOD": 15}}.',
                id="django_sse.E001",
            )
        ]
    found: list[CheckMessage] = []
    unknown = sorted(set(given) - set(DEFAULTS), key=str)
    if unknown:
        found.append(
            Error(
                f"DJANGO_SSE has no setting {', '.join(map(repr, unknown))}.",
                hint=f"Its settings are {', '.join(DEFAULTS)}.",
                id="django_sse.E002",
            )
        )
    for name, parse in PARSERS.items():
        try:
            value = parse(given.get(name, DEFAULTS[name]))
        except ImproperlyConfigured as error:
            found.append(Error(str(error), hint=DOCS, id=IDS[name]))
            continue
        if name == "RENDERER":
            try:
                default_renderer_class()
            except ImproperlyConfigured as error:
                found.append(Error(str(error), hint=DOCS, id=IDS[name]))
        if name == "HEARTBEAT":
            try:
                value.provider()
            except ImproperlyConfigured as error:
                hint = "EVENT must be the dotted path of a callable that can be imported."
                text = f'DJANGO_SSE["HEARTBEAT"]["EVENT"]: {error}'
                found.append(Error(text, hint=hint, id="django_sse.E004"))
    return found


@register()
def check_asgi(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find settings under which streams are not served over ASGI."""
    found: list[CheckMessage] = []
    if not getattr(settings, "ASGI_APPLICATION", None):
        found.append(
            Warning(
                "ASGI_APPLICATION is not set, and streams need ASGI.",
                hint='Set it to the dotted path of the application, "project.asgi.application".',
                id="django_sse.W001",
            )
        )
    if "runserver" in sys.argv[1:] and ("--noasgi" in sys.argv or _runserver_speaks_wsgi()):
        found.append(
            Warning(
                "runserver speaks WSGI here, under which every stream answers 503.",
                hint='Put "daphne" first in INSTALLED_APPS: its runserver speaks ASGI, without '
                "--noasgi.",
                id="django_sse.W002",
            )
        )
    return found


@register()
def check_broker(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Let the broker check its settings, and find whether it reaches all processes."""
    try:
        backend, location, options = PARSERS["BROKER"](_given().get("BROKER", DEFAULTS["BROKER"]))
    except ImproperlyConfigured:
        return []  # check_settings() reports it.
    try:
        broker = broker_class(backend)
    except ImproperlyConfigured as error:
        hint = BROKERS
        missing = getattr(error.__cause__, "name", None) or ""
        if missing.partition(".")[0] == "redis":
            hint = 'Install what it needs: pip install "django-sse-views[redis]".'
        return [Error(str(error), hint=hint, id="django_sse.E011")]
    found = list(broker.check(location, options))
    if issubclass(broker, MemoryBroker) and (sign := _sign_of_several_processes()):
        found.append(
            Warning(
                f"The MemoryBroker reaches one process only, and {sign} shows several.",
                hint='Use "django_sse.brokers.database.DatabaseBroker" or '
                '"django_sse.brokers.redis.RedisBroker" as DJANGO_SSE["BROKER"]["BACKEND"].',
                id="django_sse.W003",
            )
        )
    return found


@register()
def check_declared_events(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Find events that are declared with a type that has no serializer."""
    hint = "Register one with @serializes(…) in an app's serializers.py, or name it in the view's serializer_classes."
    found = [(it._declaration, it.serializer_classes) for it in _imported(declaring)]
    found += [(it, {}) for it in declared_topics.values()]
    return [
        Error(
            f"{declaration.owner}.events: no serializer for {events}.",
            hint=hint,
            id="django_sse.E023",
        )
        for declaration, overrides in found
        if (events := ", ".join(declaration.without_serializer(overrides)))
    ]


@register()
def check_serializers(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Find types for which two serializers are registered."""
    _import_urls()
    return [
        Warning(
            f"{full_name(kind)} has two serializers: {full_name(after)} has replaced "
            f"{full_name(before)}.",
            hint="Events may show other fields than you expect. Remove one of them, or write "
            f"@serializes({kind.__qualname__}, replace=True) at the one that is to be used.",
            id="django_sse.W009",
        )
        for kind, (before, after) in sorted(replaced.items(), key=lambda it: full_name(it[0]))
        # Something else may have changed the registry since then.
        if registry.get(kind) is after
    ]


def _imported(found: Iterable[type]) -> list[Any]:
    if not _import_urls():
        return []  # Django's own checks report it.
    return sorted(found, key=lambda view: view.__qualname__)


def _import_urls() -> bool:
    """Import the modules of ``urls.py``: views are known once they are imported."""
    try:
        get_resolver().url_patterns  # noqa: B018
    except Exception:
        return False
    return True


@register()
def check_presence(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Find views with presence whose broker does not support presence."""
    try:
        broker = broker_class(PARSERS["BROKER"](_given().get("BROKER", DEFAULTS["BROKER"])).backend)
    except ImproperlyConfigured:
        return []  # check_settings() or check_broker() reports it.
    views = [] if broker.keeps_presence() else _imported(attending)
    return [
        Error(f"{view.__qualname__}.presence: {broker.no_presence()}", id="django_sse.E025")
        for view in views
    ]


@register()
def check_job_lease(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Find a lease of jobs that their processes may fail to renew after an outage of the broker."""
    try:
        backend, lease, timeout = (
            PARSERS[name](_given().get(name, DEFAULTS[name]))
            for name in ("BROKER", "JOB_LEASE", "PUBLISH_TIMEOUT")
        )
        away = not issubclass(broker_class(backend.backend), MemoryBroker)
    except ImproperlyConfigured:
        return []  # check_settings() or check_broker() reports it.
    # After an outage, a job has a third of its lease until other processes end it as failed. An
    # attempt to renew the lease that began during the outage may take PUBLISH_TIMEOUT.
    if not away or lease >= 3 * timeout or not _imported(job_views):
        return []
    return [
        Warning(
            f'DJANGO_SSE["JOB_LEASE"] is {lease:g} seconds, and DJANGO_SSE["PUBLISH_TIMEOUT"] is '
            f"{timeout:g}: jobs may fail after a short outage of the broker.",
            hint=f"Raise JOB_LEASE to {3 * timeout:g} seconds at least, three times "
            "PUBLISH_TIMEOUT, or lower PUBLISH_TIMEOUT.",
            id="django_sse.W010",
        )
    ]


@register()
def check_pools(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Find pools of database connections that are smaller than the streams' pool of threads."""
    try:
        threads = PARSERS["THREADS"](_given().get("THREADS", DEFAULTS["THREADS"]))
    except ImproperlyConfigured:
        return []  # check_settings() reports it.
    found: list[CheckMessage] = []
    databases: Mapping[str, Any] = settings.DATABASES
    for alias, database in databases.items():
        size = _pool_size(database.get("OPTIONS", {}).get("pool"))
        if size is not None and size < threads:
            found.append(
                Warning(
                    f"DATABASES[{alias!r}] has a pool of {size} connections, and "
                    f'DJANGO_SSE["THREADS"] is {threads}: queries of streams may take all of them '
                    "at once, and let requests wait.",
                    hint='Raise the pool\'s "max_size", or lower THREADS below it.',
                    id="django_sse.W005",
                )
            )
    return found


@register()
def check_triggers(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Find models with ``stream_triggers()`` some of whose tables have none."""
    found: list[CheckMessage] = []
    for model in sorted(covered, key=lambda it: it._meta.label):
        parents = [it for it in model._meta.get_parent_list() if it not in covered]
        if parents:
            labels = ", ".join(sorted(it._meta.label for it in parents))
            found.append(
                Warning(
                    f"{model._meta.label} has stream_triggers(), but not {labels}, whose table has "
                    "a part of its rows: streams do not hear of statements that change this part.",
                    hint=f"Add stream_triggers() to Meta.triggers of {labels}.",
                    obj=model,
                    id="django_sse.W008",
                )
            )
    return found


def _pool_size(pool: Any) -> int | None:
    """Return the largest size of a psycopg pool; ``None`` if it is not known."""
    if not pool:
        return None
    options = pool if isinstance(pool, Mapping) else {}
    # psycopg_pool: without a max_size, the pool stays as large as its min_size, 4 by default.
    size = options.get("max_size") or options.get("min_size", 4)
    return size if isinstance(size, int) else None


def _given() -> Mapping[str, Any]:
    given = getattr(settings, "DJANGO_SSE", {})
    return given if isinstance(given, Mapping) else {}


def _sign_of_several_processes() -> str | None:
    """Return a setting or a variable of the environment that shows more than one process, or ``None``."""
    workers = os.environ.get("WEB_CONCURRENCY", "")
    if workers.isdecimal() and int(workers) > 1:
        return f"WEB_CONCURRENCY={workers}"
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    for layer in layers.values() if isinstance(layers, Mapping) else ():
        if str(layer.get("BACKEND", "")).startswith("channels_redis."):
            return "the channel layer on Redis"
    for name in ("CELERY_BROKER_URL", "BROKER_URL", "RQ_QUEUES", "Q_CLUSTER", "DRAMATIQ_BROKER"):
        if getattr(settings, name, None):
            return f"the setting {name}"
    for alias, tasks in (getattr(settings, "TASKS", None) or {}).items():
        backend = str(tasks.get("BACKEND", ""))
        if backend and not backend.endswith((".ImmediateBackend", ".DummyBackend")):
            return f'TASKS["{alias}"]'
    return None


def _runserver_speaks_wsgi() -> bool:
    provider: Any = get_commands().get("runserver")
    name = provider if isinstance(provider, str) else type(provider).__module__
    return name in {"django.core", "django.contrib.staticfiles"}
