"""The spans of OpenTelemetry, as an exporter gets them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from asgiref.sync import sync_to_async
from django.test import override_settings
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from django_sse import PublishFailed, SSEView, apublish, publish, session, stats
from django_sse.asgi import get_asgi_application
from django_sse.brokers import use_broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.contrib import opentelemetry
from django_sse.testing import StreamEnded, connect


class Away(MemoryBroker):
    """A broker that takes nothing."""

    def publish(self, *args: object, **options: object) -> None:  # type: ignore[override]
        raise PublishFailed("It is away.", may_be_stored=False)


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    opentelemetry.register(provider)
    yield provider
    # As the app has left it.
    opentelemetry.register()
    provider.shutdown()


@pytest.fixture
def exported(provider: TracerProvider) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


def _only(exported: InMemorySpanExporter) -> ReadableSpan:
    [span] = exported.get_finished_spans()
    exported.clear()
    return span


async def test_opentelemetry_spans_what_is_published(
    provider: TracerProvider, exported: InMemorySpanExporter
) -> None:
    with provider.get_tracer("tests").start_as_current_span("request") as request:
        event_id = await apublish("shop:17:orders", "new")
    span, _ = exported.get_finished_spans()
    exported.clear()
    assert (span.name, span.kind) == ("publish", SpanKind.PRODUCER)
    assert span.parent == request.get_span_context()
    assert span.attributes == {
        "messaging.system": "django_sse",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "shop:17:orders",
        "messaging.message.id": event_id,
    }

    sent_id = await sync_to_async(publish)(["a", "b"], "new", on_commit=False)
    attributes = dict(_only(exported).attributes or {})
    assert attributes["django_sse.topics"] == ("a", "b")
    assert attributes["messaging.message.id"] == sent_id
    assert "messaging.destination.name" not in attributes

    before = use_broker(Away())
    try:
        with pytest.raises(PublishFailed):
            await sync_to_async(publish)("a", "new", on_commit=False)
    finally:
        use_broker(before)
    span = _only(exported)
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "PublishFailed"

    opentelemetry.unregister()
    await apublish("a", "new")
    assert exported.get_finished_spans() == ()


class Echo(SSEView):
    async def stream(self) -> None:
        await self.send("one")


class Failing(SSEView):
    async def stream(self) -> None:
        await self.send("one")
        raise RuntimeError("stream() is broken")


@pytest.mark.django_db(transaction=True)
async def test_opentelemetry_spans_streams_at_their_end(
    exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.time_ns()
    with override_settings(ROOT_URLCONF="tests.project.urls", DJANGO_SSE={"HEARTBEAT": None}):
        async with connect(get_asgi_application(), "/shops/eu/orders/7/") as stream:
            await stream.receive(timeout=5)
            opened = time.time_ns()
    span = _only(exported)
    assert span.name == "stream /shops/<slug:shop>/orders/<int:number>/"
    assert span.kind is SpanKind.INTERNAL
    assert span.attributes == {
        "django_sse.view": "tests.project.streams.Echo",
        "django_sse.close_reason": "completed",
        "http.route": "/shops/<slug:shop>/orders/<int:number>/",
    }
    assert span.start_time is not None
    assert span.end_time is not None
    # Two clocks are involved: that of the wall, and that of durations.
    slack = 20_000_000
    assert began - slack <= span.start_time <= opened + slack
    assert span.start_time <= span.end_time <= time.time_ns()

    async with connect(Failing.as_asgi(), "/") as stream:
        await stream.receive(timeout=5)
        with pytest.raises(StreamEnded, match="is broken"):
            await stream.receive_end(timeout=5)
    span = _only(exported)
    assert (span.name, span.status.status_code) == ("stream", StatusCode.ERROR)
    assert (span.attributes or {})["django_sse.close_reason"] == "error"


async def test_a_stream_ends_where_its_span_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("the exporter is broken")

    monkeypatch.setattr(session, "watcher", fail)
    before = stats()["open"]
    async with connect(Echo.as_asgi(), "/") as stream:
        await stream.receive(timeout=5)
        await stream.receive_end(timeout=5)
    assert stats()["open"] == before
    assert "the exporter is broken" in caplog.text
