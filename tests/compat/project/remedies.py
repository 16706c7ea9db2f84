"""The remedies that ``docs/compatibility.md`` shows: the page has these very lines, and the bench runs them."""

from __future__ import annotations

import logging
from typing import Any

from django.http import HttpResponse

try:
    from django_structlog.middlewares import RequestMiddleware
except ImportError:  # In the bench's environment only.
    RequestMiddleware = object


class StreamRequestMiddleware(RequestMiddleware):
    """django-structlog's middleware, which leaves the content of streams alone."""

    def handle_response(self, request: Any, response: Any) -> None:
        if response.get("Content-Type") == "text/event-stream":
            # The parent logs what it sees of a response, and wraps the content of a streaming one.
            response = HttpResponse(status=response.status_code, headers=response.headers)
        super().handle_response(request, response)


class NewRelicHandler(logging.Handler):
    """Reports the exceptions that django_sse logs to New Relic."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            import newrelic.agent

            # Its transaction may have ended with the handshake.
            newrelic.agent.notice_error(
                record.exc_info,
                attributes={"path": getattr(record, "path", None)},
                application=newrelic.agent.application(),
            )


class DatadogHandler(logging.Handler):
    """Marks the span of the request whose stream has failed."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            from ddtrace.trace import tracer

            span = tracer.current_root_span()
            if span is not None:
                span.set_exc_info(*record.exc_info)


class SpanHandler(logging.Handler):
    """Records the exception on OpenTelemetry's current span."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            from opentelemetry import trace

            trace.get_current_span().record_exception(record.exc_info[1])
