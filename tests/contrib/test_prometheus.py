"""The metrics of Prometheus, as a scrape shows them."""

from __future__ import annotations

import re
import subprocess
import sys

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from django_sse import apublish
from django_sse.contrib import prometheus
from django_sse.monitoring.metrics import REASONS
from django_sse.testing import connect
from tests.integration.topics.project.streams import Numbers
from tests.support.servers import ROOT


def _scrape(registry: CollectorRegistry | None = None) -> dict[str, float]:
    text = (generate_latest() if registry is None else generate_latest(registry)).decode()
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("django_sse_")
    }


async def test_prometheus_counts_a_stream_from_its_beginning_to_its_end() -> None:
    # The app has registered itself in the default registry.
    before = _scrape()
    assert {name for name in before if "closed" in name} == {
        f"django_sse_streams_closed_total{reason}" for reason in REASONS
    }
    async with connect(Numbers, "/numbers/?topics=a") as stream:
        assert (await stream.receive(timeout=5)).event == "snapshot"
        await apublish("a", "one")
        await stream.receive(timeout=5)
        during = _scrape()
    after = _scrape()
    assert {
        name: during[name] - before[name] for name in during if during[name] != before[name]
    } == {
        "django_sse_streams_open": 1,
        "django_sse_streams_opened_total": 1,
        "django_sse_events_sent_total": 2,
        "django_sse_events_published_total": 1,
    }
    assert {name: after[name] - during[name] for name in after if after[name] != during[name]} == {
        "django_sse_streams_open": -1,
        "django_sse_streams_closed_totalclient": 1,
    }


def test_prometheus_is_registered_once_and_can_be_taken_out() -> None:
    registry = CollectorRegistry()
    prometheus.register(registry)
    prometheus.register(registry)
    assert len(_scrape(registry)) == 6 + len(REASONS)
    prometheus.unregister(registry)
    prometheus.unregister(registry)
    assert _scrape(registry) == {}


def test_contrib_imports_nothing_where_libraries_are_missing() -> None:
    program = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"prometheus_client", "opentelemetry"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import django
django.setup()
from django_sse import signals
from django_sse.topics import publishing
from django_sse.apps import OBSERVERS
print([name for name in OBSERVERS if name in sys.modules])
print(publishing.watcher, signals.stream_closed.receivers)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={"DJANGO_SETTINGS_MODULE": "testproject.settings", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\nNone []\n", "")
    # The same finds both here, where they are installed.
    program = re.sub(r"sys\.meta_path.*\n", "\n", program)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"DJANGO_SETTINGS_MODULE": "testproject.settings", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "django_sse.contrib.prometheus" in done.stdout
    assert "Spans.publishing" in done.stdout
