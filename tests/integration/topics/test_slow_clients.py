"""A client that is slower than what is published costs no more than its limit, and delays nobody."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from django_sse import SSEView, apublish
from django_sse.brokers.base import EventId, Message
from django_sse.testing import StreamClient, StreamEnded, connect
from django_sse.topics.backlog import Backlog, Item
from tests.support.servers import Server

from .brokers import HeldBroker
from .conftest import environment, memory
from .harness import PATIENCE, Connection, post

Serve = Callable[..., Server]


class Follows(SSEView):
    topics = ["a"]
    heartbeat = None
    outbox_limit = 4096
    reasons: list[str | None] = []

    async def disconnect(self) -> None:
        self.reasons.append(self.close_reason)


class Forgets(Follows):
    overflow = "drop_oldest"


class Newest(Follows):
    overflow = "latest"


async def flood(stream: StreamClient, count: int, keys: int = 0) -> list[str]:
    """Publish more than the client, which does not read, can be sent; return the ids."""
    while (await stream.receive_block()).id is None:
        pass
    ids = []
    for number in range(count):
        key = str(number % keys) if keys else None
        ids.append(await apublish("a", str(number).ljust(100, "."), key=key))
        # Each is written on its own, so that the client's side fills up.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return ids


async def rest(stream: StreamClient) -> list[Any]:
    """Return all events with data that come until the stream ends, or until ``end``."""
    events: list[Any] = []
    while True:
        await asyncio.sleep(0)
        event = await stream.receive()
        if event.event == "end":
            return events
        events.append(event)


async def test_slow_client_is_closed_and_resumes_without_loss(held_broker: HeldBroker) -> None:
    Follows.reasons.clear()
    async with connect(Follows) as stream:
        ids = await flood(stream, 300)
        got = []
        with suppress(StreamEnded):
            while True:
                got.append((await stream.receive()).id)
    assert Follows.reasons == ["overflow"]
    assert 0 < len(got) < 300
    async with connect(Follows, headers={"Last-Event-ID": stream.last_event_id}) as again:
        await apublish("a", "", event="end")
        got += [event.id for event in await rest(again)]
    assert got == ids


async def test_slow_client_is_told_how_much_was_dropped(held_broker: HeldBroker) -> None:
    async with connect(Forgets) as stream:
        ids = await flood(stream, 300)
        reading = asyncio.create_task(rest(stream))
        await asyncio.sleep(0.1)
        await apublish("a", "", event="end")
        events = await reading
    notices = [event for event in events if event.event == "dropped"]
    got = [event.id for event in events if event.event is None]
    assert [notice.id for notice in notices] == [None] * len(notices)
    assert sum(json.loads(notice.data)["count"] for notice in notices) == 300 - len(got) > 0
    assert got == [id for id in ids if id in set(got)]
    # The notice stands where the hole is, and the newest are there.
    position = events.index(notices[0])
    assert ids.index(events[position + 1].id) > ids.index(events[position - 1].id) + 1
    assert got[-1] == ids[-1]


async def test_slow_client_gets_the_newest_of_each_key(held_broker: HeldBroker) -> None:
    async with connect(Newest) as stream:
        ids = await flood(stream, 300, keys=7)
        reading = asyncio.create_task(rest(stream))
        await asyncio.sleep(0.1)
        await apublish("a", "", event="end")
        events = await reading
    got = [event.id for event in events]
    assert len(got) < 300
    assert got == [id for id in ids if id in set(got)]
    assert got[-7:] == ids[-7:]
    assert {event.event for event in events} == {None}


def items(count: int, keys: int = 0, size: int = 100) -> list[Item]:
    """Return messages as the hub hands them over."""
    made = []
    for number in range(count):
        key = str(number % keys) if keys else None
        message = Message(EventId(1, number), ("a",), b"x" * size, key=key)
        made.append((message, b"%05d" % number + b"x" * size))
    return made


def test_slow_client_with_more_keys_than_fit_is_closed() -> None:
    backlog = Backlog("latest", 10_000)
    # Those without a key make room first.
    assert backlog.add(items(50))
    assert backlog.add(items(1000, keys=90))
    taken = backlog.take(100_000)
    assert [taken[at : at + 5] for at in range(0, len(taken), 105)] == [
        *(b"%05d" % number for number in range(45, 50)),
        *(b"%05d" % number for number in range(910, 1000)),
    ]
    # A key that would lose its newest event without a word would never be right again.
    assert backlog.add(items(90, keys=90))
    assert not backlog.add(items(200, keys=200))


@pytest.mark.parametrize("overflow", ["drop_oldest", "latest"])
def test_slow_client_costs_its_publishers_little(overflow: str) -> None:
    backlog = Backlog(overflow, 1_000_000)
    filled = items(10_000) if overflow == "drop_oldest" else items(9000, keys=9000)
    assert backlog.add(filled)
    began = time.process_time()
    for item in items(10_000):
        assert backlog.add([item])
    # It is some 20 ms, and was minutes where the whole backlog was looked through each time.
    assert time.process_time() - began < 2


def memory_of(server: Server) -> int:
    """Return the resident memory of a server, in bytes."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("The process tells nothing of its memory.")


