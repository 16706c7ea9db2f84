"""Servers of the streams of numbers, with whichever broker a test wants."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from django_sse.brokers import use_broker
from django_sse.brokers.base import Broker
from django_sse.brokers.database import DatabaseBroker
from django_sse.brokers.memory import MemoryBroker
from django_sse.brokers.redis import RedisBroker
from tests.support.databases import new_database
from tests.support.redis_server import RedisServer
from tests.support.servers import Server

from .brokers import HeldBroker

_numbers = itertools.count()

SETTINGS = "tests.integration.topics.project.settings"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Randomness that a failing test tells how to repeat: set ``SEED``."""
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    request.node.user_properties.append(("SEED", seed))
    print(f"SEED={seed}")  # noqa: T201 - pytest shows it where the test fails
    return random.Random(seed)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test, which may do with it what it likes."""
    with RedisServer(tmp_path) as server:
        yield server


def memory(**options: Any) -> dict[str, Any]:
    """Return the setting for a broker in memory."""
    return {"BACKEND": "django_sse.brokers.memory.MemoryBroker", "OPTIONS": options}


def redis(server: RedisServer, **options: Any) -> dict[str, Any]:
    """Return the setting for a broker on Redis."""
    return {
        "BACKEND": "django_sse.brokers.redis.RedisBroker",
        "LOCATION": server.url(),
        "OPTIONS": options,
    }


def in_database(**options: Any) -> dict[str, Any]:
    """Return the setting for a broker in the project's database."""
    return {"BACKEND": "django_sse.brokers.database.DatabaseBroker", "OPTIONS": options}


def environment(
    broker: dict[str, Any], *, database: str | None = None, **settings: Any
) -> dict[str, str]:
    """Return the environment of processes with this ``DJANGO_SSE``.

    ``database`` is the alias of the database that is to be their default one.
    """
    settings = {"HEARTBEAT": {"PERIOD": 0.5}, "BROKER": broker} | settings
    env = os.environ | {"DJANGO_SETTINGS_MODULE": SETTINGS, "NUMBERS_SSE": json.dumps(settings)}
    if database is not None:
        given = connections.databases[database]
        names = ("ENGINE", "NAME", "USER", "HOST", "PORT", "OPTIONS")
        env["NUMBERS_DATABASE"] = json.dumps({name: given[name] for name in names})
    return env


@pytest.fixture
def serve_numbers(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """``serve_numbers("daphne", environment(…))`` starts a server; its log must show no fault."""
    servers: list[Server] = []
    with ExitStack() as stack:

        def start(name: str, env: dict[str, str]) -> Server:
            server = Server(
                name,
                "tests.integration.topics.project.asgi:application",
                measured=True,
                directory=tmp_path,
                database=tmp_path / "none.sqlite3",
                settings=SETTINGS,
                env=env,
                args=("--timeout-graceful-shutdown", "2", "--log-level", "warning")
                if name == "uvicorn"
                else ("-v", "0"),
            )
            stack.enter_context(server)
            servers.append(server)
            return server

        yield start
    for server in servers:
        assert server.faults() == [], server.log()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for all tests that do it no harm; each broker has a prefix of its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["memory", "redis", "sqlite", "postgresql"])
def make_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """``make_broker(**OPTIONS)`` puts an empty broker of each kind in turn in this process's place."""
    made: list[Broker] = []
    before = use_broker(None)

    def make(**options: Any) -> Broker:
        if request.param == "memory":
            made.append(MemoryBroker("", options))
        elif request.param != "redis":
            alias = stack.enter_context(new_database(request.param, request, tmp_path))
            made.append(DatabaseBroker("", {"USING": alias} | options))
        else:
            url = request.getfixturevalue("shared_redis").url()
            made.append(RedisBroker(url, {"PREFIX": f"test{next(_numbers)}:"} | options))
        use_broker(made[-1])
        return made[-1]

    with ExitStack() as stack:
        yield make
        use_broker(before)
        for broker in made:
            broker.close()


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    return make_broker()


@pytest.fixture
def held_broker() -> Iterator[HeldBroker]:
    """A broker of this process that a test can hold back."""
    broker = HeldBroker()
    before = use_broker(broker)
    yield broker
    use_broker(before)
