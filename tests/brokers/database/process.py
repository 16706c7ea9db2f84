"""A process that publishes and listens by ``DatabaseBroker``, for the tests beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import connections

from django_sse.brokers import use_broker
from django_sse.brokers.database import DatabaseBroker

T = TypeVar("T")


class Failed(Exception):
    """What goes wrong in a transaction."""


class Project:
    """A process with a ``DatabaseBroker``; ``alias`` is the database with its events."""

    def __init__(self, alias: str, **options: Any) -> None:
        self.alias = alias
        self.broker = DatabaseBroker("", {"USING": alias} | options)
        self._before = use_broker(self.broker)

    def close(self) -> None:
        use_broker(self._before)
        self.broker.close()

    async def run(self, work: Callable[[], T]) -> T:
        """Do synchronous work as a request does, in a thread with connections of its own."""

        def isolated() -> T:
            try:
                return work()
            finally:
                connections.close_all()

        return await asyncio.to_thread(isolated)

    async def execute(self, statement: str) -> Any:
        def ask() -> Any:
            with connections[self.alias].cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else None

        return await self.run(ask)