async def latencies(connection: Connection) -> list[float]:
    """Return how late each tick came, up to ``end``."""
    found: list[float] = []
    while True:
        for block in await connection.read():
            if block.event == "end":
                return found
            if block.data not in {None, "everything so far"}:
                found.append(time.monotonic() - float(block.data or 0))


async def publish_heavily(server: Server, count: int) -> float:
    """Publish 20 kB ``count`` times; return the 99th percentile of ten other clients' latency."""
    address = server.address
    others = [await Connection.get(address, "/numbers/?topics=ticks") for _ in range(10)]
    for other in others:
        await other.until("snapshot")
    measuring = [asyncio.create_task(latencies(other)) for other in others]
    async with asyncio.timeout(PATIENCE):
        await post(address, "/publish/heavily/", {"count": count})
        await post(address, "/publish/one/", {"topics": "ticks", "event": "end"})
        found = sorted(itertools.chain.from_iterable(await asyncio.gather(*measuring)))
    for other in others:
        other.drop()
    assert len(found) == 10 * count // 25
    return found[len(found) * 99 // 100]


@pytest.mark.parametrize("name", ["uvicorn", "daphne"])
async def test_slow_client_that_never_reads_costs_its_limit(
    name: str, serve_numbers: Serve
) -> None:
    limit, count = 1_000_000, 10_000
    env = environment(memory(HISTORY=20), OUTBOX_LIMIT=limit, SEND_TIMEOUT=300)
    server = serve_numbers(name, env)
    without = await publish_heavily(server, count)
    before = memory_of(server)
    stuck = [
        await Connection.get(server.address, f"/{path}/?topics=heavy")
        for path in ("forgetful", "newest", "numbers")
    ]
    with_stuck = await publish_heavily(server, count)
    # 200 MB were published to each. What the server itself buffers for a socket is the constant.
    assert memory_of(server) - before < 3 * (limit + 5_000_000)
    # Others are not delayed. The slack is for a machine that does other things too.
    assert with_stuck < 2 * without + 0.5
    for connection in stuck:
        connection.drop()


@pytest.mark.parametrize("name", ["uvicorn", "daphne"])
async def test_slow_client_on_a_server_resumes_with_nothing_lost(
    name: str, serve_numbers: Serve
) -> None:
    count = 1500
    address = serve_numbers(name, environment(memory(HISTORY=2000), OUTBOX_LIMIT=500_000)).address
    client = await Connection.get(address, "/numbers/?topics=heavy")
    await client.until("snapshot")
    await post(address, "/publish/heavily/", {"count": count})
    got: list[int] = []
    lives = 0
    async with asyncio.timeout(PATIENCE):
        while len(got) < count:
            if client.ended:
                lives += 1
                client.drop()
                last = client.decoder.last_event_id
                client = await Connection.get(address, "/numbers/?topics=heavy", last)
            for block in await client.read():
                assert block.event is None
                if block.data is not None:
                    got.append(int(block.data.partition(":")[0]))
    client.drop()
    assert got == list(range(count))
    assert lives >= 1
