"""Spans for OpenTelemetry, of publishing and of streams, where ``opentelemetry-api`` is installed.

*Publishing*: a ``PRODUCER`` span named ``publish`` around the hand-over to the broker, after the
semantic conventions for messaging. Its name does not have the topic, because topics contain keys
(``shop:17:orders``) and span names should be few. Spans of the broker's client are within it.

*Streams*: one span for each, which is made at its end and begins when the stream began. A stream
lives longer than a collector waits for a span. The kind is ``INTERNAL``, and the parent is the
request's ``SERVER`` span of the HTTP instrumentation: a second ``SERVER`` span would count the
request twice. The span does not have the user on purpose: by default, a trace should not say who
reads what for how long.

Without a configured SDK, the API makes spans that record nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode, Tracer, TracerProvider

from django_sse import __version__, session
from django_sse.topics import publishing


def register(provider: TracerProvider | None = None) -> None:
    """Begin to make spans, with the global provider unless another is given; the app calls this."""
    unregister()
    spans = Spans(trace.get_tracer("django_sse", __version__, provider), own=provider is not None)
    publishing.watcher = spans.publishing
    session.watcher = spans.closed


def unregister() -> None:
    """Stop to make spans. Publishing and streams then cost nothing more."""
    if isinstance(getattr(publishing.watcher, "__self__", None), Spans):
        publishing.watcher = None
    if isinstance(getattr(session.watcher, "__self__", None), Spans):
        session.watcher = None


class Spans:
    """Makes spans with one tracer."""

    def __init__(self, tracer: Tracer, *, own: bool) -> None:
        """Take the tracer; ``own`` says that it is not the global provider's."""
        self._tracer = tracer
        self._own = own

    def _records_nothing(self) -> bool:
        """Return whether the library is installed and not set up."""
        return not self._own and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

    @contextmanager
    def publishing(self, topics: tuple[str, ...]) -> Iterator[Callable[[str], None]]:
        """Make a span around a hand-over to the broker; an exception makes it an error."""
        if self._records_nothing():
            yield lambda event_id: None
            return
        attributes: dict[str, Any] = {
            "messaging.system": "django_sse",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
        }
        if len(topics) == 1:
            attributes["messaging.destination.name"] = topics[0]
        else:
            attributes["django_sse.topics"] = topics
        with self._tracer.start_as_current_span(
            "publish", kind=SpanKind.PRODUCER, attributes=attributes
        ) as span:
            try:
                yield lambda event_id: span.set_attribute("messaging.message.id", event_id)
            except Exception as error:
                span.set_attribute("error.type", type(error).__qualname__)
                raise

    def closed(self, view: Any, reason: str, duration: float) -> None:
        """Make the span of a stream that has ended."""
        if self._records_nothing():
            return
        end = time.time_ns()
        match = view.request.resolver_match
        attributes = {
            "django_sse.view": f"{type(view).__module__}.{type(view).__qualname__}",
            "django_sse.close_reason": reason,
        }
        # A stream that Channels routes has no resolver match.
        name = "stream"
        if match is not None:
            attributes["http.route"] = f"/{match.route}"
            name = f"stream /{match.route}"
        span = self._tracer.start_span(
            name, start_time=end - round(duration * 1e9), attributes=attributes
        )
        if reason == "error":
            span.set_attribute("error.type", "error")
            span.set_status(StatusCode.ERROR, "stream() raised; see the log.")
        span.end(end)
