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
    from django_sse.serialization import registry  # noqa: PLC0415

    before = dict(registry)
    yield registry
    registry.clear()
    registry.update(before)
