"""The listener on Redis, which goes on after an unexpected error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from django_sse.brokers.redis import RedisBroker
from django_sse.brokers.redis import listener as redis_listener
from tests.support.ear import Ear, publish
from tests.support.redis_server import RedisServer


async def test_listener_goes_on_after_a_fault_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [RuntimeError("not foreseen")]
    catch_up = redis_listener.RedisListener._catch_up

    async def failing(self: redis_listener.RedisListener, *args: Any) -> None:
        if faults:
            raise faults.pop()
        await catch_up(self, *args)

    monkeypatch.setattr(redis_listener.RedisListener, "_catch_up", failing)
    # As after a connection that has held for long: the next attempt comes quickly.
    monkeypatch.setattr(redis_listener, "GOOD_SECONDS", -1)
    with RedisServer(tmp_path) as server:
        broker = RedisBroker(server.url(), {})
        ear = Ear(broker)
        await ear.listener.subscribe(["a"])
        last = await publish(broker, "a", b"data: x\n")
        await ear.until_id(last)
        await ear.listener.close()
        broker.close()
    [record] = [it for it in caplog.records if it.levelname == "ERROR"]
    assert record.getMessage() == "Listening to Redis failed, connecting again."
    assert "not foreseen" in caplog.text
