"""Fixtures for tests of the modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

# Known as fixtures also where the package's plugin is not installed.
from django_sse.pytest_plugin import sse_connect, sse_published  # noqa: F401


@pytest.fixture
def registry() -> Iterator[dict[type, Any]]:
    """The registry of ``@serializes``, put back as it was after the test."""
    # A conftest is loaded before there are settings.
    from django_sse.wire.serialization import registry  # noqa: PLC0415

    before = dict(registry)
    yield registry
    registry.clear()
    registry.update(before)


@pytest.fixture
def broker() -> Iterator[Any]:
    """A broker in memory of the test's own, which this process uses meanwhile."""
    from django_sse.brokers import use_broker  # noqa: PLC0415
    from django_sse.brokers.memory import MemoryBroker  # noqa: PLC0415

    broker = MemoryBroker()
    before = use_broker(broker)
    yield broker
    use_broker(before)


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What ends the streams of the process, which goes on after the test."""
    from django_sse.connection.shutdown import shutdown  # noqa: PLC0415

    monkeypatch.setattr(shutdown, "draining", False)
    return shutdown
