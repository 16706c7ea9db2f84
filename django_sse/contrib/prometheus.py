"""The numbers of ``django_sse.stats()`` as Prometheus metrics, where ``prometheus_client`` is
installed.

They are in the default registry once the app is loaded, so everything that exposes this registry
(``start_http_server()``, ``make_asgi_app()``, django-prometheus) shows them. Each scrape reads the
numbers of the process that answers it: give each worker a port of its own to be scraped on.

*Multiprocess mode* (``PROMETHEUS_MULTIPROC_DIR``) collects from files that only the library's own
metric classes write, into a registry of its own. It does not support custom collectors such as this
one: ``registry.register(SSECollector())`` beside the ``MultiProcessCollector`` would add the
numbers of the one process that answers, and not those of the others. ``manage.py sse_stats --json``
has the numbers of all processes.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry

from django_sse.connection.roster import roster
from django_sse.monitoring.metrics import REASONS, counters


class SSECollector(Collector):
    """Reads the counters when it is scraped, so it costs streams nothing."""

    def describe(self) -> Iterator[Metric]:
        """Return the metrics' names; the registry refuses other metrics with the same name."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Return the present numbers."""
        yield GaugeMetricFamily(
            "django_sse_streams_open", "Streams that are open in this process.", value=len(roster)
        )
        yield _counter("streams_opened", "Streams that were opened.", counters.opened)
        closed = CounterMetricFamily(
            "django_sse_streams_closed", "Streams that ended, by close reason.", labels=["reason"]
        )
        # Also report reasons that have not occurred: a rate needs a first value.
        for reason in REASONS:
            closed.add_metric([reason], counters.closed[reason])
        yield closed
        yield _counter(
            "streams_refused", "Streams that were told to come back later.", counters.refused
        )
        yield _counter(
            "events_sent", "Events given to connections, without heartbeats.", counters.sent
        )
        yield _counter("events_dropped", "Events that slow clients did not get.", counters.dropped)
        yield _counter("events_published", "Events that the broker took.", counters.published)


_collector = SSECollector()
_registered_in: list[CollectorRegistry] = []


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """Put the metrics into a registry; the app does this for the default one."""
    if registry not in _registered_in:
        registry.register(_collector)
        _registered_in.append(registry)


def unregister(registry: CollectorRegistry = REGISTRY) -> None:
    """Take the metrics out of a registry; do nothing if they are not in it."""
    if registry in _registered_in:
        _registered_in.remove(registry)
        registry.unregister(_collector)


def _counter(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(f"django_sse_{name}", text, value=value)
