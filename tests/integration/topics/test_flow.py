"""Nothing is lost without a word: numbered events, and clients that come and go, on real servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import database, new_database
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer
from tests.support.servers import Server

from .conftest import environment, in_database, memory, redis
from .harness import (
    PATIENCE,
    Block,
    Connection,
    Crowd,
    Follower,
    Truth,
    manage,
    parse,
    post_job,
    run_job,
)

Serve = Callable[..., Server]

#: Every event goes to one or two of these.
TARGETS = [["a"], ["b"], ["a", "b"], ["c"], ["b", "c"]]


def crowd(
    rng: random.Random, size: int, addresses: list[Any], drops: int = 0, absence: float = 0.0
) -> Crowd:
    """Return followers of one, two or all topics."""
    choices = [["a"], ["b"], ["a", "b"], ["a", "b", "c"]]
    return Crowd(
        [
            Follower(addresses, choices[number % 4], rng, drops=drops, absence=absence)
            for number in range(size)
        ]
    )


@pytest.mark.parametrize(
    ("broker", "server"),
    [("memory", "daphne"), ("redis", "uvicorn"), ("sqlite", "daphne"), ("postgresql", "uvicorn")],
)
async def test_flow_clients_that_drop_at_random_get_everything(
    broker: str,
    server: str,
    serve_numbers: Serve,
    request: pytest.FixtureRequest,
    rng: random.Random,
    tmp_path: Path,
) -> None:
    # The history holds it all, so that no reset excuses a hole.
    options = {"HISTORY": 20_000}
    if broker == "memory":
        env = environment(memory(**options))
    elif broker == "redis":
        env = environment(redis(request.getfixturevalue("redis_server"), **options))
    else:
        with new_database(broker, request, tmp_path) as alias:
            env = environment(in_database(**options), database=alias)
    address = serve_numbers(server, env).address
    truth = Truth()
    async with crowd(rng, 50, [address], drops=1500, absence=0.1) as following:
        jobs = [
            post_job(address, path, {"name": name, "count": 2500, "targets": TARGETS})
            for name, path in [("loop", "/publish/loop/"), ("thread", "/publish/thread/")]
        ]
        for notes in await asyncio.gather(*jobs):
            truth.add(notes)
        await following.until_ended(address)
    for follower in following.followers:
        truth.judge(follower)
        assert follower.resets == 0
        assert follower.snapshots == 1
    assert sum(follower.dropped for follower in following.followers) > 50


async def strike(
    fault: str, server: RedisServer | PostgresServer, cut: Callable[[], object]
) -> None:
    """Let a fault of a server begin and end. ``cut()`` closes all of its connections."""
    if fault == "killed":
        server.kill()
        await asyncio.sleep(2.5)
        server.start()
    elif fault == "cut off":
        for _ in range(5):
            cut()
            await asyncio.sleep(0.2)
    else:
        server.pause()
        await asyncio.sleep(5)
        server.resume()


async def goes_on_after(
    fault: str,
    server: RedisServer | PostgresServer,
    cut: Callable[[], object],
    env: dict[str, str],
    serve_numbers: Serve,
    rng: random.Random,
) -> list[Follower]:
    """Publish through a fault of the broker's server, and judge what clients got.

    Some stay, and some come and go, which are returned.
    """
    addresses = [serve_numbers(name, env).address for name in ("uvicorn", "daphne")]
    truth = Truth()
    steady, restless = crowd(rng, 8, addresses), crowd(rng, 8, addresses, drops=600, absence=0.3)
    async with steady, restless:
        jobs = [
            asyncio.create_task(
                run_job(env, how, {"name": how, "count": 800, "targets": TARGETS, "rate": 200})
            )
            for how in ("plain", "threads", "async")
        ]
        await steady.until_received(200)
        await strike(fault, server, cut)
        for notes in await asyncio.gather(*jobs):
            truth.add(notes)
        for following in (steady, restless):
            await following.until_ended(addresses[0])
    failed = [note for note in truth.notes if note.id is None]
    assert max(note.seconds for note in truth.notes) < 2 + 3
    assert failed or fault == "cut off"
    for follower in steady.followers:
        truth.judge(follower)
        # The stream stayed open, and the gap was filled.
        assert (follower.connections, follower.resets, follower.snapshots) == (1, 0, 1)
    for follower in restless.followers:
        truth.judge(follower)
        assert (follower.resets, follower.snapshots) == (0, 1)
    return restless.followers


@pytest.mark.parametrize("fault", ["killed", "cut off", "paused"])
async def test_flow_goes_on_after_a_fault_of_redis(
    fault: str, serve_numbers: Serve, redis_server: RedisServer, rng: random.Random
) -> None:
    env = environment(redis(redis_server, HISTORY=20_000), PUBLISH_TIMEOUT=2)
    cut = redis_server.kill_clients
    restless = await goes_on_after(fault, redis_server, cut, env, serve_numbers, rng)
    assert sum(follower.dropped for follower in restless) > 8


@pytest.mark.parametrize("fault", ["killed", "cut off", "paused"])
async def test_flow_goes_on_after_a_fault_of_postgresql(
    fault: str,
    serve_numbers: Serve,
    postgres_server: PostgresServer,
    rng: random.Random,
    django_db_blocker: Any,
) -> None:
    settings = postgres_server.new_database()
    with django_db_blocker.unblock(), database(settings) as alias:
        env = environment(in_database(HISTORY=20_000), database=alias, PUBLISH_TIMEOUT=2)
    cut = partial(postgres_server.cut, settings["NAME"])
    await goes_on_after(fault, postgres_server, cut, env, serve_numbers, rng)


async def test_flow_change_and_event_are_both_there_or_neither(
    serve_numbers: Serve,
    postgres_server: PostgresServer,
    rng: random.Random,
    django_db_blocker: Any,
) -> None:
    settings = postgres_server.new_database()
    with django_db_blocker.unblock(), database(settings) as alias:
        env = environment(in_database(HISTORY=100_000), database=alias)
    postgres_server.execute("CREATE TABLE changes (change text)", settings["NAME"])
    server = serve_numbers("uvicorn", env)
    client = await Connection.get(server.address, "/numbers/?topics=changes")
    await receive(client, 1)
    dying = asyncio.create_task(manage(env, "publish_and_die", "150", str(rng.randrange(2**32))))
    got: list[Block] = []
    changes: list[str] = []
    # The last one killed may have sent a COMMIT that the database carries out a moment later.
    with suppress(TimeoutError):
        async with asyncio.timeout(2 * PATIENCE):
            while not dying.done() or sorted(str(block.data) for block in got) != changes:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        got += [block for block in await client.read() if block.data is not None]
                if dying.done():
                    await dying
                    # A publisher that died after its commit numbers nothing. The server does.
                    printed = postgres_server.execute(
                        "SELECT change FROM changes", settings["NAME"]
                    )
                    changes = sorted(printed.split())
    client.drop()
    assert len(changes) > 50
    told = [str(block.data) for block in got]
    assert sorted(told) == changes
    ids = [parse(block.id) for block in got]
    assert ids == sorted(set(ids))
    for life in range(150):
        mine = [int(data.partition(":")[2]) for data in told if data.startswith(f"{life}:")]
        assert mine == sorted(mine)


async def publish_some(address: Any, name: str, count: int, topics: list[str]) -> Truth:
    """Publish in the server's process, and return what was published."""
    truth = Truth()
    job = {"name": name, "count": count, "targets": [topics]}
    truth.add(await post_job(address, "/publish/loop/", job))
    return truth


