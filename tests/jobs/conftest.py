"""Brokers of each kind, for what jobs ask of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.brokers.conftest import make_broker, redis_broker, redis_server, shared_redis

__all__ = ["make_broker", "redis_broker", "redis_server", "shared_redis"]


@pytest.fixture(autouse=True)
async def no_jobs_left() -> AsyncIterator[None]:
    """End what is left of the jobs of a test."""
    # Import it here: pytest loads a conftest before Django's settings.
    import asyncio  # noqa: PLC0415

    from django_sse.jobs.background import background  # noqa: PLC0415

    yield
    background.end(asyncio.get_running_loop())
    await background.settle()
    assert len(background) == 0
