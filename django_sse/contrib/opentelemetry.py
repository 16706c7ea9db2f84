"""Spans of OpenTelemetry, where ``opentelemetry-api`` is installed: of publishing, and of streams.

*Publishing*: a ``PRODUCER`` span named ``publish`` around the hand-over to the broker, after the
semantic conventions of messaging. The topic is no part of its name, since topics carry keys
(``shop:17:orders``) and names are to be few. What the broker's client does is within it.

*Streams*: one span for each, made at its end from the moment it began, since a stream outlives what
a collector is ready to wait for. Its kind is ``INTERNAL``: the ``SERVER`` span of the request belongs
to the HTTP instrumentation, whose child it is, and a second one would count the request twice. The
user is absent on purpose: who listens, and for how long, is nobody's business by default.

Without a configured SDK the API makes spans that record nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode, Tracer, TracerProvider

from django_sse import __version__
from django_sse.signals import stream_closed
from django_sse.topics import publishing

_UID = "django_sse.contrib.opentelemetry"


def register(provider: TracerProvider | None = None) -> None:
    """Make spans, with the global provider unless another is given; done as the app is loaded."""
    unregister()
    spans = Spans(trace.get_tracer("django_sse", __version__, provider), own=provider is not None)
    publishing.watcher = spans.publishing
    stream_closed.connect(spans.on_closed, weak=False, dispatch_uid=_UID)


def unregister() -> None:
    """Make no more spans; publishing and streams cost nothing more then."""
    if isinstance(getattr(publishing.watcher, "__self__", None), Spans):
        publishing.watcher = None
    stream_closed.disconnect(dispatch_uid=_UID)


class Spans:
    """Makes spans with one tracer."""

    def __init__(self, tracer: Tracer, *, own: bool) -> None:
        self._tracer = tracer
        self._own = own

    @contextmanager
    def publishing(self, topics: tuple[str, ...]) -> Iterator[Callable[[str], None]]:
        """Span a hand-over to the broker; an exception makes it an error."""
        if not self._own and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            # The library is installed, and nobody has set it up: spans would go nowhere.
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

    async def on_closed(
        self, sender: type, *, view: Any, reason: str, duration: float, **kwargs: Any
    ) -> None:
        """Span a stream that has ended."""
        end = time.time_ns()
        match = view.request.resolver_match
        attributes = {
            "django_sse.view": f"{sender.__module__}.{sender.__qualname__}",
            "django_sse.close_reason": reason,
        }
        # Routed by Channels, there is no resolver match.
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
