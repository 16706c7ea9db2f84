"""The table of strangers: real packages, how each is switched on, and what it costs a stream.

Nothing is imported of them here: the table is read by the bench, by the project's settings, and by
the tests of the documentation, which have none of the packages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SWITCHES = "tests.compat.project.switches"

#: What a package may do to a stream, by the names that ``Stranger.costs`` uses.
COSTS = {
    "thread": "a thread for each open stream",
    "memory": "memory that grows with each event",
    "spans": "a span for each event",
    "trace": "its trace lasts as long as the stream",
    "untraced": "no request is traced",
}


@dataclass(frozen=True)
class Stranger:
    """One row: a package, switched on in one way."""

    name: str
    #: The distributions whose versions the table shows.
    packages: tuple[str, ...] = ()
    #: How it is switched on, for the table.
    switched_on: str = ""
    apps_first: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    middleware_first: tuple[str, ...] = ()
    middleware: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    #: Route → dotted name of a URLconf, or of a view.
    urls: dict[str, str] = field(default_factory=dict)
    #: Dotted name of what the settings call at their end.
    switch: str | None = None
    #: Dotted name of what ``asgi.py`` calls before it imports anything.
    before: str | None = None
    #: Dotted name of what wraps the ASGI application.
    wrapper: str | None = None
    #: What stands before the server's command. ``{collector}`` is the bench's host and port.
    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    server: str = "uvicorn"
    #: How the private stream's client shows who it is.
    credentials: str = "session"
    database: str = "sqlite"
    #: The name of its function in ``sightings.py``, and what that looks for, for the table.
    sighting: str | None = None
    sees: str = ""
    #: What it does to a stream at a cost: a key of ``COSTS`` → why, and the remedy.
    costs: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name as a file has it."""
        return "".join(c if c.isalnum() else "-" for c in self.name.lower())


def find(name: str) -> Stranger:
    """Return the stranger of a name."""
    return next(stranger for stranger in STRANGERS if stranger.name == name)


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
_DRF = "rest_framework.authentication"
_OTEL_SEES = (
    "the request's span ends with the handshake; the span `stream …` of django_sse is its child, "
    "ends with the stream, and is marked as failed"
)
_OTEL_ASGI_SEES = (
    "a span for each stream, and within it the span `stream …` of django_sse, which is marked as "
    "failed"
)

def _logging(handler: str) -> dict[str, Any]:
    """Return the bench's logging with one more handler, for ``django_sse``."""
    path = handler if "." in handler else f"tests.compat.project.remedies.{handler}"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "console": {"class": "logging.StreamHandler"},
            "reporting": {"class": path, "level": "ERROR"},
        },
        "root": {"handlers": ["console"], "level": "INFO"},
        "loggers": {"django_sse": {"handlers": ["reporting"]}},
    }


