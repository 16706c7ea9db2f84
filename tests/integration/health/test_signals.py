"""What a process tells of its streams: signals, and numbers."""

from __future__ import annotations

import asyncio
import gc
import heapq
import logging
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.dispatch import Signal

import django_sse
from django_sse.asgi import get_asgi_application
from django_sse.brokers import use_broker
from django_sse.brokers.base import Broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.brokers.redis import RedisBroker
from django_sse.signals import stream_closed, stream_opened
from django_sse.testing import StreamEnded, connect
from django_sse.topics.hub import get_hub
from django_sse.topics.orders import areports
from tests.support.redis_server import RedisServer

from .project.streams import Brief, Quiet, Recorded


@pytest.fixture
def application(settings: Any) -> Any:
    settings.ROOT_URLCONF = "tests.integration.health.project.urls"
    return get_asgi_application()


class Receivers:
    """Receivers of both signals, which are taken off at the end of a test."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any], int]] = []
        self._connected: list[tuple[Signal, Any]] = []

    def add(self, signal: Signal, receiver: Any, sender: Any = None) -> None:
        signal.connect(receiver, sender, weak=False)
        self._connected.append((signal, receiver))

    def note(self, name: str) -> Any:
        def receiver(signal: Signal, **kwargs: Any) -> None:
            self.told.append((name, kwargs, threading.get_ident()))

        return receiver

    def close(self) -> None:
        for signal, receiver in self._connected:
            # Of whichever sender: what was not connected is not disconnected either.
            for sender in (None, Quiet, Brief):
                signal.disconnect(receiver, sender)


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    receivers = Receivers()
    yield receivers
    receivers.close()


async def test_signals_tell_of_a_stream_from_its_beginning_to_its_end(
    application: Any, receivers: Receivers
) -> None:
    async def on_closed(signal: Signal, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        receivers.told.append(("closed", kwargs, threading.get_ident()))

    receivers.add(stream_opened, receivers.note("opened"))
    receivers.add(stream_closed, on_closed)
    receivers.add(stream_closed, receivers.note("another's"), sender=Brief)
    began = asyncio.get_running_loop().time()
    async with connect(application, "/quiet/?key=1") as stream:
        assert (await stream.receive()).data == "open"
        # Before stream() has sent anything.
        [(name, opened, thread)] = receivers.told
        assert name == "opened"
        assert opened["sender"] is Quiet
        assert opened["view"].request.GET["key"] == "1"
        assert thread != threading.get_ident()
    took = asyncio.get_running_loop().time() - began
    name, closed, thread = receivers.told[-1]
    assert len(receivers.told) == 2
    assert (name, closed["sender"], closed["reason"]) == ("closed", Quiet, "client")
    assert closed["view"] is opened["view"]
    assert 0 < closed["duration"] <= took
    assert thread == threading.get_ident()


async def test_signal_receiver_that_fails_harms_nobody(
    application: Any, receivers: Receivers, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**kwargs: Any) -> None:
        raise RuntimeError("The receiver is broken.")

    for signal in (stream_opened, stream_closed):
        receivers.add(signal, fail)
        receivers.add(signal, receivers.note("told"))
    with caplog.at_level(logging.WARNING, "django_sse"):
        async with connect(application, "/quiet/") as stream:
            assert (await stream.receive()).data == "open"
    assert [name for name, _, _ in receivers.told] == ["told", "told"]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        "The receiver is broken.",
        "The receiver is broken.",
    ]


class Talkative:
    """A user whose text takes a query."""

    pk = 1
    is_authenticated = True

    def get_username(self) -> str:
        return "ann"

    def __str__(self) -> str:
        raise SynchronousOnlyOperation


class Mute(Talkative):
    """A user who cannot be described."""

    def get_username(self) -> str:
        raise RuntimeError("There is no name.")


async def test_list_of_streams_names_each_once_and_survives_what_a_project_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = set()
    for _ in range(20):
        async with (
            connect(Quiet, user=Talkative()) as first,
            connect(Quiet, user=Mute()) as second,
        ):
            for stream in (first, second):
                await stream.receive()
            [report] = await areports(wait=0.05, streams=True)
            # The other is left out, and nothing else with it.
            [row] = report["streams"]
            assert (row["user"], row["user_name"]) == ("1", "ann")
            seen.add(row["id"])
    assert len(seen) == 20
    assert caplog.text.count("could not be described") == 20


async def test_numbers_tell_how_streams_ended(application: Any, settings: Any) -> None:
    settings.DJANGO_SSE = {"MAX_CONNECTIONS": 2}
    before = django_sse.stats()

    def change() -> dict[str, int]:
        return {
            name: number - before[name]
            for name, number in django_sse.stats().items()
            if number != before[name]
        }

    async with connect(application, "/quiet/") as stream:
        await stream.receive()
        async with connect(application, "/brief/") as brief:
            await brief.receive()
            assert change() == {"open": 2, "opened": 2, "sent": 2}
            async with connect(application, "/quiet/") as refused:
                assert refused.status_code == 503
            await brief.receive_end()
    async with connect(application, "/breaks/") as broken:
        with pytest.raises(StreamEnded, match="is broken"):
            await broken.receive_end()
    assert change() == {
        "opened": 3,
        "closed": 3,
        "sent": 2,
        "refused": 1,
        "client": 1,
        "expired": 1,
        "errors": 1,
    }


class Baggage:
    """What a middleware may put into the context of a request, a tracer's span for example."""


baggage: ContextVar[Baggage | None] = ContextVar("baggage", default=None)


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_nothing_of_the_first_stream_is_kept_for_those_after_it(
    kind: str, tmp_path: Path
) -> None:
    references: list[weakref.ref[Baggage]] = []
    view = Recorded.as_asgi(heartbeat=None, topics=["a"])

    async def with_baggage(scope: Any, receive: Any, send: Any) -> None:
        baggage.set(Baggage())
        references.append(weakref.ref(baggage.get()))
        await view(scope, receive, send)

    with ExitStack() as stack:
        broker: Broker = MemoryBroker()
        if kind == "redis":
            broker = RedisBroker(stack.enter_context(RedisServer(tmp_path)).url())
        previous = use_broker(broker)
        try:
            async with connect(with_baggage) as first:
                await first.receive_block()
                async with connect(with_baggage) as second:
                    await second.receive_block()
                    await first.disconnect()
                    # A task remembers its context, and the client its task.
                    first._task = None
                    # So does a time limit that was not reached, until it would have been.
                    loop: Any = asyncio.get_running_loop()
                    loop._scheduled = [it for it in loop._scheduled if not it.cancelled()]
                    heapq.heapify(loop._scheduled)
                    gc.collect()
                    assert [reference() is None for reference in references] == [True, False]
                    first._task = asyncio.create_task(asyncio.sleep(0))
        finally:
            await get_hub().aclose()
            use_broker(previous)
            broker.close()
