"""A start that fails."""

from __future__ import annotations

from typing import Any

import pytest

from django_sse import JobView, PublishFailed
from django_sse.brokers import use_broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.testing import connect

pytestmark = pytest.mark.usefixtures("broker")


class Unreachable(MemoryBroker):
    """Is away when a job ends."""

    async def apublish(self, topics: Any, head: bytes, *args: Any, **options: Any) -> Any:
        if b"event: end" in head:
            raise PublishFailed("The broker is away.", may_be_stored=False)
        return await super().apublish(topics, head, *args, **options)


class Queued(JobView):
    async def enqueue(self, job_id: str) -> None:
        raise ValueError("no queue")


async def test_broker_that_is_away_hides_no_error_of_a_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    use_broker(Unreachable())
    async with connect(Queued, method="POST") as stream:
        assert stream.status_code == 500
    assert "Internal Server Error" in caplog.text
    assert "ValueError: no queue" in caplog.text
    assert "could not be stored" in caplog.text
