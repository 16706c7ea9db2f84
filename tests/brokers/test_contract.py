"""What ``brokers/base.py`` promises, asked of every broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_sse.brokers.base import FIRST, Broker, EventId, Message
from django_sse.exceptions import BrokerError, HistoryLost
from tests.brokers.conftest import MakeBroker, making
from tests.support.databases import in_thread
from tests.support.ear import PATIENCE, TIMEOUT, Ear, publish

Listen = Callable[[Broker], Ear]

#: What the documentation says the broker on its page is without.
UNDOCUMENTED = {
    "test_an_id_with_an_enormous_sequence_lies_where_it_says",
    "test_an_old_idempotency_key_is_forgotten",
    "test_max_age_may_be_a_timedelta",
}


@pytest.fixture(params=["memory", "redis", "sqlite", "postgresql", "mariadb", "documented"])
def make_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeBroker]:
    """The project's brokers, and the one of the documentation."""
    if request.param == "documented" and request.node.originalname in UNDOCUMENTED:
        pytest.skip("The broker of the documentation promises less.")
    with making(request.param, request, tmp_path) as make:
        yield make


async def test_messages_come_whole_in_order_and_once(broker: Broker, listen: Listen) -> None:
    ear = listen(broker)
    await ear.listener.subscribe(["a", "b", "ünïcode:\u2028 topic"])
    await ear.listener.subscribe(["a"])
    published = [
        ("a",),
        ("a", "b"),
        ("b",),
        ("nobody",),
        ("nobody", "b"),
        ("ünïcode:\u2028 topic",),
    ]
    excluded = [None, "a page's id", None, None, "another page's", None]
    ids = []
    for number, topics in enumerate(published):
        head = b"data: %d \xf0\x9f\x98\x80\n" % number
        # A topic that is named twice gets the event once.
        again = [*topics, topics[0]]
        options: dict[str, Any] = {"timeout": TIMEOUT, "exclude": excluded[number]}
        if number % 2:
            ids.append(broker.publish(again, head, b": tail\n", "key\n", **options))
        else:
            ids.append(await broker.apublish(again, head, b": tail\n", "key\n", **options))
    await ear.until_id(ids[-1])
    assert ids == sorted(set(ids))
    assert ear.heard == [
        Message(
            id,
            topics,
            b"data: %d \xf0\x9f\x98\x80\n" % number,
            b": tail\n",
            "key\n",
            excluded[number],
        )
        for number, (id, topics) in enumerate(zip(ids, published, strict=True))
        if topics != ("nobody",)
    ]


async def test_replay_returns_what_came_after_an_id(broker: Broker, listen: Listen) -> None:
    ear = listen(broker)
    await ear.listener.subscribe(["a", "b", "c"])
    start = await ear.listener.latest_id()
    published = [("a",), ("b", "a"), ("c",), ("b",), ("a", "c"), ("a",)]
    for number, topics in enumerate(published):
        last = await publish(broker, topics, b"%d" % number)
    await ear.until_id(last)
    for after in [start, *(message.id for message in ear.messages)]:
        for topics in ("a",), ("a", "b"), ("c", "b"), ("never",):
            assert await ear.listener.replay(topics, after) == [
                message
                for message in ear.messages
                if message.id > after and set(topics) & set(message.topics)
            ]


async def test_replay_of_long_histories_is_complete(
    make_broker: MakeBroker, listen: Listen
) -> None:
    broker = make_broker(HISTORY=2000)
    listener = listen(broker).listener
    start = await listener.latest_id()
    topics = [("a",), ("b",), ("a", "b"), ("c",)]
    ids = [await publish(broker, topics[number % 4], b"") for number in range(1600)]
    assert [message.id for message in await listener.replay(["a", "b", "c"], start)] == ids
    assert [message.id for message in await listener.replay(["c"], ids[800])] == ids[803::4]


async def test_replay_in_pages_is_what_it_is_at_once(
    make_broker: MakeBroker, listen: Listen
) -> None:
    broker = make_broker(HISTORY=100)
    listener = listen(broker).listener
    start = await listener.latest_id()
    # Each page takes all of one topic, then some of every topic, then most of another one.
    topics = [("a",)] * 9 + [("b",), ("a", "b"), ("c",)] * 5 + [("c",)] * 20
    for number, names in enumerate(topics):
        await publish(broker, names, b"%d" % number)
    everything = await listener.replay(["a", "b", "c"], start)
    assert len(everything) == len(topics)
    found, after = [], start
    while page := await listener.replay(["a", "b", "c"], after, 7):
        assert len(page) == min(7, len(everything) - len(found))
        found += page
        after = page[-1].id
    assert found == everything


