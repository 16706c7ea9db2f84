"""What is known of a job, as the broker has it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_sse.brokers import use_broker
from django_sse.brokers.base import EventId, Listener, Message
from django_sse.brokers.memory import MemoryBroker
from django_sse.exceptions import BrokerError
from django_sse.jobs.records import Job, decode, find, is_job_id
from django_sse.topics.hub import get_hub
from django_sse.wire.events import encode_head

pytestmark = pytest.mark.usefixtures("broker")

ID = "0123456789abcdef"


@pytest.mark.parametrize("text", [ID, "a" * 100, "_-" * 8])
def test_ids_of_jobs(text: str) -> None:
    assert is_job_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 15,
        "a" * 101,
        "a" * 100_000,
        f"{ID}\x00",
        f"{ID}\n",
        f"../{ID}",
        f"{ID}:",
        f"é{ID}",
        "٣" * 16,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_id_of_a_job(text: str) -> None:
    assert not is_job_id(text)


def test_record_of_a_newer_version_is_read() -> None:
    given = Job(id=ID, view="shop.A", owner=None, state="done", end=EventId(7, 1))
    [line] = [it for it in given.encode().splitlines() if it.startswith(b"data: ")]
    values = json.loads(line[6:]) | {"priority": 7}
    found = decode(Message(EventId(8, 0), ("x",), encode_head(json.dumps(values), None)))
    assert (found.state, found.end, found.record_id) == ("done", EventId(7, 1), EventId(8, 0))


class Unwilling(MemoryBroker):
    """Its listener answers no question."""

    def listen(self, *args: Any) -> Any:
        listener = super().listen(*args)

        async def newest(*args: Any, **options: Any) -> list[Message]:
            await asyncio.Event().wait()
            return []

        listener.newest = newest  # type: ignore[method-assign]
        return listener


async def test_broker_that_does_not_answer_is_an_error() -> None:
    with override_settings(DJANGO_SSE={"PUBLISH_TIMEOUT": 0.01}):
        use_broker(Unwilling())
        with pytest.raises(BrokerError, match=r"did not say within 0\.01 s what it knows of a job"):
            await find(ID)
    use_broker(Unwilling())
    # The listener is kept for as long as it is asked, and no longer.
    question = asyncio.create_task(find(ID))
    await asyncio.sleep(0)
    assert not get_hub().unused
    question.cancel()
    await asyncio.wait([question])
    assert get_hub().unused


async def test_broker_that_cannot_look_backwards_is_named() -> None:
    class Forward(MemoryBroker):
        def listen(self, *args: Any) -> Any:
            listener = super().listen(*args)
            known = type(listener)
            listener.__class__ = type("Short", (known,), {"newest": Listener.newest})
            return listener

    use_broker(Forward())
    with pytest.raises(ImproperlyConfigured, match=r"Forward cannot find jobs: .* no newest\(\)"):
        await find(ID)
