"""A short soak; ``python -m tests.integration.attack.soak`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer

from .soak import soak


@pytest.mark.parametrize(
    ("name", "broker", "seconds"), [("uvicorn", "redis", 6), ("daphne", "memory", 4)]
)
def test_a_crowd_that_comes_and_goes_leaves_nothing_behind(
    name: str, broker: str, seconds: int, tmp_path: Path, database: Path
) -> None:
    if broker == "redis":
        with RedisServer(tmp_path) as redis:
            result = soak(name, tmp_path, database, clients=150, seconds=seconds, redis=redis)
    else:
        result = soak(name, tmp_path, database, clients=150, seconds=seconds)
    assert result.faults == []
    assert result.peak[-1] > 50, result.table()
    assert result.connected > 300
    assert result.received > 20_000
    grown = [after > before for before, after in zip(result.before, result.after, strict=True)]
    assert not any(grown[1:]), result.table()
    assert result.after[0] < result.before[0] + 10_000, result.table()