STRANGERS = (
    Stranger("nothing", switched_on="the bench's project by itself"),
    Stranger(
        "a synchronous Django middleware",
        switched_on="`MIDDLEWARE`, first",
        middleware_first=("tests.compat.project.middleware.Synchronous",),
        sighting="synchronous",
        sees="its header is on the stream",
    ),
    Stranger(
        "a pure ASGI middleware",
        switched_on="around the application; passes on a copy of `scope`, and functions of its own",
        wrapper=f"{SWITCHES}.passing_on",
        sighting="passed_on",
        sees="its header is on the stream",
    ),
    Stranger(
        "a pure ASGI middleware, Daphne",
        ("daphne",),
        "as above, served by Daphne",
        wrapper=f"{SWITCHES}.passing_on",
        server="daphne",
        sighting="passed_on",
        sees="its header is on the stream",
    ),
    Stranger(
        "gunicorn with uvicorn-worker",
        ("gunicorn", "uvicorn-worker"),
        "`gunicorn -k uvicorn_worker.UvicornWorker`",
        server="gunicorn",
    ),
    # Error trackers and agents.
    Stranger(
        "Sentry",
        ("sentry-sdk",),
        "`sentry_sdk.init()` in the settings",
        switch=f"{SWITCHES}.sentry",
        sighting="sentry",
        sees="the exception of `stream()` once, with the stream's URL; one transaction per stream",
        costs={"trace": _LONG},
    ),
    Stranger(
        "Sentry, ASGI middleware",
        ("sentry-sdk",),
        "`SentryAsgiMiddleware` around the application, without its Django integration",
        switch=f"{SWITCHES}.sentry_without_django",
        wrapper=f"{SWITCHES}.sentry_middleware",
        sighting="sentry",
        sees="the exception of `stream()` once, with the stream's URL; one transaction per stream",
        costs={"trace": _LONG},
    ),
    Stranger(
        "New Relic",
        ("newrelic",),
        "`newrelic-admin run-program`, developer mode; a handler for errors",
        command=("newrelic-admin", "run-program"),
        env=_NEWRELIC,
        urls={"newrelic/": "tests.compat.project.views.newrelic"},
        settings={"LOGGING": _logging("NewRelicHandler")},
        sighting="newrelic",
        sees="a transaction for each stream; the exception of `stream()` once, by the handler",
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
        settings={"LOGGING": _logging("NewRelicHandler")},
        sighting="newrelic",
        sees="a transaction for each stream; the exception of `stream()` once, by the handler",
        costs={"trace": _LONG},
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
        settings={"LOGGING": _logging("DatadogHandler")},
        sighting="datadog",
        sees="a trace for each stream, which has the exception of `stream()`, by the handler",
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
        sees="the exception of `stream()` once, without its URL",
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
                'client. Switch them off: `OpenTelemetryMiddleware(application, exclude_spans=["receive", "send"])`, '
                "or `OTEL_PYTHON_ASGI_EXCLUDE_SPANS`."
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
    # Tools of development.
    Stranger(
        "django-debug-toolbar",
        ("django-debug-toolbar",),
        "app and middleware, `DEBUG`",
        apps=("debug_toolbar",),
        middleware_first=("debug_toolbar.middleware.DebugToolbarMiddleware",),
        settings={
            "DEBUG": True,
            "DEBUG_TOOLBAR_CONFIG": {"SHOW_TOOLBAR_CALLBACK": f"{SWITCHES}.always"},
        },
        urls={"__debug__/": "debug_toolbar.urls"},
        sighting="toolbar",
        sees="the toolbar is in pages, and not in streams",
    ),
    Stranger(
        "django-silk",
        ("django-silk",),
        "app and middleware",
        apps=("silk",),
        middleware_first=("silk.middleware.SilkyMiddleware",),
        urls={"silk/": "silk.urls"},
        sighting="silk",
        sees="the request of the stream is recorded, with the time of its handshake",
    ),
    Stranger(
        "django-browser-reload",
        ("django-browser-reload",),
        "app and middleware, `DEBUG`",
        apps=("django_browser_reload",),
        middleware=("django_browser_reload.middleware.BrowserReloadMiddleware",),
        settings={"DEBUG": True},
        urls={"__reload__/": "django_browser_reload.urls"},
        sighting="browser_reload",
        sees="its script is in pages; its own stream and ours run beside each other",
    ),
    Stranger(
        "drf-spectacular",
        ("drf-spectacular",),
        "app and schema class",
        apps=("drf_spectacular",),
        settings={"REST_FRAMEWORK": {"DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema"}},
        urls={"schema/": "drf_spectacular.views.SpectacularAPIView"},
        sighting="spectacular",
        sees="the schema lists the streams",
    ),
    Stranger(
        "django-structlog",
        ("django-structlog", "structlog"),
        "app and `RequestMiddleware`",
        apps=("django_structlog",),
        middleware=("django_structlog.middlewares.RequestMiddleware",),
        switch=f"{SWITCHES}.structlog",
        sighting="structlog",
        sees="`streaming_started` and `streaming_finished` are logged with the request's id",
        costs={
            "thread": (
                "Its `RequestMiddleware` wraps the content of streaming responses, so the connection "
                "can't be taken over, and Django's handler holds a thread for each stream. Use the "
                "subclass [below](#the-handlers-and-the-middleware), which leaves streams alone; its "
                "`request_finished` is then logged at the end of the handshake."
            )
        },
    ),
    Stranger(
        "django-structlog, streams left alone",
        ("django-structlog", "structlog"),
        "app, and the middleware of [the remedy](#the-handlers-and-the-middleware)",
        apps=("django_structlog",),
        middleware=("tests.compat.project.remedies.StreamRequestMiddleware",),
        switch=f"{SWITCHES}.structlog",
        sighting="structlog_handshake",
        sees="`request_finished` is logged at the handshake's end",
    ),
    # What stands before views.
    Stranger(
        "WhiteNoise",
        ("whitenoise",),
        "middleware",
        middleware_first=("whitenoise.middleware.WhiteNoiseMiddleware",),
        settings={
            "WHITENOISE_ROOT": "tests/compat/project/static",
            "WHITENOISE_USE_FINDERS": False,
        },
        sighting="whitenoise",
        sees="it serves its file",
    ),
    Stranger(
        "ServeStatic",
        ("servestatic",),
        "middleware",
        middleware_first=("servestatic.middleware.ServeStaticMiddleware",),
        settings={"SERVESTATIC_ROOT": "tests/compat/project/static"},
        sighting="whitenoise",
        sees="it serves its file",
    ),
    Stranger(
        "ServeStatic, ASGI",
        ("servestatic",),
        "`ServeStaticASGI` around the application",
        wrapper=f"{SWITCHES}.servestatic",
        sighting="servestatic",
        sees="it serves its file",
    ),
    Stranger(
        "django-csp",
        ("django-csp",),
        "app and middleware",
        apps=("csp",),
        middleware=("csp.middleware.CSPMiddleware",),
        settings={"CONTENT_SECURITY_POLICY": {"DIRECTIVES": {"default-src": ["'self'"]}}},
        sighting="csp",
        sees="its header is on the stream",
    ),
    Stranger(
        "django-cors-headers",
        ("django-cors-headers",),
        "app and middleware",
        apps=("corsheaders",),
        middleware_first=("corsheaders.middleware.CorsMiddleware",),
        settings={"CORS_ALLOWED_ORIGINS": ["https://elsewhere.example"]},
        sighting="cors",
        sees="its header is on the stream, and on a refusal",
    ),
    # Users and permissions.
    Stranger(
        "django-axes",
        ("django-axes",),
        "app, middleware and backend",
        apps=("axes",),
        middleware=("axes.middleware.AxesMiddleware",),
        settings={
            "AUTHENTICATION_BACKENDS": [
                "axes.backends.AxesStandaloneBackend",
                "django.contrib.auth.backends.ModelBackend",
            ],
            "AXES_FAILURE_LIMIT": 3,
            "REST_FRAMEWORK": {"DEFAULT_AUTHENTICATION_CLASSES": [f"{_DRF}.BasicAuthentication"]},
        },
        credentials="basic",
        sighting="axes",
        sees="three wrong passwords at a stream's handshake lock the right one out",
    ),
    Stranger(
        "django-allauth",
        ("django-allauth",),
        "apps, middleware and backend",
        apps=("allauth", "allauth.account"),
        middleware=("allauth.account.middleware.AccountMiddleware",),
        settings={
            "AUTHENTICATION_BACKENDS": [
                "django.contrib.auth.backends.ModelBackend",
                "allauth.account.auth_backends.AuthenticationBackend",
            ],
            "ACCOUNT_EMAIL_VERIFICATION": "none",
        },
        urls={"accounts/": "allauth.urls"},
        credentials="login",
        sees="the session of its login page opens the stream",
    ),
    Stranger(
        "django-guardian",
        ("django-guardian",),
        "app and backend",
        apps=("guardian",),
        settings={
            "AUTHENTICATION_BACKENDS": [
                "django.contrib.auth.backends.ModelBackend",
                "guardian.backends.ObjectPermissionBackend",
            ]
        },
        urls={"guarded/<int:pk>/": "tests.compat.project.guarded.Guarded"},
        sighting="guardian",
        sees="the permission for one object opens its stream, and no other's",
    ),
    Stranger(
        "Simple JWT",
        ("djangorestframework-simplejwt",),
        "authentication class",
        settings={
            "REST_FRAMEWORK": {
                "DEFAULT_AUTHENTICATION_CLASSES": [
                    "rest_framework_simplejwt.authentication.JWTAuthentication"
                ]
            }
        },
        urls={"token/": "rest_framework_simplejwt.views.TokenObtainPairView"},
        credentials="jwt",
        sees="its token opens the stream; a wrong one is a 401",
    ),
    Stranger(
        "Knox",
        ("django-rest-knox",),
        "app and authentication class",
        apps=("knox",),
        settings={
            "REST_FRAMEWORK": {
                "DEFAULT_AUTHENTICATION_CLASSES": ["knox.auth.TokenAuthentication"]
            }
        },
        credentials="knox",
        sees="its token opens the stream; a wrong one is a 401",
    ),
)
