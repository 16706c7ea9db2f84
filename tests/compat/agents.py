"""Error trackers and agents, which report to a collector."""

from __future__ import annotations

from typing import Any

from .stranger import REMEDIES, SWITCHES, Stranger

_OTLP = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://{collector}",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_BSP_SCHEDULE_DELAY": "300",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_SERVICE_NAME": "compat",
}
_NEWRELIC = {
    "NEW_RELIC_DEVELOPER_MODE": "true",
    "NEW_RELIC_APP_NAME": "compat",
    "NEW_RELIC_LICENSE_KEY": "0" * 40,
    "NEW_RELIC_STARTUP_TIMEOUT": "10",
}
_DATADOG = {
    "DD_TRACE_AGENT_URL": "http://{collector}",
    "DD_TRACE_API_VERSION": "v0.4",
    "DD_TRACE_WRITER_INTERVAL_SECONDS": "0.3",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_CRASHTRACKING_ENABLED": "false",
    "DD_TRACE_STARTUP_LOGS": "false",
    "DD_SERVICE": "compat",
}
_ELASTIC = {
    "ELASTIC_APM_SERVER_URL": "http://{collector}",
    "ELASTIC_APM_SERVICE_NAME": "compat",
    "ELASTIC_APM_API_REQUEST_TIME": "300ms",
    "ELASTIC_APM_CENTRAL_CONFIG": "false",
    "ELASTIC_APM_CLOUD_PROVIDER": "none",
}
_LONG = (
    "Its averages of latency count streams as requests of minutes or hours. Leave the streams' "
    "paths out of alerts on latency. The trace itself does not grow with the stream."
)
_OTEL_SEES = (
    "the request's span ends with the handshake; the span `stream …` of django_sse "
    "ends with the stream, and is marked as failed"
)
_OTEL_ASGI_SEES = (
    "a span that ends with the stream, and the span `stream …` of django_sse, which is marked as "
    "failed"
)


