"""What concerns the streams of all processes: here by way of a broker in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from django.contrib.auth.models import User
from django.db import transaction

from django_sse import SSEView, apublish
from django_sse.brokers import use_broker
from django_sse.brokers.base import PASSING
from django_sse.brokers.memory import MemoryBroker
from django_sse.connection.roster import roster
from django_sse.exceptions import BrokerError
from django_sse.testing import StreamClient, connect
from django_sse.topics.hub import get_hub
from django_sse.topics.orders import CONTROL, aclose_streams, areports, close_streams
from django_sse.wire.events import encode_head

ANN, BOB = User(pk=1, username="ann"), User(pk=2, username="bob")


class Listening(SSEView):
    """Follows the topic of its address."""

    heartbeat = None

    async def get_topics(self) -> list[str]:
        return [self.kwargs["topic"]]


@pytest_asyncio.fixture
async def streams(broker: MemoryBroker) -> AsyncIterator[dict[str, StreamClient]]:
    """Ann's, who follows ``a``, and Bob's, who follows ``b``; orders reach them."""
    async with (
        connect(Listening, "/one/", kwargs={"topic": "a"}, user=ANN) as a,
        connect(Listening, "/two/", kwargs={"topic": "b"}, user=BOB) as b,
    ):
        await get_hub().subscribe([CONTROL])
        yield {"a": a, "b": b}


def id_of(topic: str) -> str:
    [stream] = [it for it in roster.streams() if it.followed_topics == (topic,)]
    return str(stream.stream_id)


@pytest.mark.parametrize(
    ("named", "ended"),
    [
        ({"user": ANN}, "a"),
        ({"user": 2}, "b"),
        ({"user": "2"}, "b"),
        ({"topic": "b"}, "b"),
        ({"user": ANN, "topic": "b"}, ""),
        ({"stream": id_of}, "a"),
        ({"stream": "another:1:f"}, ""),
        ({"topic": "another"}, ""),
        ({"user": 3}, ""),
    ],
)
async def test_aclose_streams_ends_those_that_are_named(
    streams: dict[str, StreamClient], named: dict[str, Any], ended: str
) -> None:
    named = {key: it("a") if it is id_of else it for key, it in named.items()}
    await aclose_streams(**named)
    for topic, stream in streams.items():
        await apublish(topic, "after it")
        event = await stream.receive()
        if topic == ended:
            assert (event.event, event.data) == ("revoked", "{}")
            await stream.receive_end()
        else:
            assert event.data == "after it"


async def test_reports_tell_of_each_stream(streams: dict[str, StreamClient]) -> None:
    last = await apublish("a", "x")
    await streams["a"].receive()
    [report] = await areports(wait=0.05, streams=True)
    assert report["stats"]["open"] == 2
    a, b = sorted(report["streams"], key=lambda stream: str(stream["path"]))
    assert 0 <= a.pop("age") < 60
    assert a == {
        "id": id_of("a"),
        "view": f"{__name__}.Listening",
        "path": "/one/",
        "user": "1",
        "user_name": "ann",
        "address": "127.0.0.1",
        "topics": ["a"],
        "further_topics": 0,
        "sent": len(streams["a"].received),
        "buffered": 0,
        "last_id": last,
    }
    assert (b["user"], b["topics"]) == ("2", ["b"])
    # Nothing is told of them without being asked, nor of those that were told to end.
    [report] = await areports(wait=0.05)
    assert (report["stats"]["open"], report["streams"]) == (2, [])
    for stream in roster.streams():
        stream.revoke()
    [report] = await areports(wait=0.05, streams=True)
    assert report["streams"] == []


@pytest.mark.parametrize(
    "order",
    [
        "no JSON",
        "[" * 100_000,
        "[1]",
        '{"close": []}',
        '{"close": "a"}',
        '{"report": "a"}',
        '{"report": null}',
        "{}",
        '{"sing": "a"}',
    ],
    ids=lambda order: order[:15],
)
async def test_order_that_nobody_of_us_gave_does_nothing(
    streams: dict[str, StreamClient],
    broker: MemoryBroker,
    caplog: pytest.LogCaptureFixture,
    order: str,
) -> None:
    await broker.apublish([CONTROL], encode_head(order, None), timeout=1)
    await apublish("a", "after it")
    assert (await streams["a"].receive()).data == "after it"
    unreadable = order not in ("{}", '{"sing": "a"}')
    assert len(caplog.records) == unreadable
    assert ("An order from the broker cannot be read" in caplog.text) is unreadable


class Mute(MemoryBroker):
    """Takes no answers."""

    async def apublish(self, topics: Any, *args: Any, **kwargs: Any) -> Any:
        if topics[0].startswith(PASSING):
            raise BrokerError("The broker is away.")
        return await super().apublish(topics, *args, **kwargs)


async def test_answer_that_cannot_be_sent_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    before = use_broker(Mute())
    try:
        async with connect(Listening, kwargs={"topic": "a"}) as stream:
            await get_hub().subscribe([CONTROL])
            assert await areports(wait=0.05) == []
            assert "A report could not be sent through the broker." in caplog.text
            await apublish("a", "after it")
            assert (await stream.receive()).data == "after it"
    finally:
        use_broker(before)


async def test_order_reaches_all_where_one_cannot_be_told_apart(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd:
        is_authenticated = True
        broken = False

        @property
        def pk(self) -> int:
            if self.broken:
                raise KeyError("user_id")
            return 3

    odd = Odd()
    async with (
        connect(Listening, kwargs={"topic": "a"}, user=odd) as strange,
        connect(Listening, kwargs={"topic": "b"}, user=BOB) as bobs,
        connect(Listening, kwargs={"topic": "c"}, user=ANN) as anns,
    ):
        await get_hub().subscribe([CONTROL])
        odd.broken = True
        await aclose_streams(user=BOB)
        # Whose stream it is that cannot be found out, must not listen on because of it.
        for stream in (strange, bobs):
            assert (await stream.receive()).event == "revoked"
        await anns.receive_nothing(timeout=0.05)
        odd.broken = False
    assert "because its user cannot be found" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_order_waits_for_the_commit(broker: MemoryBroker) -> None:
    orders = lambda: broker._logs.get(CONTROL) and len(broker._logs[CONTROL].messages)  # noqa: E731
    with transaction.atomic():
        close_streams(user=ANN)
        assert not orders()
        close_streams(user=ANN, on_commit=False)
        assert orders() == 1
    assert orders() == 2
    with suppress(RuntimeError), transaction.atomic():
        close_streams(user=BOB)
        raise RuntimeError
    assert orders() == 2


async def test_stream_that_cannot_be_ended_costs_the_others_nothing(
    streams: dict[str, StreamClient],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    revoke = Listening.revoke

    def fail(view: Listening) -> None:
        if view.followed_topics == ("a",):
            raise RuntimeError("not foreseen")
        revoke(view)

    monkeypatch.setattr(SSEView, "revoke", fail)
    for user in (ANN, BOB):
        await aclose_streams(user=user)
    assert (await streams["b"].receive()).event == "revoked"
    assert "Listening could not be ended." in caplog.text


def test_broker_is_called_by_its_class_unless_it_says_more() -> None:
    assert str(MemoryBroker()) == "MemoryBroker"