async def test_replay_is_of_one_moment(make_broker: MakeBroker, listen: Listen) -> None:
    """Nothing may be missing below the newest message, however long the reading takes."""
    broker = make_broker(HISTORY=100_000)
    listener = listen(broker).listener
    start = await listener.latest_id()
    stop = threading.Event()

    def publish_all_the_time() -> None:
        while not stop.is_set():
            for topic in "short", "long":
                broker.publish([topic], b"", timeout=TIMEOUT)

    # Its history is still being read when that of the other topic has been.
    await asyncio.gather(*(publish(broker, "long", b"") for _ in range(1500)))
    thread = threading.Thread(target=publish_all_the_time)
    thread.start()
    try:
        replays = []
        async with asyncio.timeout(PATIENCE):
            while len(replays) < 5 or len(replays[-1]) < 1550:
                replays.append(await listener.replay(["short", "long"], start))
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)
    everything = await listener.replay(["short", "long"], start)
    for replay in replays:
        assert replay == everything[: len(replay)]


async def test_newest_messages_come_in_order(make_broker: MakeBroker, listen: Listen) -> None:
    broker = make_broker(HISTORY=700)
    listener = listen(broker).listener
    assert await listener.newest(["a", "never"], 3) == []
    topics = [["a"], ["b"], ["a", "b"], ["other"]]
    ids = [
        await broker.apublish(topics[n % 4], b"", b"", f"key {n % 3}", timeout=TIMEOUT)
        for n in range(604)
    ]
    for count in 1, 2, 3, 50, 10_000:
        wanted = [id for n, id in enumerate(ids) if n % 4 != 3][-count:]
        assert [it.id for it in await listener.newest(["b", "a"], count)] == wanted
    newest = await listener.newest(["a", "b"], 10, per_key=True)
    assert [(it.id, it.key) for it in newest] == [(ids[n], f"key {n % 3}") for n in (600, 601, 602)]
    assert await listener.newest(["a", "b"], 1, per_key=True) == newest[-1:]
    # Long before the others, and the only one of its key.
    first = await broker.apublish(["c"], b"", b"", "seldom", timeout=TIMEOUT)
    for _ in range(600):
        last = await broker.apublish(["c"], b"", b"", "often", timeout=TIMEOUT)
    assert [it.id for it in await listener.newest(["c"], 2, per_key=True)] == [first, last]


async def test_trimmed_events_are_reported_to_the_id(
    make_broker: MakeBroker, listen: Listen
) -> None:
    broker = make_broker(HISTORY=3)
    listener = listen(broker).listener
    start = await listener.latest_id()
    quiet = await publish(broker, "quiet", b"quiet")
    ids = [await publish(broker, "busy", b"%d" % number) for number in range(10)]
    # Seven were trimmed: who has seen the last of them has missed nothing.
    assert [message.id for message in await listener.replay(["busy"], ids[6])] == ids[7:]
    for topics in ["busy"], ["busy", "quiet"], ["quiet", "busy"]:
        for after in start, quiet, ids[5]:
            with pytest.raises(HistoryLost, match="busy"):
                await listener.replay(topics, after)
    # A topic that was merely quiet never raises, nor does one without any event.
    for after in quiet, ids[0], ids[-1]:
        assert await listener.replay(["quiet", "never"], after) == []
    assert [message.id for message in await listener.replay(["quiet"], start)] == [quiet]


@pytest.mark.parametrize(
    "change",
    [
        lambda newest: newest._replace(milliseconds=newest.milliseconds + 3_600_000),
        lambda newest: newest._replace(sequence=newest.sequence + 1),
        lambda newest: EventId(10**20 - 1, 10**20 - 1),
        lambda newest: newest._replace(milliseconds=newest.milliseconds - 3_600_000),
        lambda newest: FIRST,
    ],
    ids=["later", "next", "enormous", "before the data", "zero"],
)
async def test_ids_of_no_event_here_are_history_lost(
    broker: Broker, listen: Listen, change: Callable[[EventId], EventId]
) -> None:
    newest = await publish(broker, "a", b"")
    with pytest.raises(HistoryLost):
        await listen(broker).listener.replay(["a", "never"], change(newest))


async def test_an_id_with_an_enormous_sequence_lies_where_it_says(
    broker: Broker, listen: Listen
) -> None:
    first = await publish(broker, "a", b"")
    second = first
    while second.milliseconds == first.milliseconds:
        second = await publish(broker, "a", b"")
    after = first._replace(sequence=10**20 - 1)
    assert [message.id for message in await listen(broker).listener.replay(["a"], after)] == [
        second
    ]