async def receive(connection: Connection, count: int) -> list[str | None]:
    """Return the data of the next events that have some; resets and snapshots count."""
    found: list[str | None] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            assert not connection.ended, found
            found += [block.data for block in await connection.read() if block.data is not None]
    return found


async def test_flow_emptied_redis_means_reset_and_ids_rise(
    serve_numbers: Serve, redis_server: RedisServer
) -> None:
    address = serve_numbers("uvicorn", environment(redis(redis_server))).address
    stays = await Connection.get(address, "/numbers/?topics=a")
    leaves = await Connection.get(address, "/numbers/?topics=a")
    assert await receive(stays, 1) == await receive(leaves, 1) == ["everything so far"]
    before = await publish_some(address, "before", 5, ["a"])
    assert len(await receive(stays, 5)) == len(await receive(leaves, 5)) == 5
    last = leaves.decoder.last_event_id
    assert last == before.notes[-1].id
    leaves.drop()
    redis_server.flush()
    after = await publish_some(address, "after", 2, ["a"])
    assert parse(after.notes[0].id) > parse(last)
    # Who stayed missed nothing.
    assert await receive(stays, 2) == ["after:0", "after:1"]
    back = await Connection.get(address, "/numbers/?topics=a", last)
    blocks = await back.until("snapshot")
    assert [block.event for block in blocks if block.data is not None] == ["reset", "snapshot"]
    assert [block.id for block in blocks if block.data is not None] == [None, None]
    more = await publish_some(address, "more", 1, ["a"])
    assert await receive(back, 1) == ["more:0"]
    assert back.decoder.last_event_id == more.notes[0].id
    # The id that it has now is good again.
    back.drop()
    await publish_some(address, "again", 1, ["a"])
    again = await Connection.get(address, "/numbers/?topics=a", back.decoder.last_event_id)
    assert await receive(again, 1) == ["again:0"]
    for connection in (stays, again):
        connection.drop()


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
async def test_flow_client_that_resumes_while_redis_is_away_is_held(
    server: str, serve_numbers: Serve, redis_server: RedisServer
) -> None:
    address = serve_numbers(server, environment(redis(redis_server), PUBLISH_TIMEOUT=1)).address
    first = await Connection.get(address, "/numbers/?topics=a,b")
    await receive(first, 1)
    await publish_some(address, "seen", 3, ["a"])
    assert await receive(first, 3) == ["seen:0", "seen:1", "seen:2"]
    first.drop()
    await publish_some(address, "missed", 3, ["b"])
    redis_server.kill()
    last = first.decoder.last_event_id
    held = await Connection.get(address, "/numbers/?topics=a,b", last)
    fresh = await Connection.get(address, "/numbers/?topics=b")
    beats = 0
    async with asyncio.timeout(PATIENCE):
        while beats < 3:
            for block in await held.read():
                assert (block.data, block.id) == (None, None)
                beats += block.comments == "heartbeat"
    failed = await publish_some(address, "lost", 1, ["a"])
    assert failed.notes[0].id is None
    assert not failed.notes[0].may_be_stored
    assert failed.notes[0].seconds < 1 + 3
    redis_server.start()
    assert await receive(held, 3) == ["missed:0", "missed:1", "missed:2"]
    assert await receive(fresh, 1) == ["everything so far"]
    await publish_some(address, "live", 2, ["b"])
    assert await receive(held, 2) == await receive(fresh, 2) == ["live:0", "live:1"]
    for connection in (held, fresh):
        connection.drop()


