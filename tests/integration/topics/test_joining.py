"""From the moment of subscribing to the live flow: no gap, nothing twice, and a word where it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.template import Context, Template
from django.test import override_settings

from django_sse import SSEView, alatest_event_id, apublish
from django_sse.brokers import use_broker
from django_sse.brokers.base import Broker, Listener, Message
from django_sse.brokers.memory import MemoryListener
from django_sse.brokers.redis import RedisBroker
from django_sse.connection.outbox import Outbox
from django_sse.connection.roster import roster
from django_sse.testing import NothingReceived, StreamClient, connect
from django_sse.topics import pages, subscription
from django_sse.topics.hub import get_hub
from testproject.asgi import application
from tests.integration.topics.project.streams import Numbers
from tests.support.servers import free_port

from .brokers import HeldBroker

MakeBroker = Callable[..., Broker]


class Recorded(SSEView):
    """Follows ``a`` and ``b``; tells why it ended."""

    topics = ["a", "b"]
    heartbeat = None
    reasons: list[str | None] = []

    async def disconnect(self) -> None:
        self.reasons.append(self.close_reason)

    async def snapshot(self) -> None:
        await self.send("snapshot")


class Slow(Recorded):
    """A snapshot of two events, with a gate between them that a test opens."""

    gate: asyncio.Event
    outbox_limit = 4096

    async def snapshot(self) -> AsyncIterator[str]:
        yield "first half"
        await self.gate.wait()
        yield "second half"


class Late(Slow):
    """Follows when the gate is opened."""

    async def stream(self) -> None:
        await self.send("resumed" if self.resumed else "fresh")
        await self.gate.wait()
        await self.follow()


class Own(Recorded):
    """A ``stream()`` of its own, which publishes before it follows."""

    async def stream(self) -> None:
        await apublish("a", "before follow()")
        await self.send("resumed" if self.resumed else "fresh")
        await self.follow()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Recorded.reasons.clear()
    Slow.gate = asyncio.Event()
    Late.gate = asyncio.Event()


async def data(stream: StreamClient, count: int) -> list[str | None]:
    """Return the data of the next events."""
    return [(await stream.receive(timeout=20)).data for _ in range(count)]


async def publish_many(
    count: int, name: str = "e", topic: str = "a", size: int = 0, start: int = 0
) -> list[str]:
    """Publish numbered events, and return their data."""
    texts = [f"{name}{number}".ljust(size, ".") for number in range(start, start + count)]
    for text in texts:
        await apublish(topic, text)
    return texts


def back(stream: StreamClient) -> dict[str, str]:
    """Return the headers with which a browser comes back."""
    return {"Last-Event-ID": stream.last_event_id}


async def test_joining_fresh_client_gets_snapshot_cursor_then_events(broker: Broker) -> None:
    await apublish("a", "in the snapshot")
    async with connect(Slow) as stream:
        assert await data(stream, 1) == ["first half"]
        ids = [await apublish("a", "one"), await apublish(["b", "a"], "two")]
        await stream.receive_nothing()
        cursor = await alatest_event_id()
        Slow.gate.set()
        assert await data(stream, 3) == ["second half", "one", "two"]
        ids.append(await apublish("b", "three"))
        assert await data(stream, 1) == ["three"]
        # Nothing of a snapshot has an id; the cursor is a block of its own behind it.
        blocks = [block for block in stream.blocks if block.comments is None]
        assert [(block.data, block.id) for block in blocks] == [
            ("first half", None),
            ("second half", None),
            (None, blocks[2].id),
            ("one", ids[0]),
            ("two", ids[1]),
            ("three", ids[2]),
        ]
        assert blocks[2].id not in {None, *ids, cursor}
        assert b"data: second half\n\nid: %b\n\n" % str(blocks[2].id).encode() in stream.received
        await stream.receive_nothing()


async def test_joining_with_rewind_begins_with_the_newest_events(broker: Broker) -> None:
    class Rewinding(Numbers):
        rewind = 2
        heartbeat = None

    for number in range(4):
        await apublish("a", f"{number}")
    async with connect(Rewinding, "/?topics=a,b") as stream:
        events = [await stream.receive() for _ in range(2)]
        assert [event.data for event in events] == ["2", "3"]
        await apublish("b", "live")
        assert (await stream.receive()).data == "live"
    # A client that resumes is not sent them again, and none gets a snapshot.
    last = {"Last-Event-ID": str(events[0].id)}
    async with connect(Rewinding, "/?topics=a,b", headers=last) as stream:
        assert [(await stream.receive()).data for _ in range(2)] == ["3", "live"]
    async with connect(Rewinding, "/?topics=c") as stream:
        while (await stream.receive_block()).id is None:
            pass  # Until it has its cursor.
        await apublish("c", "first")
        assert (await stream.receive()).data == "first"


async def test_joining_with_rewind_keeps_the_newest_of_each_key(broker: Broker) -> None:
    class Prices(Numbers):
        overflow = "latest"
        heartbeat = None

        async def get_rewind(self) -> int:
            return 10

    for number in range(6):
        await apublish("a", f"{number}", key=f"{number % 2}")
    async with connect(Prices, "/?topics=a") as stream:
        assert [(await stream.receive()).data for _ in range(2)] == ["4", "5"]
        await stream.receive_nothing()


async def test_joining_events_before_follow_come_when_it_is_called(broker: Broker) -> None:
    async with connect(Own) as stream:
        assert await data(stream, 2) == ["fresh", "before follow()"]
        await apublish("b", "later")
        assert await data(stream, 1) == ["later"]
    async with connect(Own, headers=back(stream)) as stream:
        assert await data(stream, 2) == ["resumed", "before follow()"]


async def test_joining_replay_meets_the_live_flow(make_broker: MakeBroker) -> None:
    make_broker(HISTORY=5000)
    since = await alatest_event_id()
    # More than the client, which does not read, lets through.
    stored = await publish_many(2500, size=1000)
    async with connect(Recorded, headers={"Last-Event-ID": since}) as stream:
        meanwhile = await publish_many(50, "meanwhile", "b")
        assert await data(stream, 2550) == [*stored, *meanwhile]
        live = await publish_many(50, "live", "b")
        assert await data(stream, 50) == live
        await stream.receive_nothing()
        assert b"snapshot" not in stream.received


async def test_joining_together_reads_and_encodes_each_page_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However busy the machine is.
    monkeypatch.setattr(pages, "KEPT_SECONDS", 60.0)
    since = await alatest_event_id()
    stored = await publish_many(250)  # more than a page
    reads = encodings = 0
    read, encode = get_hub().listener.replay, Message.encode

    async def counted(*args: Any) -> list[Message]:
        nonlocal reads
        reads += 1
        return await read(*args)

    def counted_encode(message: Message) -> bytes:
        nonlocal encodings
        encodings += 1
        return encode(message)

    monkeypatch.setattr(get_hub().listener, "replay", counted)
    monkeypatch.setattr(Message, "encode", counted_encode)
    headers = {"Last-Event-ID": since}
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(connect(Recorded, headers=headers)) for _ in range(40)
        ]
        for stream in streams:
            assert await data(stream, 250) == stored
        assert (reads, encodings) == (2, 250)
        # What came since is not in those pages, and new ones are read.
        live = await publish_many(3, "live")
        for stream in streams:
            assert await data(stream, 3) == live
        late = await stack.enter_async_context(connect(Recorded, headers=headers))
        assert await data(late, 253) == [*stored, *live]
        assert reads == 4


async def test_joining_together_after_a_loss_asks_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "KEPT_SECONDS", 60.0)
    await publish_many(1)
    reads = 0
    read = get_hub().listener.replay

    async def counted(*args: Any) -> list[Message]:
        nonlocal reads
        reads += 1
        return await read(*args)

    monkeypatch.setattr(get_hub().listener, "replay", counted)
    async with AsyncExitStack() as stack:
        for _ in range(20):
            lost = connect(Recorded, headers={"Last-Event-ID": "1-1"})
            stream = await stack.enter_async_context(lost)
            assert await data(stream, 2) == ["{}", "snapshot"]
    # Once for the id that is lost, and once for what came since the snapshot.
    assert reads == 2


async def test_joining_page_is_read_on_while_anybody_waits_for_it(
    held_broker: HeldBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = await alatest_event_id()
    stored = await publish_many(3)
    gate, reading, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
    read = MemoryListener.replay

    async def slow(*args: Any) -> list[Message]:
        reading.set()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            gone.set()
            raise
        return await read(*args)

    monkeypatch.setattr(MemoryListener, "replay", slow)
    headers = {"Last-Event-ID": since}
    async with connect(Recorded, headers=headers) as stays:
        async with connect(Recorded, headers=headers):
            await reading.wait()
        assert not gone.is_set()
        gate.set()
        assert await data(stays, 3) == stored
    gate.clear()
    reading.clear()
    await publish_many(1)
    async with connect(Recorded, headers=headers):
        await reading.wait()
    await asyncio.wait_for(gone.wait(), 10)


async def test_joining_what_was_replayed_is_not_delivered_again(held_broker: HeldBroker) -> None:
    since = await alatest_event_id()
    async with connect(Recorded) as present:
        assert await data(present, 1) == ["snapshot"]
        held_broker.hold()
        await publish_many(3)
        async with (
            connect(Recorded, headers={"Last-Event-ID": since}) as resumed,
            connect(Recorded) as fresh,
        ):
            # The store has them, while the listener is still on its way.
            assert await data(resumed, 3) == ["e0", "e1", "e2"]
            assert await data(fresh, 1) == ["snapshot"]
            await present.receive_nothing()
            await apublish("b", "next")
            held_broker.release()
            assert await data(present, 4) == ["e0", "e1", "e2", "next"]
            assert await data(resumed, 1) == await data(fresh, 1) == ["next"]
            await apublish("a", "last")
            for stream in (present, resumed, fresh):
                assert await data(stream, 1) == ["last"]


async def test_joining_what_is_replayed_and_held_comes_once(held_broker: HeldBroker) -> None:
    since = await alatest_event_id()
    held_broker.hold()
    async with connect(Recorded) as present:
        assert await data(present, 1) == ["snapshot"]
        await publish_many(3)
        async with connect(Late, headers={"Last-Event-ID": since}) as stream:
            assert await data(stream, 1) == ["resumed"]
            # It has been read from the store; now it is delivered too, before it is sent.
            held_broker.release()
            await apublish("b", "next")
            assert await data(present, 4) == ["e0", "e1", "e2", "next"]
            Late.gate.set()
            assert await data(stream, 4) == ["e0", "e1", "e2", "next"]
            await stream.receive_nothing()


@pytest.mark.parametrize("id", ["x", "5", "1-", "-1-0", "1-0", "99999999999999-0", "9" * 30 + "-0"])
async def test_joining_with_an_impossible_id_means_reset_and_snapshot(
    id: str, broker: Broker
) -> None:
    await apublish("a", "old")
    async with connect(Recorded, headers={"Last-Event-ID": id}) as stream:
        assert await data(stream, 2) == ["{}", "snapshot"]
        event_id = await apublish("a", "new")
        assert await data(stream, 1) == ["new"]
        assert stream.received.startswith(b":\n\nevent: reset\ndata: {}\n\ndata: snapshot\n\nid: ")
        assert stream.last_event_id == event_id


async def test_joining_client_that_drops_in_a_snapshot_gets_it_again(broker: Broker) -> None:
    async with connect(Slow) as stream:
        assert await data(stream, 1) == ["first half"]
    assert stream.last_event_id == ""
    async with connect(Slow, headers={"Last-Event-ID": "1-0"}) as stream:
        assert await data(stream, 2) == ["{}", "first half"]
        await apublish("a", "event")
    # What it would come back with has not changed.
    assert stream.last_event_id == ""
    Slow.gate.set()
    async with connect(Slow, headers={"Last-Event-ID": "1-0"}) as stream:
        assert await data(stream, 3) == ["{}", "first half", "second half"]
        await stream.receive_nothing()


@pytest.mark.parametrize("published", [0, 3])
async def test_joining_quiet_topics_resume_without_reset(broker: Broker, published: int) -> None:
    await publish_many(published, topic="another")
    async with connect(Recorded, headers={"Last-Event-ID": await alatest_event_id()}) as stream:
        await publish_many(2, topic="another")
        await apublish("a", "event")
        assert await data(stream, 1) == ["event"]
        assert stream.received.count(b"data:") == 1


async def test_joining_snapshot_longer_than_the_buffer_is_caught_up_from_the_broker(
    broker: Broker,
) -> None:
    async with connect(Slow) as stream:
        assert await data(stream, 1) == ["first half"]
        # Ten times what may be held for it.
        texts = await publish_many(400, size=100)
        Slow.gate.set()
        assert await data(stream, 401) == ["second half", *texts]
        await apublish("b", "live")
        assert await data(stream, 1) == ["live"]
    assert Recorded.reasons == ["client"]


async def test_joining_long_history_is_replayed_in_pages(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "PAGE", 20)
    broker = make_broker(HISTORY=500)
    asked: list[int | None] = []
    listen = type(broker).listen

    def watched(self: Broker, *callbacks: Any) -> Listener:
        listener = listen(self, *callbacks)
        replay = listener.replay

        async def replay_some(*args: Any) -> list[Message]:
            asked.append(args[2])
            return await replay(*args)

        monkeypatch.setattr(listener, "replay", replay_some)
        return listener

    monkeypatch.setattr(type(broker), "listen", watched)
    await apublish("a", "seen")
    seen = str(await alatest_event_id())
    await publish_many(100, size=20_000)
    async with connect(Recorded, headers={"Last-Event-ID": seen}) as stream:
        # It waits for its client with the first pages, and what comes meanwhile is not lost.
        await publish_many(100, size=20_000, start=100)
        assert len(asked) < 8
        numbers = [(await stream.receive()).data for _ in range(200)]
        assert [str(text).rstrip(".") for text in numbers] == [f"e{n}" for n in range(200)]
        await apublish("b", "live")
        assert await data(stream, 1) == ["live"]
    assert set(asked) == {20}
    assert len(asked) >= 10


async def test_joining_snapshot_longer_than_history_begins_anew(make_broker: MakeBroker) -> None:
    make_broker(HISTORY=10)
    async with connect(Slow) as stream:
        assert await data(stream, 1) == ["first half"]
        await publish_many(400, size=100)
        Slow.gate.set()
        expected = ["second half", "{}", "first half", "second half"]
        assert await data(stream, 4) == expected
        await apublish("b", "live")
        assert await data(stream, 1) == ["live"]
        assert [block.event for block in stream.blocks].count("reset") == 1


async def test_joining_lost_events_mean_reset_and_snapshot_on_the_same_connection(
    held_broker: HeldBroker,
) -> None:
    async with connect(Recorded) as stream:
        assert await data(stream, 1) == ["snapshot"]
        await apublish("a", "one")
        assert await data(stream, 1) == ["one"]
        held_broker.lose("another")
        held_broker.lose("a")
        assert await data(stream, 2) == ["{}", "snapshot"]
        await apublish("b", "two")
        assert await data(stream, 1) == ["two"]
        # Told several times at once, it begins anew as often, but must not follow twice.
        for _ in range(3):
            held_broker.lose("a")
            held_broker.lose("a", "b")
            await asyncio.sleep(0)
        seen: list[str | None] = []
        with suppress(NothingReceived):
            while True:
                seen.append((await stream.receive(timeout=0.5)).data)
        assert seen.count("{}") <= 6
        assert seen[-2:] == ["{}", "snapshot"]
        await publish_many(2)
        assert await data(stream, 2) == ["e0", "e1"]
        await stream.receive_nothing()
    assert Recorded.reasons == ["client"]


async def test_joining_nothing_newer_overtakes_the_reset(held_broker: HeldBroker) -> None:
    async with connect(Recorded) as stream:
        await data(stream, 1)
        held_broker.hold()
        # More than is written in one piece, all of it in the turn in which the loss is told.
        await publish_many(100, size=2000)
        held_broker.lose("a")
        held_broker.release()
        assert await data(stream, 2) == ["{}", "snapshot"]
        await apublish("a", "live")
        assert await data(stream, 1) == ["live"]


async def test_joining_lost_events_end_a_stream_of_its_own(held_broker: HeldBroker) -> None:
    async with connect(Own) as stream:
        await data(stream, 2)
        held_broker.lose("a")
        await stream.receive_end()
    assert Recorded.reasons == ["overflow"]


async def test_joining_lost_during_a_snapshot_begins_it_anew(held_broker: HeldBroker) -> None:
    async with connect(Slow) as stream:
        assert await data(stream, 1) == ["first half"]
        held_broker.lose("b")
        assert await data(stream, 2) == ["{}", "first half"]
        await apublish("a", "event")
        Slow.gate.set()
        assert await data(stream, 2) == ["second half", "event"]
        await stream.receive_nothing()


async def test_joining_page_with_a_cursor_misses_nothing(broker: Broker) -> None:
    def render() -> str:
        return Template("{% load sse %}{% sse_url 'numbers' %}").render(Context())

    with override_settings(ROOT_URLCONF="tests.integration.topics.project.urls"):
        address = await sync_to_async(render)()
        cursor = await alatest_event_id()
        assert address == f"/numbers/?last_event_id={cursor}"
        # Between rendering and connecting.
        await apublish("a", "in between")
        async with connect(application, f"{address}&topics=a") as stream:
            assert await data(stream, 1) == ["in between"]
        async with connect(application, f"{address}&topics=a", headers=back(stream)) as stream:
            # The header of a browser that comes back goes before the address.
            await apublish("a", "live")
            assert await data(stream, 1) == ["live"]
            assert b"snapshot" not in stream.received


class Member(Recorded):
    """Follows topics, and is in a group."""

    groups = ["room"]

    async def said(self, message: dict[str, Any]) -> None:
        await self.send(message["text"], event="said")


async def test_joining_groups_work_beside_topics(broker: Broker) -> None:
    layer = get_channel_layer()
    async with connect(Member) as stream:
        assert await data(stream, 1) == ["snapshot"]
        for number in range(3):
            await apublish("a", f"event {number}")
            assert await data(stream, 1) == [f"event {number}"]
            await layer.group_send("room", {"type": "said", "text": f"said {number}"})
            assert await data(stream, 1) == [f"said {number}"]
        # What comes through a group has no id: it is not part of what can be resumed.
        last = stream.last_event_id
        await layer.group_send("room", {"type": "said", "text": "bye"})
        assert (await stream.receive()).id is None
        assert stream.last_event_id == last == await alatest_event_id()


def test_joining_page_without_a_broker_has_an_address_without_cursor(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = RedisBroker(f"redis://127.0.0.1:{free_port()}/0")
    before = use_broker(away)
    try:
        with override_settings(ROOT_URLCONF="tests.integration.topics.project.urls"):
            template = Template("{% load sse %}{% sse_url 'numbers' %}")
            with override_settings(DJANGO_SSE={"PUBLISH_TIMEOUT": 0.2}):
                use_broker(away)
                assert template.render(Context()) == "/numbers/"
    finally:
        use_broker(before)
        away.close()
    assert "the broker is away" in caplog.text


class Replays:
    """Lets ``through`` so many replays, and holds those after them until ``go`` is set."""

    def __init__(self) -> None:
        self.through = 1000
        self.held = asyncio.Event()
        self.go = asyncio.Event()


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Replays:
    replays = Replays()
    replay = MemoryListener.replay

    async def held(self: MemoryListener, *args: Any) -> list[Message]:
        replays.through -= 1
        if replays.through < 0:
            replays.held.set()
            await replays.go.wait()
        return await replay(self, *args)

    monkeypatch.setattr(MemoryListener, "replay", held)
    return replays


class OfItsOwn(SSEView):
    """Follows the news, and what concerns one user: a cohort of its own for each."""

    heartbeat = None

    async def get_topics(self) -> list[str]:
        return ["news", f"user:{self.kwargs['user']}"]


@pytest.mark.parametrize("leaves", ["overflows", "leaves"])
async def test_joining_others_miss_nothing_where_one_is_let_go(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, leaves: str
) -> None:
    async with (
        connect(OfItsOwn, kwargs={"user": 1}) as one,
        connect(OfItsOwn, kwargs={"user": 2}) as other,
    ):
        for stream in (one, other):
            while not stream.last_event_id:
                await stream.receive_block()
        [victim] = [it for it in roster.streams() if it.kwargs["user"] == 1]
        write = Outbox.write

        def fail(outbox: Outbox, *args: Any) -> bool:
            if outbox is victim._outbox and leaves == "overflows":
                victim._subscription.give_up()
                return True
            if outbox is victim._outbox:
                outbox._fail(OSError("gone"))
                return True
            return write(outbox, *args)

        monkeypatch.setattr(Outbox, "write", fail)
        # More than is written at once, so that the first cohort goes while the second one waits.
        for number in range(100):
            await apublish("news", f"{number} {'x' * 1000}")
        got = [int((await other.receive()).data.split()[0]) for _ in range(100)]
    assert got == list(range(100))


async def test_joining_may_be_interrupted_and_goes_on_where_it_was(
    held_broker: HeldBroker, replays: Replays
) -> None:
    class Twice(Recorded):
        async def stream(self) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self.follow()
            await self.send("minute", event="tick")
            replays.go.set()
            follower = asyncio.create_task(self.follow())
            await asyncio.sleep(0)
            await follower

    start = await alatest_event_id()
    published = [str(number) for number in range(subscription.PAGE + 50)]
    for text in published:
        await apublish("a", text)
    replays.through = 1
    async with connect(Twice, headers={"Last-Event-ID": start}) as stream:
        got = [(await stream.receive()).data for _ in range(len(published) + 1)]
        await apublish("a", "live")
        assert (await stream.receive()).data == "live"
    got.remove("minute")
    assert got == published


async def test_joining_again_does_nothing_and_at_once_is_refused(broker: Broker) -> None:
    class Eager(Recorded):
        async def snapshot(self) -> None:
            pass

        async def stream(self) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self.follow()
            await self.send("again", event="tick")
            await self.follow()

    async with connect(Eager) as stream:
        first = await apublish("a", "1")
        assert (await stream.receive()).id == first
        assert (await stream.receive()).data == "again"
        second = await apublish("a", "2")
        assert (await stream.receive()).id == second
        # The cursor is written once: it would go back.
        assert [block.id for block in stream.blocks if block.data is None and block.id] == [
            stream.blocks[1].id
        ]


async def test_joining_stream_that_ends_while_it_waits_stays_nowhere(
    held_broker: HeldBroker, replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = asyncio.Event()
    finish = Outbox.finish

    async def slow(outbox: Outbox) -> None:
        await taken.wait()  # A client that takes its time.
        await finish(outbox)

    monkeypatch.setattr(Outbox, "finish", slow)
    start = await alatest_event_id()
    for number in range(subscription.PAGE):
        await apublish("a", str(number))
    replays.through = 1
    async with connect(Recorded.as_view(reasons=[]), headers={"Last-Event-ID": start}) as stream:
        await stream.receive()
        await replays.held.wait()
        [view] = roster.streams()
        hub = view._subscription._hub
        view.end("expired")
        replays.go.set()
        await asyncio.sleep(0.05)
        assert not hub._cohorts
        taken.set()
        await stream.read()
        assert not hub._cohorts


async def test_joining_twice_at_once_is_refused(held_broker: HeldBroker, replays: Replays) -> None:
    class Double(Recorded):
        async def stream(self) -> None:
            follower = asyncio.create_task(self.follow())
            await replays.held.wait()
            with pytest.raises(RuntimeError, match="runs already"):
                await self.follow()
            replays.go.set()
            await follower

    start = await alatest_event_id()
    for number in range(subscription.PAGE + 1):
        await apublish("a", str(number))
    replays.through = 1
    async with connect(Double, headers={"Last-Event-ID": start}) as stream:
        got = [(await stream.receive()).data for _ in range(subscription.PAGE + 1)]
    assert got == [str(number) for number in range(subscription.PAGE + 1)]


async def test_joining_task_that_was_replaced_does_not_end_the_stream(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = await alatest_event_id()
    for _ in range(60):
        await apublish("a", "x" * 3000)
    tell, told = Outbox._tell, 0

    def lose_meanwhile(outbox: Outbox) -> None:
        nonlocal told
        if outbox._waiters:
            told += 1
            if told == 2:
                # In the very turn in which the client took something.
                hub = get_hub()
                asyncio.get_running_loop().call_soon(hub._lost, ["a"])
        tell(outbox)

    monkeypatch.setattr(Outbox, "_tell", lose_meanwhile)
    view = Recorded.as_view(reasons=[])
    async with connect(view, headers={"Last-Event-ID": start}) as stream:
        while (event := await stream.receive()).event != "reset":
            assert event.data == "x" * 3000
        assert (await stream.receive()).data == "snapshot"