async def test_latest_id_is_a_cursor_before_anything_was_published(
    broker: Broker, listen: Listen
) -> None:
    listener = listen(broker).listener
    latest = await listener.latest_id()
    assert await in_thread(lambda: broker.latest_id(timeout=TIMEOUT)) == latest
    assert await broker.alatest_id(timeout=TIMEOUT) == latest
    assert await listener.replay(["a"], latest) == []
    first = await publish(broker, "a", b"first")
    assert first > latest
    assert [message.id for message in await listener.replay(["a"], latest)] == [first]
    assert await listener.latest_id() == first
    assert await in_thread(lambda: broker.latest_id(timeout=TIMEOUT)) == first


async def test_many_threads_publish_to_several_event_loops(broker: Broker, listen: Listen) -> None:
    heard_elsewhere: list[list[Message]] = []
    elsewhere_listens = threading.Event()
    ends = [f"end {number}".encode() for number in range(4)]

    async def hear(ear: Ear) -> list[Message]:
        await ear.until(lambda: set(ends) <= set(ear.heads))
        return ear.messages

    def publish_many(number: int) -> None:
        for count in range(200):
            topics = ["a", "b"] if count % 3 == 0 else ["ab"[count % 2]]
            broker.publish(topics, b"%d %d" % (number, count), timeout=TIMEOUT)
        broker.publish(["a"], ends[number], timeout=TIMEOUT)

    async def elsewhere() -> None:
        ear = Ear(broker)
        await ear.listener.subscribe(["b", "a"])
        elsewhere_listens.set()
        try:
            heard_elsewhere.append(await hear(ear))
        finally:
            await ear.listener.close()

    ear = listen(broker)
    await ear.listener.subscribe(["a", "b"])
    start = await ear.listener.latest_id()
    threads = [threading.Thread(target=asyncio.run, args=(elsewhere(),))]
    threads[0].start()
    assert await asyncio.to_thread(elsewhere_listens.wait, PATIENCE)
    for number in range(4):
        threads.append(threading.Thread(target=publish_many, args=(number,)))
        threads[-1].start()
    heard_here = await hear(ear)
    for thread in threads:
        await asyncio.to_thread(thread.join)

    ids = [message.id for message in heard_here]
    assert len(ids) == 804
    assert ids == sorted(set(ids))
    assert heard_elsewhere == [heard_here]
    assert await ear.listener.replay(["a", "b"], start) == heard_here
    for number in range(4):
        mine = [message.head for message in heard_here if message.head.startswith(b"%d " % number)]
        assert mine == [b"%d %d" % (number, count) for count in range(200)]


async def test_many_tasks_publish_at_once(broker: Broker, listen: Listen) -> None:
    ear = listen(broker)
    await ear.listener.subscribe(["a"])
    ids = await asyncio.gather(*(publish(broker, "a", b"%d" % number) for number in range(100)))
    await ear.until_id(max(ids))
    assert [message.id for message in ear.messages] == sorted(set(ids))
    assert {message.id: message.head for message in ear.messages} == {
        id: b"%d" % number for number, id in enumerate(ids)
    }


async def test_unsubscribed_topics_are_silent(broker: Broker, listen: Listen) -> None:
    ear = listen(broker)
    await ear.listener.subscribe(["a", "b"])
    await publish(broker, "a", b"first")
    await publish(broker, "b", b"second")
    await ear.until(lambda: len(ear.heard) == 2)
    await publish(broker, "a", b"on its way when the topic is let go")
    await ear.listener.unsubscribe(["a", "never"])
    before = list(ear.heads)
    assert before[:2] == [b"first", b"second"]
    await publish(broker, "a", b"unheard")
    await publish(broker, ["a", "b"], b"through the other topic")
    await ear.listener.subscribe(["a"])
    await publish(broker, "a", b"again")
    await ear.until_id(await publish(broker, "b", b"end"))
    assert ear.heads == [*before, b"through the other topic", b"again", b"end"]


async def test_what_was_on_its_way_is_not_delivered_to_the_next_subscription(
    broker: Broker, listen: Listen
) -> None:
    ear = listen(broker)
    await ear.listener.subscribe(["a"])
    for _ in range(20):
        await publish(broker, "a", b"")
        await ear.listener.unsubscribe(["a"])
        before = len(ear.heard)
        await ear.listener.subscribe(["a"])
        assert len(ear.heard) == before
    await ear.until_id(await publish(broker, "a", b"end"))
    assert len(ear.heard) == before + 1


async def test_a_cancelled_subscription_leaves_the_others(broker: Broker, listen: Listen) -> None:
    ear = listen(broker)
    await ear.listener.subscribe(["a"])
    task = asyncio.create_task(ear.listener.subscribe(["a", "b"]))
    other = asyncio.create_task(ear.listener.subscribe(["c"]))
    await asyncio.sleep(0)
    cancelled = task.cancel()
    await asyncio.gather(task, other, return_exceptions=True)
    assert task.cancelled() is cancelled
    await publish(broker, "b", b"b")
    await publish(broker, "c", b"c")
    await ear.until_id(await publish(broker, "a", b"a"))
    assert [head for head in ear.heads if head != b"b"] == [b"c", b"a"]
    assert (b"b" in ear.heads) is not cancelled


