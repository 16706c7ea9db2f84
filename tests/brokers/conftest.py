"""Brokers on real servers, and an ear that keeps what it hears."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from django_sse.brokers.base import Broker
from django_sse.brokers.database import DatabaseBroker
from django_sse.brokers.memory import MemoryBroker
from django_sse.brokers.redis import RedisBroker
from tests.docs.pages import ROOT, files
from tests.support.databases import new_database
from tests.support.ear import Ear
from tests.support.redis_server import RedisServer

MakeBroker = Callable[..., Broker]

_prefixes = (f"test{number}:" for number in itertools.count())


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests that do it no harm; each broker has a prefix of its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
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


@pytest.fixture(params=["memory", "redis", "sqlite", "postgresql", "mariadb"])
def make_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeBroker]:
    """``make_broker(**OPTIONS)`` makes a broker of each kind in turn, without any data."""
    with making(request.param, request, tmp_path) as make:
        yield make


@contextmanager
def making(kind: str, request: pytest.FixtureRequest, directory: Path) -> Iterator[MakeBroker]:
    """Yield a function that makes brokers of a kind, which are closed at the end.

    The kind ``"documented"`` is the example of the documentation.
    """
    brokers: list[Broker] = []
    with ExitStack() as stack:

        def make(**options: Any) -> Broker:
            if kind == "memory":
                brokers.append(MemoryBroker("", options))
            elif kind == "redis":
                url = request.getfixturevalue("shared_redis").url()
                brokers.append(RedisBroker(url, {"PREFIX": next(_prefixes)} | options))
            elif kind == "documented":
                file = directory / next(_prefixes)
                brokers.append(_documented()(str(file), options))
            else:
                alias = stack.enter_context(new_database(kind, request, directory))
                brokers.append(DatabaseBroker("", {"USING": alias} | options))
            return brokers[-1]

        yield make
        for broker in brokers:
            broker.close()


@cache
def _documented() -> Any:
    names: dict[str, Any] = {"__name__": "shop.filebroker"}
    exec(files(ROOT / "docs" / "brokers.md")["shop/filebroker.py"], names)
    return names["FileBroker"]


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