def _logging(handler: str) -> dict[str, Any]:
    """Return the bench's logging with one more handler, for ``django_sse``."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "console": {"class": "logging.StreamHandler"},
            "reporting": {"class": handler, "level": "ERROR"},
        },
        "root": {"handlers": ["console"], "level": "INFO"},
        "loggers": {"django_sse": {"handlers": ["reporting"]}},
    }


AGENTS = (
    Stranger(
        "Sentry",
        ("sentry-sdk",),
        "`sentry_sdk.init()` in the settings",
        switch=f"{SWITCHES}.sentry",
        sighting="sentry",
        sees="the exception of `stream()` once, with the stream's URL; a transaction of the handshake",
    ),
    Stranger(
        "Sentry, ASGI middleware",
        ("sentry-sdk",),
        "`SentryAsgiMiddleware` around the application, without its Django integration",
        switch=f"{SWITCHES}.sentry_without_django",
        wrapper=f"{SWITCHES}.sentry_middleware",
        sighting="sentry",
        sees="the exception of `stream()` once, with the stream's URL; a transaction that ends with it",
        costs={"trace": _LONG},
    ),
    Stranger(
        "New Relic",
        ("newrelic",),
        "`newrelic-admin run-program`, developer mode; a handler for errors",
        command=("newrelic-admin", "run-program"),
        env=_NEWRELIC,
        urls={"newrelic/": "tests.compat.project.views.newrelic"},
        settings={"LOGGING": _logging(f"{REMEDIES}.newrelic.NewRelicHandler")},
        sighting="newrelic",
        sees="a transaction that ends with the stream; the exception of `stream()` once, by the handler",
        costs={"trace": _LONG},
    ),
    Stranger(
        "New Relic, Granian",
        ("newrelic", "granian"),
        "`newrelic.agent.initialize()` at the top of `asgi.py`; a handler for errors",
        server="granian",
        before=f"{SWITCHES}.newrelic_agent",
        env=_NEWRELIC,
        urls={"newrelic/": "tests.compat.project.views.newrelic"},
        settings={"LOGGING": _logging(f"{REMEDIES}.newrelic.NewRelicHandler")},
        sighting="newrelic",
        sees="a transaction of the handshake; the exception of `stream()` once, by the handler",
    ),
    Stranger(
        "Datadog",
        ("ddtrace",),
        "`ddtrace-run`",
        command=("ddtrace-run",),
        env=_DATADOG,
        sighting="datadog_views",
        sees="spans of middlewares and views",
        costs={
            "untraced": (
                "It wraps `django.core.asgi.get_asgi_application()`, which the project no longer "
                "calls. Put its own middleware around the application, as in the next row: "
                "`application = TraceMiddleware(get_asgi_application())`, from "
                "`ddtrace.contrib.asgi`."
            )
        },
    ),
    Stranger(
        "Datadog, ASGI middleware",
        ("ddtrace",),
        "`ddtrace-run`, and `TraceMiddleware` around the application; a handler for errors",
        command=("ddtrace-run",),
        wrapper=f"{SWITCHES}.datadog_middleware",
        env=_DATADOG,
        settings={"LOGGING": _logging(f"{REMEDIES}.datadog.DatadogHandler")},
        sighting="datadog",
        sees="a trace that ends with the stream; the exception of `stream()` once, by the handler",
        costs={"trace": _LONG},
    ),
    Stranger(
        "Elastic APM",
        ("elastic-apm",),
        "app, `TracingMiddleware` and its `LoggingHandler`",
        apps=("elasticapm.contrib.django",),
        middleware_first=("elasticapm.contrib.django.middleware.TracingMiddleware",),
        settings={"LOGGING": _logging("elasticapm.contrib.django.handlers.LoggingHandler")},
        env=_ELASTIC,
        sighting="elastic_errors",
        sees="the exception of `stream()` once",
        costs={
            "untraced": (
                "Its Django integration traces no request under ASGI, under Django's own handler "
                "neither. Put its `ASGITracingMiddleware` around the application, as in the next "
                "row."
            )
        },
    ),
    Stranger(
        "Elastic APM, ASGI middleware",
        ("elastic-apm",),
        "app, `LoggingHandler`, and `ASGITracingMiddleware` around the application",
        apps=("elasticapm.contrib.django",),
        wrapper=f"{SWITCHES}.elastic_middleware",
        settings={"LOGGING": _logging("elasticapm.contrib.django.handlers.LoggingHandler")},
        env=_ELASTIC,
        sighting="elastic",
        sees="a transaction for each stream's handshake; the exception of `stream()` once",
    ),
    Stranger(
        "OpenTelemetry, Django",
        ("opentelemetry-instrumentation-django", "opentelemetry-sdk"),
        "`DjangoInstrumentor().instrument()` in the settings",
        switch=f"{SWITCHES}.opentelemetry_django",
        env=_OTLP,
        sighting="opentelemetry",
        sees=_OTEL_SEES,
    ),
    Stranger(
        "OpenTelemetry, by its command",
        ("opentelemetry-distro", "opentelemetry-instrumentation-django"),
        "`opentelemetry-instrument`",
        command=("opentelemetry-instrument",),
        env={**_OTLP, "DJANGO_SETTINGS_MODULE": "tests.compat.project.settings"},
        sighting="opentelemetry",
        sees=_OTEL_SEES,
    ),
    Stranger(
        "OpenTelemetry, ASGI",
        ("opentelemetry-instrumentation-asgi", "opentelemetry-sdk"),
        "`OpenTelemetryMiddleware` around the application",
        switch=f"{SWITCHES}.opentelemetry_exporter",
        wrapper=f"{SWITCHES}.opentelemetry_middleware",
        env=_OTLP,
        sighting="opentelemetry",
        sees=_OTEL_ASGI_SEES,
        costs={
            "trace": _LONG,
            "spans": (
                "It makes a span `… http send` for every message, and so for each write to a "
                'client. Switch them off: `OpenTelemetryMiddleware(application, exclude_spans=["receive", "send"])`.'
            ),
        },
    ),
    Stranger(
        "OpenTelemetry, ASGI without messages",
        ("opentelemetry-instrumentation-asgi", "opentelemetry-sdk"),
        '`OpenTelemetryMiddleware(…, exclude_spans=["receive", "send"])`',
        switch=f"{SWITCHES}.opentelemetry_exporter",
        wrapper=f"{SWITCHES}.opentelemetry_middleware_without_messages",
        env=_OTLP,
        sighting="opentelemetry",
        sees=_OTEL_ASGI_SEES,
        costs={"trace": _LONG},
    ),
    Stranger(
        "Logfire, Django",
        ("logfire",),
        "`logfire.instrument_django()` in the settings",
        switch=f"{SWITCHES}.logfire_django",
        env=_OTLP,
        sighting="opentelemetry",
        sees=_OTEL_SEES,
    ),
    Stranger(
        "Logfire, ASGI",
        ("logfire",),
        "`logfire.instrument_asgi()` around the application",
        switch=f"{SWITCHES}.logfire_exporter",
        wrapper=f"{SWITCHES}.logfire_middleware",
        env=_OTLP,
        sighting="opentelemetry",
        sees=_OTEL_ASGI_SEES,
        costs={"trace": _LONG},
    ),
    Stranger(
        "django-prometheus",
        ("django-prometheus",),
        "app, and its two middlewares",
        apps=("django_prometheus",),
        middleware_first=("django_prometheus.middleware.PrometheusBeforeMiddleware",),
        middleware=("django_prometheus.middleware.PrometheusAfterMiddleware",),
        urls={"": "django_prometheus.urls"},
        sighting="prometheus",
        sees="its latency is that of the handshake; `/metrics` has the metrics of django_sse too",
    ),
)