async def test_a_callback_that_raises_takes_nothing_along(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    heads: list[bytes] = []
    done = asyncio.Event()

    def deliver(message: Message) -> None:
        heads.append(message.head)
        if message.head == b"bad":
            raise ValueError("I choke on this")
        if message.head == b"end":
            done.set()

    listener = broker.listen(deliver, lambda topics: None)
    await listener.subscribe(["a"])
    for head in b"good", b"bad", b"end":
        await publish(broker, "a", head)
    async with asyncio.timeout(PATIENCE):
        await done.wait()
    await listener.close()
    assert heads == [b"good", b"bad", b"end"]
    assert "I choke on this" in caplog.text


async def test_a_closed_listener_is_silent(broker: Broker, listen: Listen) -> None:
    closed, witness = listen(broker), listen(broker)
    await closed.listener.subscribe(["a"])
    await witness.listener.subscribe(["a"])
    await witness.until_id(await publish(broker, "a", b"first"))
    await closed.until(lambda: len(closed.heard) == 1)
    pending = await publish(broker, "a", b"not taken yet")
    await closed.listener.close()
    before = list(closed.heard)
    await witness.until_id(pending)
    await witness.until_id(await publish(broker, "a", b"second"))
    assert closed.heard == before
    with pytest.raises(BrokerError):
        await closed.listener.subscribe(["b"])
    await closed.listener.close()


async def test_a_broker_can_be_closed_while_it_is_used(broker: Broker, listen: Listen) -> None:
    ear = listen(broker)
    await ear.listener.subscribe(["a"])
    await asyncio.gather(*(publish(broker, "a", b"") for _ in range(5)))
    publishing = asyncio.create_task(publish(broker, "a", b"meanwhile"))
    await asyncio.sleep(0)
    await asyncio.to_thread(broker.close)
    await publishing
    await ear.until_id(broker.publish(["a"], b"afterwards", timeout=TIMEOUT))
    await ear.until_id(await publish(broker, "a", b"end"))


async def test_an_idempotency_key_is_published_once(broker: Broker, listen: Listen) -> None:
    ear = listen(broker)
    await ear.listener.subscribe(["a", "b"])

    async def once(topic: str, head: bytes, key: str | None) -> EventId:
        return await broker.apublish([topic], head, timeout=TIMEOUT, idempotency_key=key)

    first = await once("a", b"first", "order:17 paid ü")
    assert await publish(broker, "a", b"other") > first
    assert await once("a", b"again", "order:17 paid ü") == first
    assert await once("b", b"elsewhere", "order:17 paid ü") == first
    heads = [b"%d" % number for number in range(20)]
    ids = await asyncio.gather(*(once("a", head, "at once") for head in heads))
    assert len(set(ids)) == 1
    assert broker.publish(["a"], b"", timeout=TIMEOUT, idempotency_key="at once") == ids[0]
    last = await publish(broker, "a", b"last")
    await ear.until_id(last)
    assert ear.heads[:2] == [b"first", b"other"]
    assert ear.heads[2] in heads
    assert ear.heads[3:] == [b"last"]


async def test_an_old_idempotency_key_is_forgotten(make_broker: MakeBroker) -> None:
    broker = make_broker(MAX_AGE=1)
    options: Any = {"timeout": TIMEOUT, "idempotency_key": "order:17 paid"}
    first = await broker.apublish(["a"], b"", **options)
    # As old as the history may be.
    await asyncio.sleep(1.1)
    assert await broker.apublish(["a"], b"", **options) > first


@pytest.mark.parametrize(
    "options",
    [
        {"HISTORI": 5},
        {"HISTORY": 0},
        {"HISTORY": 1.5},
        {"HISTORY": True},
        {"HISTORY": "9"},
        {"MAX_AGE": 0},
        {"MAX_AGE": -1},
        {"MAX_AGE": "day"},
        {"MAX_AGE": None},
        {"MAX_AGE": True},
        {"MAX_AGE": float("nan")},
        {"MAX_AGE": float("inf")},
    ],
    ids=str,
)
async def test_wrong_options_are_named(make_broker: MakeBroker, options: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=next(iter(options))):
        make_broker(**options)


async def test_max_age_may_be_a_timedelta(make_broker: MakeBroker) -> None:
    await publish(make_broker(MAX_AGE=timedelta(hours=1)), "a", b"")
