"""A listener for tests of brokers: it keeps what the broker delivers, and can wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from django_sse.brokers.base import Broker, EventId, Message

#: Seconds to wait for a message, also on a busy machine.
PATIENCE = 30.0
#: Seconds to wait for publishing while the broker works.
TIMEOUT = 20.0


class Ear:
    """``heard`` are the messages, and a ``frozenset`` of topics for each ``lost()``, in order."""

    def __init__(self, broker: Broker) -> None:
        self.heard: list[Message | frozenset[str]] = []
        self._changed = asyncio.Event()
        self.listener = broker.listen(self._hear, lambda topics: self._hear(frozenset(topics)))

    @property
    def messages(self) -> list[Message]:
        return [heard for heard in self.heard if isinstance(heard, Message)]

    @property
    def heads(self) -> list[bytes]:
        return [message.head for message in self.messages]

    @property
    def losses(self) -> list[frozenset[str]]:
        return [heard for heard in self.heard if isinstance(heard, frozenset)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a delivery makes the condition true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_id(self, event_id: EventId) -> None:
        """Wait for the message with this id. Messages that must not come would have come before it."""
        await self.until(lambda: any(message.id == event_id for message in self.messages))

    def _hear(self, heard: Message | frozenset[str]) -> None:
        self.heard.append(heard)
        self._changed.set()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a change in Redis, which does not notify of it."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def publish(broker: Broker, topics: str | Collection[str], head: bytes) -> EventId:
    """Publish with the tests' time limit."""
    topics = [topics] if isinstance(topics, str) else list(topics)
    return await broker.apublish(topics, head, timeout=TIMEOUT)
