"""The broker in memory, as far as it is not as every broker: see ``tests/brokers``."""

from __future__ import annotations

from typing import Any

from django_sse.brokers.base import PASSING
from tests.brokers.ear import Ear, publish


async def test_answers_are_delivered_and_not_held(broker: Any) -> None:
    before = broker.latest_id()
    ear = Ear(broker)
    topics = [f"{PASSING}a", "b"]
    await ear.listener.subscribe(topics)
    last = await publish(broker, f"{PASSING}a", b"data: answer\n")
    await ear.until_id(last)
    last = await publish(broker, topics, b"data: both\n")
    await ear.until_id(last)
    assert ear.heads == [b"data: answer\n", b"data: both\n"]
    assert [message.head for message in broker.replay(["b"], before)] == [b"data: both\n"]
    assert broker.replay([f"{PASSING}a"], before) == []
    await ear.listener.close()
