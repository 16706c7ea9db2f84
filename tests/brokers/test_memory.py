"""What only the broker in memory has to answer for: clocks, its bounds, and other loops' ends."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_sse import SSEView, apublish
from django_sse.brokers import memory, use_broker
from django_sse.brokers.base import PASSING, Broker, EventId
from django_sse.brokers.memory import MemoryBroker
from django_sse.exceptions import HistoryLost
from django_sse.testing import connect
from tests.support.ear import PATIENCE, Ear, publish

Listen = Callable[[Broker], Ear]


class Clock:
    """Stands in for the ``time`` module, and moves when it is told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def time_ns(self) -> int:
        return int(self.now * 1_000_000_000)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(memory, "time", clock)
    return clock


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    """A broker in memory, which this process uses meanwhile."""
    broker = MemoryBroker()
    before = use_broker(broker)
    yield broker
    use_broker(before)


def put(broker: Broker, topic: str) -> EventId:
    return broker.publish([topic], b"", timeout=1)


async def test_ids_rise_when_the_clock_goes_back(clock: Clock, listen: Listen) -> None:
    broker = MemoryBroker()
    ids = [put(broker, "a")]
    for step in 10.0, -3600.0, 0.0, 0.001, 3600.0:
        clock.now += step
        ids.append(put(broker, "a"))
    assert ids == sorted(set(ids))
    assert [m.id for m in await listen(broker).listener.replay(["a"], ids[0])] == ids[1:]


async def test_old_events_are_let_go(clock: Clock, listen: Listen) -> None:
    broker = MemoryBroker(options={"MAX_AGE": 60})
    listener = listen(broker).listener
    start = broker.latest_id()
    first = put(broker, "a")
    clock.now += 40
    second = put(broker, "a")
    clock.now += 40
    third = put(broker, "a")
    with pytest.raises(HistoryLost):
        await listener.replay(["a"], start)
    assert [m.id for m in await listener.replay(["a"], first)] == [second, third]


async def test_unused_topics_expire_and_are_remembered(clock: Clock, listen: Listen) -> None:
    broker = MemoryBroker(options={"MAX_AGE": 60})
    listener = listen(broker).listener
    before = put(broker, "other")
    quiet = put(broker, "quiet")
    clock.now += 100
    put(broker, "busy")
    assert list(broker._logs) == ["busy"]
    with pytest.raises(HistoryLost, match="quiet"):
        await listener.replay(["quiet"], before)
    # Who has seen its last event has missed nothing, and neither has who follows another topic.
    assert await listener.replay(["quiet", "never"], quiet) == []
    assert await listener.replay(["never", "other"], before) == []
    # When the topic comes back, what was let go is still known.
    again = put(broker, "quiet")
    assert [m.id for m in await listener.replay(["quiet"], quiet)] == [again]
    with pytest.raises(HistoryLost, match="quiet"):
        await listener.replay(["quiet"], before)


async def test_memory_is_bounded_whatever_the_number_of_topics(listen: Listen) -> None:
    broker = MemoryBroker(options={"TOPICS": 3, "HISTORY": 2})
    listener = listen(broker).listener
    ids = [put(broker, f"topic {number}") for number in range(100)]
    assert len(broker._logs) == 3
    assert len(broker._evicted) == 30
    # Held; remembered; forgotten, where only ids above all that was forgotten can be trusted.
    assert [m.id for m in await listener.replay(["topic 97"], ids[96])] == [ids[97]]
    assert await listener.replay(["topic 96"], ids[96]) == []
    with pytest.raises(HistoryLost):
        await listener.replay(["topic 96"], ids[95])
    for topic in "topic 66", "never":
        assert await listener.replay([topic], ids[66]) == []
        with pytest.raises(HistoryLost):
            await listener.replay([topic], ids[65])


async def test_a_loop_that_ended_does_not_disturb_publishing(listen: Listen) -> None:
    broker = MemoryBroker()

    async def leave_open() -> None:
        await broker.listen(lambda message: None, lambda topics: None).subscribe(["a", "b"])

    thread = threading.Thread(target=asyncio.run, args=(leave_open(),))
    thread.start()
    await asyncio.to_thread(thread.join)
    ear = listen(broker)
    await ear.listener.subscribe(["a"])
    await ear.until_id(await publish(broker, "a", b""))
    assert [len(listeners) for listeners in broker._followers.values()] == [1]


async def test_many_messages_wake_a_loop_once(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = MemoryBroker()
    ear = listen(broker)
    await ear.listener.subscribe(["a"])
    loop = asyncio.get_running_loop()
    wake = loop.call_soon_threadsafe
    calls = []
    monkeypatch.setattr(
        loop,
        "call_soon_threadsafe",
        lambda *args, **kwargs: (calls.append(args), wake(*args, **kwargs))[1],
    )
    ids = [put(broker, "a") for _ in range(1000)]
    assert len(calls) == 1
    await ear.until_id(ids[-1])
    assert [message.id for message in ear.messages] == ids


async def test_a_loop_blocked_for_too_long_is_told(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "QUEUE_LIMIT", 10)
    broker = MemoryBroker()
    ear = listen(broker)
    await ear.listener.subscribe(["a", "b"])
    with caplog.at_level(logging.WARNING):
        ids = [put(broker, "a") for _ in range(25)]
        await ear.until_id(ids[-1])
    assert ear.heard[0] == {"a", "b"}
    assert [message.id for message in ear.messages] == ids[20:]
    assert "blocked" in caplog.text


async def test_nothing_of_a_topic_comes_that_was_published_before_it_was_subscribed(
    listen: Listen,
) -> None:
    broker = MemoryBroker()
    ear = listen(broker)
    await ear.listener.subscribe(["a"])
    put(broker, "a")
    # Without a turn of the loop, so that the message is still on its way.
    await ear.listener.unsubscribe(["a"])
    await ear.listener.subscribe(["a"])
    event_id = put(broker, "a")
    async with asyncio.timeout(PATIENCE):
        await ear.until_id(event_id)
    assert [message.id for message in ear.messages] == [event_id]


def test_a_location_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="RedisBroker"):
        MemoryBroker("redis://localhost")


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
