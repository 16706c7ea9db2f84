"""Brokers on real servers, and an ear that keeps what it hears."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from django_sse.brokers.base import Broker
from django_sse.brokers.database import DatabaseBroker
from django_sse.brokers.memory import MemoryBroker
from django_sse.brokers.redis import RedisBroker
from tests.support.databases import database, sqlite_settings
from tests.support.ear import Ear
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer

MakeBroker = Callable[..., Broker]

_prefixes = (f"test{number}:" for number in itertools.count())


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests that do it no harm; each broker has a prefix of its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[PostgresServer]:
    """A server for all tests that do it no harm; each broker has a database of its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def redis_server(tmp_path: Any) -> Iterator[RedisServer]:
    """A server for one test, which may do with it what it likes."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def redis_broker(redis_server: RedisServer) -> Iterator[MakeBroker]:
    """``redis_broker(**OPTIONS)`` makes a broker on the server of this test."""
    brokers: list[RedisBroker] = []

    def make(location: str | None = None, **options: Any) -> RedisBroker:
        brokers.append(RedisBroker(location or redis_server.url(), options))
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.close()


@pytest.fixture(params=["memory", "redis", "sqlite", "postgresql"])
def make_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeBroker]:
    """``make_broker(**OPTIONS)`` makes a broker of each kind in turn, without any data."""
    brokers: list[Broker] = []
    with ExitStack() as stack:
        stack.enter_context(request.getfixturevalue("django_db_blocker").unblock())

        def make(**options: Any) -> Broker:
            if request.param == "memory":
                brokers.append(MemoryBroker("", options))
            elif request.param == "redis":
                url = request.getfixturevalue("shared_redis").url()
                brokers.append(RedisBroker(url, {"PREFIX": next(_prefixes)} | options))
            else:
                if request.param == "sqlite":
                    settings = sqlite_settings(tmp_path / f"{len(brokers)}.sqlite3")
                else:
                    server = request.getfixturevalue("shared_postgres")
                    settings = server.new_database()
                alias = stack.enter_context(database(settings))
                brokers.append(DatabaseBroker("", {"USING": alias} | options))
            return brokers[-1]

        yield make
        for broker in brokers:
            broker.close()


@pytest.fixture
def broker(make_broker: MakeBroker) -> Broker:
    return make_broker()


@pytest_asyncio.fixture
async def listen() -> AsyncIterator[Callable[[Broker], Ear]]:
    """``listen(broker)`` returns an ``Ear`` that is closed at the end."""
    ears: list[Ear] = []

    def start(broker: Broker) -> Ear:
        ears.append(Ear(broker))
        return ears[-1]

    yield start
    for ear in ears:
        await ear.listener.close()
