"""What Redis and the way to it can do to a broker: die, stall, forget, refuse, and be shared."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from redis.exceptions import ResponseError

from django_sse.brokers.base import FIRST, Broker, EventId
from django_sse.brokers.redis import RedisBroker
from django_sse.brokers.redis import connections as redis_connections
from django_sse.brokers.redis import history as redis_history
from django_sse.brokers.redis import listener as redis_listener
from django_sse.brokers.redis.connections import Connector
from django_sse.brokers.redis.listener import RedisListener
from django_sse.exceptions import BrokerError, HistoryLost, PublishFailed
from tests.brokers.conftest import MakeBroker
from tests.support.certificates import make_certificate
from tests.support.ear import PATIENCE, TIMEOUT, Ear, eventually, publish
from tests.support.redis_server import Proxy, RedisServer
from tests.support.servers import free_port

Listen = Callable[[Broker], Ear]


async def _restart(server: RedisServer) -> None:
    server.kill()
    await asyncio.sleep(0.5)
    await asyncio.to_thread(server.start)


async def _cut(server: RedisServer) -> None:
    for _ in range(5):
        await asyncio.to_thread(server.kill_clients)
        await asyncio.sleep(0.1)


async def _pause(server: RedisServer) -> None:
    server.pause()
    await asyncio.sleep(3)
    server.resume()


def nobody_is_connected(server: RedisServer) -> bool:
    return server.connections("pubsub") == server.connections("normal") == 0


@pytest.mark.parametrize("disturb", [_restart, _cut, _pause])
async def test_the_flow_survives(
    redis_server: RedisServer,
    redis_broker: MakeBroker,
    listen: Listen,
    disturb: Callable[[RedisServer], Any],
) -> None:
    """Publish all the time, from a thread and a task, each knowing what was confirmed."""
    broker = redis_broker(HISTORY=100_000)
    ear = listen(broker)
    await ear.listener.subscribe(["a", "b", "quiet"])
    start = await ear.listener.latest_id()
    confirmed: dict[EventId, bytes] = {}
    denied: set[bytes] = set()
    stop = threading.Event()

    def note(head: bytes, outcome: EventId | PublishFailed) -> None:
        if isinstance(outcome, EventId):
            confirmed[outcome] = head
        elif not outcome.may_be_stored:
            denied.add(head)

    def publish_from_thread() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            head = b"thread %d" % number
            try:
                note(head, broker.publish(["a", "b"], head, timeout=0.3))
            except PublishFailed as error:
                note(head, error)

    async def publish_from_task() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            head = b"task %d" % number
            try:
                note(head, await broker.apublish(["b"], head, timeout=0.3))
            except PublishFailed as error:
                note(head, error)

    async def grow(by: int) -> None:
        # From nothing: what was there before says nothing about what goes on.
        aim = len(confirmed) + by
        await ear.until(lambda: len(confirmed) >= aim)

    thread = threading.Thread(target=publish_from_thread)
    thread.start()
    task = asyncio.create_task(publish_from_task())
    try:
        await grow(100)
        await disturb(redis_server)
        await grow(100)
    finally:
        stop.set()
        await task
        await asyncio.to_thread(thread.join)
    await ear.until_id(await publish(broker, "a", b"end"))

    assert ear.losses == []
    assert ear.messages == await ear.listener.replay(["a", "b", "quiet"], start)
    heard = {message.id: message.head for message in ear.messages}
    assert list(heard) == sorted(heard)
    assert len(heard) == len(ear.messages) == len(set(heard.values()))
    assert confirmed.items() <= heard.items()
    assert denied.isdisjoint(heard.values())


async def test_a_silent_connection_is_noticed(
    redis_server: RedisServer,
    redis_broker: MakeBroker,
    listen: Listen,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_listener, "PING_SECONDS", 0.3)
    monkeypatch.setattr(redis_history, "ATTEMPT_SECONDS", 0.3)
    async with Proxy(redis_server.port) as proxy:
        ear = listen(redis_broker(redis_server.url(port=proxy.port)))
        publisher = redis_broker()
        await ear.listener.subscribe(["a"])
        ids = [await publish(publisher, "a", b"before")]
        await ear.until_id(ids[0])
        proxy.freeze()
        ids += [await publish(publisher, "a", b"%d" % number) for number in range(10)]
        await ear.until_id(ids[-1])
        assert [message.id for message in ear.messages] == ids
        assert ear.losses == []


async def test_a_gap_beyond_the_history_is_told_before_anything_newer(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    async with Proxy(redis_server.port) as proxy:
        ear = listen(redis_broker(redis_server.url(port=proxy.port), HISTORY=5))
        publisher = redis_broker(HISTORY=5)
        await ear.listener.subscribe(["busy", "slow", "silent"])
        first = await publish(publisher, ["busy", "slow"], b"first")
        await ear.until_id(first)
        await proxy.cut()
        slow = await publish(publisher, "slow", b"slow")
        busy = [await publish(publisher, "busy", b"%d" % number) for number in range(20)]
        await proxy.open()
        await ear.until_id(await publish(publisher, "silent", b"end"))
        assert ear.losses == [frozenset({"busy"})]
        assert ear.heads[0] == b"first"
        assert ear.heard[1] == {"busy"}
        # What is still there is delivered, in order, after that.
        assert [message.id for message in ear.messages][1:-1] == [slow, *busy[-5:]]


async def test_emptied_redis_is_a_new_age(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    broker, other = redis_broker(), redis_broker()
    ear, late = listen(broker), listen(other)
    await ear.listener.subscribe(["a"])
    ids = [await publish(broker, "a", b"%d" % number) for number in range(3)]
    await ear.until_id(ids[-1])
    redis_server.flush()
    # A process that has seen nothing yet begins the new age, and old ids are known as such at once.
    for old in FIRST, ids[0], ids[-1]:
        with pytest.raises(HistoryLost):
            await late.listener.replay(["a"], old)
    new = await other.alatest_id(timeout=TIMEOUT)
    assert new > ids[-1]
    ids.append(await publish(other, "a", b"after"))
    assert ids[-1] > new
    # Who listened all the time has missed nothing.
    await ear.until_id(ids[-1])
    assert [message.id for message in ear.messages] == ids
    assert ear.losses == []
    assert [message.id for message in await late.listener.replay(["a"], new)] == [ids[-1]]
    with pytest.raises(HistoryLost):
        await ear.listener.replay(["a"], ids[0])


async def test_emptied_redis_while_nobody_listened_is_a_loss(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    async with Proxy(redis_server.port) as proxy:
        ear = listen(redis_broker(redis_server.url(port=proxy.port)))
        await ear.listener.subscribe(["a"])
        await proxy.cut()
        await publish(redis_broker(), "a", b"unheard")
        redis_server.flush()
        await publish(redis_broker(), "a", b"kept")
        await proxy.open()
        await ear.until(lambda: b"kept" in ear.heads)
        assert ear.heard[0] == {"a"}
        assert ear.heads == [b"kept"]


async def test_redis_that_came_back_with_less_is_noticed(
    tmp_path: Path, redis_broker: MakeBroker, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, appendonly=False) as server:
        broker = redis_broker(server.url())
        ear = listen(broker)
        await ear.listener.subscribe(["a"])
        kept = await publish(broker, "a", b"kept")
        server.save()
        forgotten = await publish(broker, "a", b"forgotten")
        await ear.until_id(forgotten)
        server.kill()
        server.start()
        await ear.until(lambda: ear.losses == [frozenset({"a"})])
        for old in kept, forgotten:
            with pytest.raises(HistoryLost):
                await ear.listener.replay(["a"], old)
        new = await publish(redis_broker(server.url()), "a", b"new")
        assert new > forgotten
        await ear.until_id(new)
        assert ear.heads == [b"kept", b"forgotten", b"new"]


async def test_redis_that_came_back_with_less_is_noticed_although_others_have_published(
    tmp_path: Path, redis_broker: MakeBroker, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, appendonly=False) as server:
        broker = redis_broker(server.url())
        ear = listen(broker)
        await ear.listener.subscribe(["a", "b"])
        kept = await publish(broker, "a", b"kept")
        server.save()
        forgotten = await publish(broker, "a", b"forgotten")
        await ear.until_id(forgotten)
        server.kill()
        # A process that has seen nothing is the first to publish, and its id is above all others.
        early = asyncio.create_task(publish(redis_broker(server.url()), "a", b"early"))
        with broker_is_held(ear):
            server.start()
            assert await early > forgotten
        await ear.until(lambda: bool(ear.losses))
        for old in kept, forgotten, early.result():
            with pytest.raises(HistoryLost):
                await ear.listener.replay(["a"], old)
        new = await publish(redis_broker(server.url()), "a", b"new")
        await ear.until_id(new)
        assert ear.heads == [b"kept", b"forgotten", b"new"]
        assert ear.losses == [frozenset({"a", "b"})]


@contextmanager
def broker_is_held(ear: Ear) -> Iterator[None]:
    """Let no listener catch up within the block."""
    go = asyncio.Event()
    follow = RedisListener._follow

    async def held(self: RedisListener) -> None:
        await go.wait()
        await follow(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RedisListener, "_follow", held)
        yield
        go.set()


async def test_topic_that_comes_while_the_listener_connects_misses_nothing(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    ear = listen(redis_broker())
    connecting, go = asyncio.Event(), asyncio.Event()
    connect = Connector.make_for_loop

    def slow(self: Connector) -> Any:
        connection = connect(self)
        opened = connection.connect

        async def hold() -> None:
            connecting.set()
            await go.wait()
            await opened()

        # Of the listener, which comes first.
        if not connecting.is_set():
            connection.connect = hold  # type: ignore[method-assign]
        return connection

    talk = RedisListener._talk

    async def talk_later(self: RedisListener, *args: Any) -> None:
        await asyncio.sleep(0.2)  # As on a network.
        await talk(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connector, "make_for_loop", slow)
        patch.setattr(RedisListener, "_talk", talk_later)
        first = asyncio.create_task(ear.listener.subscribe(["a"]))
        await connecting.wait()
        second = asyncio.create_task(ear.listener.subscribe(["b"]))
        await asyncio.sleep(0)
        go.set()
        await second
        published = [await publish(redis_broker(), "b", b"%d" % number) for number in range(3)]
        await ear.until_id(published[-1])
    assert [message.id for message in ear.messages] == published
    await first


async def test_busy_redis_is_away_and_has_stored_nothing(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    broker = redis_broker()
    first = await publish(broker, "a", b"first")
    redis_server("CONFIG", "SET", "lua-time-limit", "50")
    script = "local t = redis.call('TIME')[1] + 30 while redis.call('TIME')[1] + 0 < t do end"
    busy = asyncio.create_task(asyncio.to_thread(run_until_killed, redis_server, script))
    await asyncio.sleep(0.3)
    for call in (
        lambda: broker.publish(["a"], b"never", timeout=0.5),
        lambda: asyncio.run(broker.apublish(["a"], b"never", timeout=0.5)),
    ):
        for _ in range(10):
            with pytest.raises(PublishFailed) as failed:
                await asyncio.to_thread(call)
            # Time may run out while an answer is on its way, and then nobody knows.
            if not failed.value.may_be_stored:
                break
        else:
            pytest.fail("A busy Redis is taken for one that may have stored the event.")
    ear = listen(broker)
    # Held, until it is there again.
    subscribing = asyncio.create_task(ear.listener.subscribe(["a"]))
    await asyncio.sleep(0.1)
    assert not subscribing.done()
    await asyncio.to_thread(redis_server, "SCRIPT", "KILL")
    await busy
    await subscribing
    assert await ear.listener.replay(["a"], first) == []


def run_until_killed(server: RedisServer, script: str) -> None:
    with pytest.raises(ResponseError, match="killed"):
        server("EVAL", script, "0")


async def test_connecting_and_publishing_are_over_in_time_together(tmp_path: Path) -> None:
    with RedisServer(tmp_path, password="secret") as server:
        async with Proxy(server.port) as proxy:
            proxy.delay = 0.4  # seconds for each of the password, the database, the script
            broker = RedisBroker(server.url(3, port=proxy.port))
            for call in (
                lambda: broker.publish(["a"], b"x", timeout=1),
                lambda: broker.latest_id(timeout=1),
            ):
                began = time.monotonic()
                with pytest.raises(BrokerError):
                    await asyncio.to_thread(call)
                assert time.monotonic() - began < 1.4
            broker.close()


async def test_ids_that_fall_back_are_noticed_by_who_listens(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    ear = listen(redis_broker())
    await ear.listener.subscribe(["a"])
    first = await publish(redis_broker(), "a", b"first")
    await ear.until_id(first)
    # Emptied, and the clock is far behind: a publisher that saw nothing yet is given lower ids.
    redis_server("PUBLISH", "sse:0:a", f'{first.milliseconds - 5000}-0\n[["a"], null, 0]\n')
    redis_server.flush()
    await ear.until(lambda: bool(ear.losses))
    last = await publish(redis_broker(), "a", b"last")
    await ear.until_id(last)
    assert last > first
    assert ear.heard[1] == {"a"}
    assert ear.heads == [b"first", b"last"]


async def test_waiting_lasts_until_redis_is_there(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    broker = redis_broker()
    before = await publish(broker, "a", b"before")
    stored = await publish(broker, "a", b"stored")
    redis_server.kill()
    ear = listen(broker)
    waiting = [
        asyncio.create_task(ear.listener.subscribe(["a"])),
        asyncio.create_task(ear.listener.replay(["a"], before)),
        asyncio.create_task(ear.listener.latest_id()),
    ]
    done, _ = await asyncio.wait(waiting, timeout=0.5)
    assert not done
    given_up = asyncio.create_task(ear.listener.subscribe(["a", "b"]))
    published = asyncio.create_task(publish(broker, "a", b"held within its time limit"))
    async with asyncio.timeout(5):
        await ear.listener.unsubscribe(["never"])
    given_up.cancel()
    await asyncio.to_thread(redis_server.start)
    async with asyncio.timeout(PATIENCE):
        _, replayed, latest = await asyncio.gather(*waiting)
        await published
    assert stored in [message.id for message in replayed]
    assert latest >= stored
    await ear.until_id(await publish(broker, "a", b"end"))
    assert redis_server("PUBSUB", "CHANNELS") == ["sse:0:a"]


async def test_a_paused_redis_holds_reading_until_it_goes_on(
    redis_server: RedisServer,
    redis_broker: MakeBroker,
    listen: Listen,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_history, "ATTEMPT_SECONDS", 0.2)
    monkeypatch.setattr(redis_listener, "CONNECT_SECONDS", 0.2)
    ear = listen(redis_broker())
    first = await publish(redis_broker(), "a", b"")
    redis_server.pause()
    waiting = [
        asyncio.create_task(ear.listener.subscribe(["a"])),
        asyncio.create_task(ear.listener.replay(["a"], first)),
    ]
    done, _ = await asyncio.wait(waiting, timeout=0.7)
    assert not done
    redis_server.resume()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*waiting)
    await ear.until_id(await publish(redis_broker(), "a", b"end"))


async def test_a_listener_that_is_closed_lets_go_of_who_waits(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    ear = listen(redis_broker())
    redis_server.pause()
    waiting = asyncio.create_task(ear.listener.subscribe(["a"]))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await ear.listener.close()
        with pytest.raises(BrokerError):
            await waiting


async def test_foreign_messages_do_not_stop_the_listener(
    redis_server: RedisServer,
    redis_broker: MakeBroker,
    listen: Listen,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(redis_listener, "GOOD_SECONDS", 0)
    ear = listen(redis_broker())
    await ear.listener.subscribe(["a"])
    for garbage in "", "99999999999999-0\nno event", "no id":
        redis_server("PUBLISH", "sse:0:a", garbage)
        await publish(redis_broker(), "a", b"event")
    await ear.until(lambda: len(ear.messages) == 3)
    assert ear.losses == []
    assert caplog.text.count("is not a valid event") == 3


async def test_nothing_is_sent_on_a_closed_connection(
    redis_server: RedisServer, redis_broker: MakeBroker
) -> None:
    """redis-py would open it anew, and what was published meanwhile would be missing."""
    connection = redis_broker()._connector.make_for_loop()
    with pytest.raises(ConnectionResetError):
        await redis_listener._send(connection, "PING")
    assert not connection.is_connected


async def test_threads_keep_a_bounded_number_of_connections(
    redis_server: RedisServer, redis_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connections, "IDLE_CONNECTIONS", 2)
    broker = redis_broker()
    together = threading.Barrier(5)

    def publish_together() -> None:
        for _ in range(20):
            together.wait(PATIENCE)
            broker.publish(["a"], b"", timeout=TIMEOUT)

    await asyncio.gather(*(asyncio.to_thread(publish_together) for _ in range(5)))
    await eventually(lambda: redis_server.connections("normal") <= 2)


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("state", ["killed", "paused"])
async def test_publishing_fails_in_time_and_says_whether_it_may_be_stored(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen, state: str, warm: bool
) -> None:
    broker = redis_broker()
    start = await redis_broker().alatest_id(timeout=TIMEOUT)
    if warm:
        await publish(broker, "a", b"before")
        broker.publish(["a"], b"before", timeout=TIMEOUT)
    redis_server.kill() if state == "killed" else redis_server.pause()
    await asyncio.sleep(0.05)  # the loop has to look, to see that a connection has ended
    began = time.monotonic()
    with pytest.raises(PublishFailed) as of_task:
        await broker.apublish(["a"], b"task", timeout=0.5)
    with pytest.raises(PublishFailed) as of_thread:
        broker.publish(["a"], b"thread", timeout=0.5)
    with pytest.raises(BrokerError):
        broker.latest_id(timeout=0.5)
    with pytest.raises(BrokerError):
        await broker.alatest_id(timeout=0.5)
    assert time.monotonic() - began < 4 * 0.5 + 1
    # Only what was handed over to a connection that still looked well may be stored.
    expected = warm and state == "paused"
    assert of_task.value.may_be_stored is of_thread.value.may_be_stored is expected
    assert of_task.value.__cause__ is not None
    redis_server.start() if state == "killed" else redis_server.resume()
    stored = await listen(broker).listener.replay(["a"], start)
    heads = {message.head for message in stored if message.head != b"before"}
    assert heads <= ({b"task", b"thread"} if expected else set())


async def test_prefix_and_database_keep_brokers_apart(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    brokers = [
        redis_broker(redis_server.url(database), PREFIX=prefix)
        for database in (0, 1)
        for prefix in ("one:", "two:")
    ]
    ears = [listen(broker) for broker in brokers]
    for number, (broker, ear) in enumerate(zip(brokers, ears, strict=True)):
        await ear.listener.subscribe(["a"])
        start = await ear.listener.latest_id()
        await publish(broker, "a", b"%d" % number)
        assert [m.head for m in await ear.listener.replay(["a"], start)] == [b"%d" % number]
    for number, (broker, ear) in enumerate(zip(brokers, ears, strict=True)):
        await ear.until_id(await publish(broker, "a", b"end"))
        assert ear.heads == [b"%d" % number, b"end"]
    assert set(redis_server("KEYS", "*", database=1)) == {
        f"{prefix}{key}" for prefix in ("one:", "two:") for key in ("ids", "events:a", "newest:a")
    }


async def test_unused_topics_expire_and_are_remembered(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    broker = redis_broker(MAX_AGE=1)
    listener = listen(broker).listener
    before = await publish(broker, "other", b"")
    quiet = await publish(broker, "quiet", b"")
    assert redis_server("PTTL", "sse:newest:quiet") > 29 * 86_400_000
    await eventually(lambda: not redis_server("EXISTS", "sse:events:quiet"))
    with pytest.raises(HistoryLost, match="quiet"):
        await listener.replay(["quiet"], before)
    assert await listener.replay(["quiet", "never"], quiet) == []
    assert await listener.replay(["never", "other"], before) == []
    again = await publish(broker, "quiet", b"")
    assert [message.id for message in await listener.replay(["quiet"], quiet)] == [again]
    with pytest.raises(HistoryLost, match="quiet"):
        await listener.replay(["quiet"], before)


async def test_old_events_of_a_topic_in_use_are_let_go(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    broker = redis_broker(MAX_AGE=1)
    listener = listen(broker).listener
    start = await listener.latest_id()
    first = await publish(broker, "a", b"")
    await asyncio.sleep(0.6)
    second = await publish(broker, "a", b"")
    await asyncio.sleep(0.6)
    await publish(broker, "a", b"")
    with pytest.raises(HistoryLost):
        await listener.replay(["a"], start)
    assert (await listener.replay(["a"], first))[0].id == second


async def test_ids_older_than_what_is_remembered_are_lost_but_never_the_newest(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    listener = listen(redis_broker()).listener
    ancient = EventId(1_000_000_000_000, 0)
    redis_server("HSET", "sse:ids", "birth", str(ancient), "last", "1000000000000-7")
    # Nothing was published since, for years.
    assert await listener.replay(["a"], ancient._replace(sequence=7)) == []
    with pytest.raises(HistoryLost):
        await listener.replay(["a"], ancient)
    # A page that is rendered now gets a cursor that will do for another month.
    latest = await listener.latest_id()
    assert latest.milliseconds > time.time() * 1000 - 86_400_000
    await publish(redis_broker(), "b", b"")
    assert await listener.replay(["a"], latest) == []


async def test_ids_rise_when_the_servers_clock_goes_back(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    ahead = int(time.time() * 1000) + 3_600_000
    redis_server("HSET", "sse:ids", "birth", f"{ahead}-0", "last", f"{ahead}-3")
    broker = redis_broker()
    ids = [await publish(broker, "a", b"") for _ in range(3)]
    assert ids == [EventId(ahead, sequence) for sequence in (4, 5, 6)]
    assert [m.id for m in await listen(broker).listener.replay(["a"], ids[0])] == ids[1:]


async def test_a_password_is_used(tmp_path: Path, redis_broker: MakeBroker, listen: Listen) -> None:
    with RedisServer(tmp_path, password="s3cret") as server:
        broker = redis_broker(server.url())
        ear = listen(broker)
        await ear.listener.subscribe(["a"])
        await ear.until_id(broker.publish(["a"], b"", timeout=TIMEOUT))
        await ear.until_id(await publish(broker, "a", b""))
        wrong = redis_broker(server.url(password="guess"))
        began = time.monotonic()
        for attempt in (
            asyncio.to_thread(wrong.publish, ["a"], b"", timeout=TIMEOUT),
            wrong.apublish(["a"], b"", timeout=TIMEOUT),
        ):
            with pytest.raises(PublishFailed) as refused:
                await attempt
            assert not refused.value.may_be_stored
        # It will not become right by waiting.
        assert time.monotonic() - began < TIMEOUT
        await ear.listener.close()


async def test_a_refusal_to_store_is_told(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    broker = redis_broker()
    await publish(broker, "a", b"")
    redis_server("CONFIG", "SET", "maxmemory", "1")
    for attempt in (
        asyncio.to_thread(broker.publish, ["a"], b"", timeout=TIMEOUT),
        broker.apublish(["a"], b"", timeout=TIMEOUT),
    ):
        with pytest.raises(PublishFailed) as refused:
            await attempt
        assert not refused.value.may_be_stored
    redis_server("CONFIG", "SET", "maxmemory", "0")
    redis_server("SET", "sse:events:b", "no stream")
    with pytest.raises(PublishFailed) as refused:
        await publish(broker, ["a", "b"], b"")
    assert refused.value.may_be_stored
    with pytest.raises(BrokerError):
        await listen(broker).listener.replay(["b"], await publish(broker, "a", b""))


async def test_one_connection_listens_however_many_topics_are_followed(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    broker = redis_broker()
    ear = listen(broker)
    topics = [f"topic {number}" for number in range(300)]
    await asyncio.gather(*(ear.listener.subscribe([topic]) for topic in topics))
    assert redis_server.connections("pubsub") == 1
    channels = redis_server("PUBSUB", "CHANNELS")
    assert sorted(channels) == sorted(f"sse:0:{topic}" for topic in topics)
    await ear.until_id(await publish(broker, topics, b"one of them all"))
    await ear.listener.unsubscribe(topics[1:])
    await ear.until_id(await publish(broker, topics, b"again"))
    assert ear.heads == [b"one of them all", b"again"]
    await eventually(lambda: redis_server("PUBSUB", "CHANNELS") == ["sse:0:topic 0"])
    await ear.listener.unsubscribe(topics)
    await ear.listener.subscribe(["after none was left"])
    assert redis_server("PUBSUB", "CHANNELS") == ["sse:0:after none was left"]
    await ear.listener.close()
    broker.close()
    await eventually(lambda: nobody_is_connected(redis_server))


async def test_loops_that_end_leave_no_connection_open(
    redis_server: RedisServer, redis_broker: MakeBroker
) -> None:
    broker = redis_broker()

    async def use() -> None:
        await asyncio.gather(*(publish(broker, "a", b"") for _ in range(20)))
        listener = broker.listen(lambda message: None, lambda topics: None)
        await listener.subscribe(["a"])
        # Not closed: whatever ends the loop has to do.

    for _ in range(3):
        await asyncio.to_thread(asyncio.run, use())
    await eventually(lambda: nobody_is_connected(redis_server))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_process_has_connections_of_its_own(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    broker = redis_broker(HISTORY=10_000)
    ear = listen(broker)
    await ear.listener.subscribe(["a"])
    start = await ear.listener.latest_id()

    def publish_many(name: bytes) -> bool:
        ids = [broker.publish(["a"], b"%b %d" % (name, n), timeout=5) for n in range(300)]
        return ids == sorted(set(ids))

    assert publish_many(b"before")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if publish_many(b"child") else 2
        finally:
            os._exit(status)
    assert await asyncio.to_thread(publish_many, b"parent")
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert status == 0
    await ear.until(lambda: len(ear.heard) == 900)
    assert set(ear.heads) == {
        b"%b %d" % (name, n) for name in (b"before", b"child", b"parent") for n in range(300)
    }
    assert await ear.listener.replay(["a"], start) == ear.messages


@pytest.mark.parametrize(
    ("location", "options", "named"),
    [
        ("", {}, "LOCATION"),
        ("localhost:6379", {}, "LOCATION"),
        ("http://localhost", {}, "LOCATION"),
        ("redis://localhost:6379/x", {}, "number of a database"),
        ("redis://localhost/0?protocol=3", {}, "protocol"),
        ("redis://localhost", {"CLIENT": {"decode_responses": True}}, "decode_responses"),
        ("redis://localhost", {"CLIENT": {"no_such_argument": 1}}, "no_such_argument"),
        ("redis://localhost", {"CLIENT": ["ssl"]}, "CLIENT"),
        ("redis://localhost", {"PREFIX": b"sse:"}, "PREFIX"),
    ],
)
def test_wrong_settings_are_named(location: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=named):
        RedisBroker(location, options)


@pytest.mark.parametrize(
    "location",
    ["redis://localhost/3", "rediss://user:pass@host:6380/3", "unix:///run/redis.sock?db=3"],
)
def test_a_broker_is_made_without_a_connection(location: str) -> None:
    RedisBroker(location, {"CLIENT": {"client_name": "sse"}}).close()


async def test_everything_goes_over_tls(tmp_path: Path, listen: Listen) -> None:
    key, trusted = make_certificate(tmp_path)
    with RedisServer(tmp_path) as server:
        tls_port = free_port()
        files = {"tls-cert-file": trusted, "tls-key-file": key, "tls-ca-cert-file": trusted}
        server("CONFIG", "SET", *(str(it) for pair in files.items() for it in pair))
        server("CONFIG", "SET", "tls-auth-clients", "no", "tls-port", str(tls_port))
        # What is not encrypted is not answered any more.
        url = f"rediss://127.0.0.1:{tls_port}/0"
        broker = RedisBroker(url, {"CLIENT": {"ssl_ca_certs": str(trusted)}})
        ear = listen(broker)
        await ear.listener.subscribe(["a"])
        first = await publish(broker, "a", b"from a coroutine")
        last = await asyncio.to_thread(broker.publish, ["a"], b"from a thread", timeout=TIMEOUT)
        await ear.until_id(last)
        assert ear.heads == [b"from a coroutine", b"from a thread"]
        assert [message.id for message in await ear.listener.replay(["a"], first)] == [last]
        # A certificate that nobody vouches for is refused.
        with pytest.raises(PublishFailed, match=r"(?i)certificate") as failed:
            RedisBroker(url).publish(["a"], b"never", timeout=1)
        assert not failed.value.may_be_stored


async def test_replica_is_no_place_to_publish(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    broker = redis_broker()
    ear = listen(broker)
    await ear.listener.subscribe(["a"])
    await publish(broker, "a", b"before")
    redis_server("REPLICAOF", "127.0.0.1", str(free_port()))
    with pytest.raises(PublishFailed) as failed:
        await broker.apublish(["a"], b"never", timeout=0.5)
    assert not failed.value.may_be_stored
    publishing = asyncio.create_task(publish(broker, "a", b"after"))
    await asyncio.sleep(0.3)
    redis_server("REPLICAOF", "NO", "ONE")
    await ear.until_id(await publishing)
    assert ear.heads == [b"before", b"after"]


def _cluster(directory: Path) -> RedisServer:
    """A Redis Cluster of one node, which has all slots."""
    # Its bus is 10,000 ports above it by default, which may be too high.
    options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    server = RedisServer(directory, appendonly=False, options=options)
    server.start()
    server("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    return server


FAULTS = {
    "unreachable": (["Error 111 connecting to 127.0.0.1"], False, 0.2),
    "paused": ([], False, 0.5),
    "password": (["AuthenticationError"], False, 0.0),
    "cluster": (["a Redis Cluster, which is not supported"], False, 0.0),
    "denied": (["permissions to run the 'evalsha' command"], False, 0.0),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_failure_names_the_address_the_cause_and_how_long_it_was_tried(
    tmp_path: Path, redis_broker: MakeBroker, fault: str
) -> None:
    causes, may_be_stored, waited = FAULTS[fault]
    with ExitStack() as stack:
        server = _cluster(tmp_path) if fault == "cluster" else RedisServer(tmp_path)
        stack.callback(server.kill)
        if fault != "cluster":
            server.start()
        url = server.url(3)
        if fault == "cluster":
            url = server.url()
            await eventually(lambda: "cluster_state:ok" in str(server("CLUSTER", "INFO")))
        elif fault == "unreachable":
            server.kill()
        elif fault == "paused":
            server.pause()
            stack.callback(server.resume)
        elif fault == "password":
            server("CONFIG", "SET", "requirepass", "s3cret")
            url = url.replace("redis://", "redis://:gue55@")
        elif fault == "denied":
            server("ACL", "SETUSER", "shop", "on", ">s3cret", "~*", "+@all", "-evalsha", "-eval")
            url = url.replace("redis://", "redis://shop:s3cret@")
        broker = redis_broker(url)
        for attempt in (
            lambda: asyncio.to_thread(broker.publish, ["a", "b"], b"", timeout=0.5),
            lambda: broker.apublish(["a", "b"], b"", timeout=0.5),
            lambda: asyncio.to_thread(broker.latest_id, timeout=0.5),
            lambda: broker.alatest_id(timeout=0.5),
        ):
            if fault == "cluster" and "latest" in str(attempt.__code__.co_names):
                continue  # One key has one slot.
            with pytest.raises(BrokerError) as failed:
                await attempt()
            text = str(failed.value)
            database = 0 if fault == "cluster" else 3
            assert text.startswith(f"Redis at 127.0.0.1:{server.port}/{database} ")
            assert all(cause in text for cause in causes), text
            assert "s3cret" not in text
            assert "gue55" not in text
            [seconds] = re.findall(r"\(tried for (\d\.\d) s\)", text)
            assert float(seconds) >= waited - 0.1
            if isinstance(failed.value, PublishFailed):
                assert failed.value.may_be_stored is may_be_stored
                refused = "refused the event" in text
                assert refused is (waited == 0.0)


EVICTING = pytest.mark.parametrize("policy", ["volatile-lru", "allkeys-lru"])


async def _evict(server: RedisServer, broker: RedisBroker, policy: str) -> None:
    """Publish elsewhere until Redis has thrown away all of the topic ``a``.

    The ids have no expiry, so ``volatile-lru`` keeps them; ``allkeys-lru`` may evict them as well.
    """
    keys = "sse:events:a", "sse:newest:a"
    birth = server("HGET", "sse:ids", "birth")
    used = int(server("INFO", "memory")["used_memory"])
    server("CONFIG", "SET", "maxmemory-policy", policy)
    server("CONFIG", "SET", "maxmemory", str(used + 1_000_000))
    server("CONFIG", "SET", "maxmemory-samples", "10")
    for number in range(2000):
        await publish(broker, f"other-{number}", b"x" * 10_000)
        if number % 20 == 0 and not server("EXISTS", *keys):
            break
    assert server("EXISTS", *keys) == 0
    assert policy != "volatile-lru" or server("HGET", "sse:ids", "birth") == birth


@EVICTING
async def test_topic_that_redis_has_evicted_is_not_taken_for_a_quiet_one(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen, policy: str
) -> None:
    broker = redis_broker()
    seen = await publish(broker, "a", b"seen")
    await publish(broker, "a", b"missed")
    replay = listen(broker).listener.replay
    # Quiet ones are known as such for as long as nothing was evicted.
    assert await replay(["quiet"], seen) == []
    await _evict(redis_server, broker, policy)
    with pytest.raises(HistoryLost):
        await replay(["a"], seen)
    with pytest.raises(HistoryLost):
        await replay(["a"], seen)
    # Nothing is missing after the moment at which it was noticed.
    redis_server("CONFIG", "SET", "maxmemory", "0")
    now = await broker.alatest_id(timeout=TIMEOUT)
    assert await replay(["a", "quiet"], now) == []
    later = await publish(broker, "b", b"")
    assert await replay(["a", "quiet"], now) == []
    # An event that comes after the gap does not hide it.
    await publish(broker, "a", b"after")
    with pytest.raises(HistoryLost):
        await replay(["a"], seen)
    assert [m.head for m in await replay(["a"], later)] == [b"after"]


@EVICTING
async def test_event_that_is_published_first_after_an_eviction_does_not_hide_it(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen, policy: str
) -> None:
    broker = redis_broker()
    seen = await publish(broker, "a", b"seen")
    await publish(broker, "a", b"missed")
    await _evict(redis_server, broker, policy)
    redis_server("CONFIG", "SET", "maxmemory", "0")
    await publish(broker, "a", b"after")
    with pytest.raises(HistoryLost):
        await listen(broker).listener.replay(["a"], seen)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "noeviction"])
async def test_redis_that_evicts_is_told_of_once(
    redis_server: RedisServer,
    redis_broker: MakeBroker,
    listen: Listen,
    caplog: pytest.LogCaptureFixture,
    policy: str,
) -> None:
    broker = redis_broker()
    redis_server("CONFIG", "SET", "maxmemory-policy", policy)
    redis_server("CONFIG", "SET", "maxmemory", "100mb")
    for topic in ("a", "b"):
        await listen(broker).listener.subscribe([topic])
    said = [it.getMessage() for it in caplog.records if "maxmemory-policy" in it.getMessage()]
    problems = await asyncio.to_thread(broker.problems, timeout=TIMEOUT)
    if policy == "noeviction":
        assert said == problems == []
    else:
        assert said == problems
        [text] = said
        assert f"(maxmemory-policy {policy})" in text
        assert "Set maxmemory-policy noeviction" in text
    redis_server("CONFIG", "SET", "maxmemory", "0")
    assert await asyncio.to_thread(broker.problems, timeout=TIMEOUT) == []


def _acl_of_the_page() -> str:
    page = Path(__file__).parents[3] / "docs" / "brokers.md"
    # The second line is for presence.
    [line, _] = re.findall(r"^ACL SETUSER .*$", page.read_text(), re.MULTILINE)
    return str(line)


async def test_user_of_the_documentation_may_do_what_the_broker_does_and_no_more(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    redis_server(*_acl_of_the_page().split())
    url = redis_server.url().replace("redis://", "redis://shop:secret@")
    broker = redis_broker(url)
    ear = listen(broker)
    await ear.listener.subscribe(["a"])
    first = broker.publish(["a"], b"thread", timeout=TIMEOUT)
    await ear.until_id(await publish(broker, "a", b"task"))
    assert ear.heads == [b"thread", b"task"]
    assert [m.head for m in await ear.listener.replay(["a"], first)] == [b"task"]
    assert broker.latest_id(timeout=TIMEOUT) > first
    await ear.listener.unsubscribe(["a"])
    # It hears of evictions, within scripts too.
    redis_server("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    redis_server("CONFIG", "SET", "maxmemory", "100mb")
    assert len(await asyncio.to_thread(broker.problems, timeout=TIMEOUT)) == 1
    redis_server("CONFIG", "SET", "maxmemory", "0")
    client = redis.Redis.from_url(url)
    for command in (
        ("GET", "other"),
        ("SET", "other", "1"),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("PUBLISH", "other", "x"),
        ("DEL", "sse:ids"),
        ("SCRIPT", "FLUSH"),
        ("EVAL", "return redis.call('GET', 'other')", "0"),
    ):
        with pytest.raises(ResponseError):
            client.execute_command(*command)
    client.close()
    await ear.listener.close()


async def test_user_who_may_not_ask_for_the_policy_is_served(
    redis_server: RedisServer, redis_broker: MakeBroker, listen: Listen
) -> None:
    redis_server(*_acl_of_the_page().replace(" +info", "").split())
    broker = redis_broker(redis_server.url().replace("redis://", "redis://shop:secret@"))
    ear = listen(broker)
    await ear.listener.subscribe(["a"])
    await ear.until_id(await publish(broker, "a", b""))
    assert await asyncio.to_thread(broker.problems, timeout=TIMEOUT) == []
    await ear.listener.close()


def test_broker_that_is_away_cannot_be_asked_for_its_problems(
    redis_server: RedisServer, redis_broker: MakeBroker
) -> None:
    redis_server.kill()
    with pytest.raises(BrokerError, match=f"Redis at 127.0.0.1:{redis_server.port}/0 cannot be"):
        redis_broker().problems(timeout=1)
