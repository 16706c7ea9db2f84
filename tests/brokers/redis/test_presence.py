"""What Redis keeps of present users, and for how long."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from django_sse.brokers.base import Broker
from django_sse.brokers.presence import Change, Departure, Presence
from django_sse.exceptions import BrokerError
from tests.brokers.conftest import MakeBroker
from tests.support.ear import TIMEOUT
from tests.support.redis_server import RedisServer


async def attend(broker: Broker, *changes: Change, **given: Any) -> Any:
    times: dict[str, Any] = {"lease": 30, "grace": 0, "timeout": TIMEOUT}
    times.update(given)
    departures = times.pop("departures", [])
    return await broker.attend("me", changes, departures, **times)


async def test_every_key_expires_and_renewals_put_that_off(
    redis_server: RedisServer, redis_broker: MakeBroker
) -> None:
    broker = redis_broker()
    users = [Change("a", "7", 1, b"data: 7\n"), Change("b", None, 2), Change("a", "8", 1, b"")]
    await attend(broker, *users, lease=0.2)
    await attend(broker, Change("a", "8", 0), lease=0.2)
    keys = sorted(redis_server("KEYS", "sse:presence:*"))
    names = ["held:me", "here:a", "here:b", "holders", "leaving"]
    assert keys == [f"sse:presence:{name}" for name in names]
    assert all(0 < redis_server("PTTL", key) <= 3_600_000 for key in keys)
    # Each renewal uses a hundredth of the topics, one at least, at random.
    for _ in range(200):
        await attend(broker, lease=300)
        redis_server("ZADD", "sse:presence:holders", 1, "me")
        if all(redis_server("PTTL", key) > 290_000_000 for key in keys):
            break
    else:
        pytest.fail("Not all keys were renewed.")


async def test_nothing_is_left_in_redis_once_everybody_has_left(
    redis_server: RedisServer, redis_broker: MakeBroker
) -> None:
    broker = redis_broker()
    await attend(broker, Change("a", "7", 1, b"data: 7\n"), Change("a", None, 2))
    await attend(broker, Change("a", "7", 0), Change("a", None, 0))
    attended = await attend(broker)
    assert attended.due == [("a", "7")]
    await attend(broker, departures=[Departure("a", "7", b"data: 7\n")])
    await attend(broker, lease=0)
    assert redis_server("KEYS", "sse:presence:*") == []


async def test_a_leave_of_a_topic_that_has_expired_is_not_published(
    redis_server: RedisServer, redis_broker: MakeBroker
) -> None:
    broker = redis_broker()
    await attend(broker, Change("a", "7", 1, b"data: 7\n"))
    await attend(broker, Change("a", "7", 0))
    redis_server("DEL", "sse:presence:here:a")
    newest = await broker.alatest_id(timeout=TIMEOUT)
    await attend(broker, departures=[Departure("a", "7", b"data: 7\n")])
    assert await broker.alatest_id(timeout=TIMEOUT) == newest
    assert (await attend(broker)).due == []


async def test_redis_that_is_away_is_a_brokers_error(
    redis_server: RedisServer, redis_broker: MakeBroker
) -> None:
    broker = redis_broker()
    await attend(broker)
    redis_server.kill()
    with pytest.raises(BrokerError, match="did not take note of who is present"):
        await attend(broker, timeout=0.3)
    with pytest.raises(BrokerError, match="did not tell who is present"):
        broker.presence("a", timeout=0.3)
    with pytest.raises(BrokerError, match="did not tell who is present"):
        await broker.apresence("a", timeout=0.3)
    redis_server.start()
    await attend(broker)
    assert broker.presence("a", timeout=TIMEOUT) == Presence((), 0)


async def test_user_of_the_documentation_may_do_what_presence_does(
    redis_server: RedisServer, redis_broker: MakeBroker
) -> None:
    page = Path(__file__).parents[3] / "docs" / "brokers.md"
    lines = re.findall(r"^ACL SETUSER .*$", page.read_text(), re.MULTILINE)
    redis_server(*lines[0].split())
    broker = redis_broker(redis_server.url().replace("redis://", "redis://shop:secret@"))
    with pytest.raises(BrokerError, match=r"can.t run this command|NOPERM|no permissions"):
        await attend(broker, Change("a", "7", 1, b"data: 7\n"))
    redis_server(*lines[1].split())
    await broker.attend(
        "dead", [Change("a", "7", 1, b""), Change("a", None, 1)], [], lease=0.01, grace=0, timeout=1
    )
    await attend(broker)
    await asyncio.sleep(0.05)
    attended = await attend(broker, Change("a", "8", 1, b""), Change("a", None, 1))
    assert attended.due == [("a", "7")]
    await attend(broker, Change("a", "8", 0), departures=[Departure("a", "7", b"data: 7\n")])
    assert broker.presence("a", timeout=TIMEOUT) == Presence((), 1)
    await attend(broker, lease=0)
    await broker.attend("last", [], [], lease=10, grace=0, timeout=1)
    await broker.attend("last", [], [], lease=10, grace=0, timeout=1)
    await broker.attend("last", [], [], lease=0, grace=0, timeout=1)
