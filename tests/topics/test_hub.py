"""The hub of an event loop, whose listener may fail; the flow through it is in ``tests/integration/topics``."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.permissions import BasePermission

from django_sse import SSEView, apublish, stats
from django_sse.brokers import use_broker
from django_sse.brokers.memory import MemoryBroker, MemoryListener
from django_sse.connection.outbox import Outbox
from django_sse.connection.roster import roster
from django_sse.exceptions import BrokerError
from django_sse.testing import connect
from django_sse.topics import hub
from django_sse.topics.cohort import Cohort
from django_sse.topics.hub import get_hub
from django_sse.topics.orders import CONTROL, aclose_streams
from django_sse.topics.subscription import Subscription
from tests.support.waiting import eventually


class Failing(MemoryBroker):
    """Its listeners fail with what is in ``faults``, once each."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: set[tuple[str, str]] = set()

    def listen(self, *callbacks: Any) -> MemoryListener:
        return FailingListener(self, *callbacks)

    def fail(self, what: str, topics: Collection[str]) -> None:
        for fault in self.faults & {(what, topic) for topic in topics}:
            self.faults.remove(fault)
            raise BrokerError("The broker is away.")


class FailingListener(MemoryListener):
    _broker: Failing

    async def subscribe(self, topics: Collection[str]) -> None:
        self._broker.fail("subscribe", topics)
        await super().subscribe(topics)

    async def unsubscribe(self, topics: Collection[str]) -> None:
        self._broker.fail("unsubscribe", topics)
        await super().unsubscribe(topics)


@pytest.fixture
def failing() -> Iterator[Failing]:
    broker = Failing()
    before = use_broker(broker)
    yield broker
    use_broker(before)


class Listening(SSEView):
    """Follows the topics of its address."""

    heartbeat = None

    async def get_topics(self) -> list[str]:
        return list(self.kwargs["topics"])


class Silent(SSEView):
    """Has no topics; it counts on the hub for orders alone."""

    async def stream(self) -> None:
        await self.send("open")
        await asyncio.Event().wait()