async def test_flow_more_than_history_during_absence_means_reset_and_snapshot(
    serve_numbers: Serve, redis_server: RedisServer
) -> None:
    address = serve_numbers("uvicorn", environment(redis(redis_server, HISTORY=100))).address
    client = await Connection.get(address, "/numbers/?topics=a,b")
    await receive(client, 1)
    await publish_some(address, "seen", 1, ["a"])
    await receive(client, 1)
    client.drop()
    # Of b, exactly what is held: nothing is missing, so nothing is reset.
    await publish_some(address, "held", 100, ["b"])
    client = await Connection.get(address, "/numbers/?topics=a,b", client.decoder.last_event_id)
    assert await receive(client, 100) == [f"held:{number}" for number in range(100)]
    client.drop()
    await publish_some(address, "trimmed", 101, ["b"])
    client = await Connection.get(address, "/numbers/?topics=a,b", client.decoder.last_event_id)
    blocks = await client.until("snapshot")
    assert [(block.event, block.id) for block in blocks if block.data is not None] == [
        ("reset", None),
        ("snapshot", None),
    ]
    # One that it does not follow does no harm.
    other = await Connection.get(address, "/numbers/?topics=a", client.decoder.last_event_id)
    live = await publish_some(address, "live", 1, ["a", "b"])
    assert await receive(client, 1) == await receive(other, 1) == ["live:0"]
    assert client.decoder.last_event_id == live.notes[0].id
    for connection in (client, other):
        connection.drop()
