"""A view of the shop's orders, a client that keeps a copy, and changes made in threads."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connections

from django_sse.connection.threads import pool
from django_sse.contrib.pgtrigger import stream_triggers
from django_sse.rows import change_table, changes
from django_sse.testing import StreamClient
from testproject.shop.models import Customer, Order, Product

# The modules of this folder define views of models that other tests save: these publish nothing, until
# a test of this folder runs.
_seen: set[Any] = set()


def pytest_collection_finish() -> None:
    _seen.update(changes._watched)
    changes._watched.clear()


@pytest.fixture(autouse=True)
def watched_models() -> Iterator[None]:
    changes._watched.update(_seen)
    yield
    _seen.update(changes._watched)
    changes._watched.clear()


def wait_for_checks() -> None:
    """Wait for checks that run as the last client leaves: each has a connection of its own."""
    deadline = time.monotonic() + 10
    while any(lane.running for lane in pool._lanes) and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture
def ada(transactional_db: None) -> User:
    return User.objects.create_user("ada", password="secret", first_name="Ada")


@pytest.fixture
def bob(transactional_db: None) -> User:
    return User.objects.create_user("bob", password="secret", first_name="Bob")


@pytest.fixture
def shop(transactional_db: None, broker: Any) -> tuple[Customer, Product]:
    """A customer for whom ``order()`` orders a product."""
    customer = Customer.objects.create(first_name="Ada", last_name="Lovelace")
    return customer, Product.objects.create(name="Cup", prices=[100])


@pytest.fixture
def order(shop: tuple[Customer, Product]) -> Callable[..., Order]:
    def make(**fields: Any) -> Order:
        fields = {"customer": shop[0], "product": shop[1], "total": "1.00"} | fields
        return Order.objects.create(**fields)

    return make


def install_triggers(alias: str, *models: Any) -> None:
    """Put the triggers on models' tables in a PostgreSQL, as migrations of django-pgtrigger do."""
    change_table.covered.update(models)
    change_table.prepare_database(alias)
    with connections[alias].cursor() as cursor:
        for model in models:
            for trigger in stream_triggers():
                cursor.execute(trigger.compile(model).install_sql)


@pytest.fixture
def covered() -> Iterator[set[Any]]:
    """The models with triggers, of which there are none again after the test."""
    yield change_table.covered
    change_table.covered.clear()


class Copy:
    """What a client knows by the protocol of docs/models.md."""

    def __init__(self, stream: StreamClient, key: str = "") -> None:
        self.stream = stream
        self.rows: dict[Any, Any] = {}
        self.key = key
        self.events: list[tuple[str | None, Any]] = []
        self._next: dict[Any, Any] | None = None

    async def event(self, timeout: float = 5.0) -> tuple[str | None, Any]:
        """Take the next event, and return its name and data."""
        event = await self.stream.receive(timeout)
        data = json.loads(str(event.data))
        rows = self.rows if self._next is None else self._next
        if event.event == "begin":
            self.key, self._next = data["key"], {}
        elif event.event in ("created", "changed"):
            rows[data[self.key]] = data
        elif event.event == "deleted":
            rows.pop(data[self.key], None)
        elif event.event == "end":
            assert self._next is not None
            self.rows, self._next = self._next, None
        self.events.append((event.event, data))
        return event.event, data

    async def until(self, name: str) -> None:
        """Take events up to one of this name."""
        async with asyncio.timeout(10):
            while (await self.event())[0] != name:
                pass

    async def when(self, rows: set[Any]) -> None:
        """Take events until the copy has the rows with these keys, and no others."""
        async with asyncio.timeout(10):
            while set(self.rows) != rows:
                await self.event()


#: Runs a change in a thread, as a view or a task would.
in_thread = sync_to_async
