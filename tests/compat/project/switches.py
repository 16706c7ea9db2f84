"""What a package's own documentation has a project call in its settings, or around its application."""

# Each function is called only where its package is the stranger of the process.

from __future__ import annotations

import os
from typing import Any


def sentry() -> None:
    import sentry_sdk

    sentry_sdk.init(
        dsn=_address("http://key@", "/1"),
        traces_sample_rate=1.0,
        send_default_pii=True,
    )


def sentry_without_django() -> None:
    """Leave the request to Sentry's ASGI middleware alone."""
    import sentry_sdk
    from sentry_sdk.integrations.django import DjangoIntegration

    sentry_sdk.init(
        dsn=_address("http://key@", "/1"),
        traces_sample_rate=1.0,
        disabled_integrations=[DjangoIntegration()],
    )


def sentry_middleware(application: Any) -> Any:
    from sentry_sdk.integrations.asgi import SentryAsgiMiddleware

    return SentryAsgiMiddleware(application)


def opentelemetry_exporter() -> None:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def opentelemetry_django() -> None:
    from opentelemetry.instrumentation.django import DjangoInstrumentor

    opentelemetry_exporter()
    DjangoInstrumentor().instrument()


def opentelemetry_middleware(application: Any) -> Any:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    return OpenTelemetryMiddleware(application)


def opentelemetry_middleware_without_messages(application: Any) -> Any:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    return OpenTelemetryMiddleware(application, exclude_spans=["receive", "send"])


def logfire_django() -> None:
    import logfire

    logfire.configure(send_to_logfire=False, console=False, inspect_arguments=False)
    logfire.instrument_django()


def logfire_exporter() -> None:
    import logfire

    logfire.configure(send_to_logfire=False, console=False, inspect_arguments=False)


def logfire_middleware(application: Any) -> Any:
    import logfire

    return logfire.instrument_asgi(application)


def newrelic_agent() -> None:
    import newrelic.agent

    newrelic.agent.initialize()


def datadog_middleware(application: Any) -> Any:
    from ddtrace.contrib.asgi import TraceMiddleware

    return TraceMiddleware(application)


def elastic_middleware(application: Any) -> Any:
    from elasticapm.contrib.asgi import ASGITracingMiddleware

    return ASGITracingMiddleware(application)


def structlog() -> None:
    import structlog

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def servestatic(application: Any) -> Any:
    from pathlib import Path

    from servestatic import ServeStaticASGI

    return ServeStaticASGI(application, root=Path(__file__).parent / "static", prefix="files")


def passing_on(application: Any) -> Any:
    """A pure ASGI middleware, which wraps all that it passes on and copies the scope."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def own_receive() -> Any:
            return await receive()

        async def own_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"x-passed-on", b"yes")]
                message = {**message, "headers": headers}
            await send(message)

        await application(dict(scope), own_receive, own_send)

    return wrapped


def always(request: Any) -> bool:
    """Show the debug toolbar to all."""
    return True


def _address(before: str, after: str) -> str:
    """Return the address of the bench's collector."""
    return f"{before}{os.environ.get('COLLECTOR', '127.0.0.1:9')}{after}"