async def test_orders_that_cannot_be_heard_are_asked_for_by_the_next_stream(
    failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    failing.faults.add(("subscribe", CONTROL))
    async with connect(Silent) as first:
        await first.receive()
        await eventually(lambda: "cannot receive orders to end streams" in caplog.text)
        async with connect(Silent) as second:
            await second.receive()
            await eventually(lambda: CONTROL in failing._followers)
            for opened in roster.streams():
                await aclose_streams(stream=opened.stream_id)
            for stream in (first, second):
                assert (await stream.receive()).event == "revoked"


async def test_topic_that_could_not_be_left_may_be_followed_again(
    failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    failing.faults.add(("unsubscribe", "a"))
    async with connect(Listening, kwargs={"topics": "b"}) as other:
        async with connect(Listening, kwargs={"topics": "a"}):
            pass
        await eventually(lambda: "listener could not unsubscribe" in caplog.text)
        async with connect(Listening, kwargs={"topics": "ab"}) as stream:
            await apublish(["a", "b"], "x")
            assert (await stream.receive()).data == "x"
            assert (await other.receive()).data == "x"
    assert failing.faults == set()


async def test_events_that_come_while_the_hub_rests_are_written_in_one_piece(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    written: list[tuple[float, bytes]] = []
    write = Outbox.write

    def slow(outbox: Outbox, message: Any, *args: Any) -> bool:
        taken = write(outbox, message, *args)
        if taken:
            written.append((loop.time(), message["body"]))
            if len(written) <= 2:
                time.sleep(0.05)  # As writing to a great crowd may take.
        return taken

    monkeypatch.setattr(Outbox, "write", slow)
    async with connect(Listening, kwargs={"topics": "a"}) as stream:
        while not stream.last_event_id:
            await stream.receive_block()
        for number in range(5):
            await apublish("a", str(number))
            assert len(written) <= 1
            # Each in a turn of its own.
            for _ in range(5):
                await asyncio.sleep(0)
        assert [(await stream.receive()).data for _ in range(5)] == list("01234")
        await apublish("a", "later")
        assert (await stream.receive()).data == "later"
        (first, _), (second, joined), (third, _) = written
        assert joined.count(b"data: ") == 4
        assert 0.075 <= second - first < 1  # The writing, and half as long again after one event.
        assert 0.09 <= third - second < 1  # Nearly as long again after several.
        # It is rested: what comes alone is written at once.
        await asyncio.sleep(0.01)
        await apublish("a", "alone")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(written) == 4


async def test_the_first_event_of_a_topic_is_written_as_any_later_one(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks: list[bytes | None] = []
    write = Outbox.write

    def noting(outbox: Outbox, message: Any, size: int, chunk: bytes | None = None) -> bool:
        chunks.append(chunk)
        return write(outbox, message, size, chunk)

    monkeypatch.setattr(Outbox, "write", noting)
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(connect(Listening, kwargs={"topics": "a"}))
            for _ in range(3)
        ]
        for stream in streams:
            while not stream.last_event_id:
                await stream.receive_block()
        await apublish("a", "first")
        for stream in streams:
            assert (await stream.receive()).data == "first"
    # One chunk, which all connections share.
    assert len(chunks) == 3
    assert chunks[0] is not None
    assert all(chunk is chunks[0] for chunk in chunks)


async def test_hub_is_closed_a_while_after_the_last_stream(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave_it() -> None:
        """Other than the testing kit, which closes it at once."""

    monkeypatch.setattr("django_sse.testing.client.close_idle_hub", leave_it)
    monkeypatch.setattr(hub, "LINGER", 0.01)
    async with connect(Silent) as stream:
        await stream.receive()
        async with connect(Listening, kwargs={"topics": "a"}):
            first = get_hub()
            await first.subscribe([CONTROL])
        await asyncio.sleep(0.05)
        assert get_hub() is first
        assert not first.closed
        # A stream is there, and hears what concerns it.
        await aclose_streams(stream=next(iter(roster.streams())).stream_id)
        assert (await stream.receive()).event == "revoked"
    await eventually(lambda: first.closed and not broker._followers)
    async with connect(Listening, kwargs={"topics": "a"}) as stream:
        assert get_hub() is not first
        await apublish("a", "x")
        assert (await stream.receive()).data == "x"
    await eventually(lambda: not broker._followers)


async def test_connection_that_fails_while_its_client_catches_up_gets_no_more(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    began = broker.latest_id()
    number = 20
    for _ in range(number):
        await apublish("a", "x" * 50_000)
    sent = stats()["sent"]
    listening = Listening.as_asgi()

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        async def broken(message: Any) -> None:
            if b"data" in message.get("body", b""):
                raise OSError("The client is gone.")
            await send(message)

        await listening({**scope, "url_route": {"kwargs": {"topics": "a"}}}, receive, broken)

    async with connect(failing, headers={"Last-Event-ID": str(began)}) as stream:
        # It has not left, as far as the server tells.
        await stream.receive_end()
    assert 0 < stats()["sent"] - sent < number
    assert not get_hub()._cohorts
    assert caplog.records == []


# The first event after the snapshot goes another way than those behind it.
@pytest.mark.parametrize("live", [False, True])
async def test_connection_that_cannot_be_written_to_costs_the_others_nothing(
    broker: MemoryBroker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    live: bool,
) -> None:
    write = Outbox.write
    outboxes: list[Any] = []

    def broken(self: Outbox, *args: Any) -> bool:
        if outboxes and self is outboxes[1]:
            raise RuntimeError("the connection is broken")
        return write(self, *args)

    monkeypatch.setattr(Outbox, "write", broken)
    view = Listening.as_view()
    async with (
        connect(view, kwargs={"topics": "a"}) as first,
        connect(view, kwargs={"topics": "a"}) as second,
        connect(view, kwargs={"topics": "a"}) as third,
    ):
        if live:
            await apublish("a", "first")
            for stream in (first, second, third):
                assert (await stream.receive()).data == "first"
        outboxes += [stream._outbox for stream in roster.streams()]
        await apublish("a", "x")
        for stream in (first, third):
            assert (await stream.receive()).data == "x"
        # Its client comes back, and has missed nothing.
        await second.receive_end()
    assert caplog.text.count("Writing to a connection failed; its client is to resume.") == 1


async def test_hub_stays_for_a_handshake_that_takes_longer_than_it_lingers(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave_it() -> None:
        """Other than the testing kit, which closes it at once."""

    monkeypatch.setattr("django_sse.testing.client.close_idle_hub", leave_it)
    monkeypatch.setattr(hub, "LINGER", 0.05)
    asked, answer = threading.Event(), threading.Event()

    class Slow(BasePermission):
        def has_permission(self, request: Any, view: Any) -> bool:
            asked.set()
            return answer.wait(10)

    class Guarded(Silent):
        permission_classes = [Slow]

    async def order() -> None:
        await asyncio.to_thread(asked.wait, 10)
        await asyncio.sleep(0.2)
        await aclose_streams(user=7)
        answer.set()

    ordering = asyncio.create_task(order())
    async with connect(Guarded, user=User(pk=7)) as stream:
        assert (await stream.receive()).event == "revoked"
    await ordering
    # It goes when it may.
    await eventually(lambda: get_hub_or_none() is None)


def get_hub_or_none() -> hub.Hub | None:
    return hub._hubs.get(asyncio.get_running_loop())


async def test_cohort_that_fails_keeps_nothing_from_the_others(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        connect(Listening, kwargs={"topics": "ab"}) as bad,
        connect(Listening, kwargs={"topics": "b"}) as good,
    ):
        for stream in (bad, good):
            while not stream.last_event_id:
                await stream.receive_block()
        flush = Cohort.flush

        def fail(cohort: Cohort) -> None:
            if "a" in cohort.topics and cohort.batch:
                raise RuntimeError("not foreseen")
            flush(cohort)

        monkeypatch.setattr(Cohort, "flush", fail)
        for number in range(3):
            await apublish("b", str(number))
            assert (await good.receive()).data == str(number)
    assert "Writing what was published failed." in caplog.text


async def test_rest_is_bounded(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "LONGEST_REST", 0.05)
    flush = Cohort.flush
    pauses = [0.5]

    def stopped(cohort: Cohort) -> None:
        if pauses and cohort.batch:
            time.sleep(pauses.pop())  # As a process that is stopped.
        flush(cohort)

    async with connect(Listening, kwargs={"topics": "a"}) as stream:
        while not stream.last_event_id:
            await stream.receive_block()
        monkeypatch.setattr(Cohort, "flush", stopped)
        await apublish("a", "1")
        assert (await stream.receive()).data == "1"
        await apublish("a", "2")
        assert (await stream.receive(timeout=0.3)).data == "2"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Tasks begin at once from Python 3.12 on.")
async def test_tasks_may_begin_at_once(broker: MemoryBroker) -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    for topic in "abc":
        async with connect(Listening, kwargs={"topics": topic}) as stream:
            await stream.receive_block()
    async with connect(Listening, kwargs={"topics": "x"}) as stream:
        while not stream.last_event_id:
            await stream.receive_block()
        mine = get_hub()
        await eventually(lambda: mine._subscribed == {"x", CONTROL})
        mine._lost({"x"})
        assert (await stream.receive()).event == "reset"
        await apublish("x", "after")
        assert (await stream.receive()).data == "after"


async def test_connection_that_cannot_hold_what_comes_is_given_up(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, reasons = asyncio.Event(), []

    class Late(Listening):
        async def stream(self) -> None:
            ready.set()
            await asyncio.Event().wait()

        async def disconnect(self) -> None:
            reasons.append(self.close_reason)

    def fail(*args: Any) -> None:
        raise MemoryError

    async with (
        connect(Late, kwargs={"topics": "a"}) as late,
        connect(Listening, kwargs={"topics": "a"}) as other,
    ):
        await ready.wait()
        while not other.last_event_id:
            await other.receive_block()
        monkeypatch.setattr(Subscription, "hold", fail)
        await apublish("a", "x")
        assert (await other.receive()).data == "x"
        await late.receive_end()
    assert reasons == ["overflow"]
