"""The broker in memory, as far as it is not as every broker: see ``tests/brokers``."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from django_sse import SSEView, apublish
from django_sse.brokers.base import PASSING
from django_sse.brokers.memory import MemoryBroker
from django_sse.testing import connect
from tests.support.ear import Ear, publish


class Follows(SSEView):
    heartbeat = None
    topics = ["a"]


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


async def test_publishers_context_is_none_of_the_streams(broker: MemoryBroker) -> None:
    who = ContextVar("who", default="nobody")
    seen: list[str] = []
    view = Follows.as_asgi()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def observed(message: Any) -> None:
            if b"data" in message.get("body", b""):
                seen.append(who.get())
            await send(message)

        await view(scope, receive, observed)

    async with connect(application) as stream:
        while not stream.last_event_id:
            await stream.receive_block()
        who.set("publisher")
        await apublish("a", "x")
        await stream.receive()
    assert seen == ["nobody"]
