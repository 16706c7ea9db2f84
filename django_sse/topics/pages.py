"""Stored messages for clients that resume, read and encoded once for all that ask together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterable
from contextvars import Context
from typing import Any, NamedTuple

from django_sse.brokers.base import LAST, EventId, Message
from django_sse.exceptions import HistoryLost

from .backlog import Item

#: Bytes that one piece of a page has at most, unless a single event is larger.
PIECE = 16 * 1024
#: How many pages of a cohort are kept for others, and for how many seconds.
KEPT = 64
KEPT_SECONDS = 2.0


class Piece(NamedTuple):
    """Messages in order, and the bytes of all of them; many connections share both."""

    items: list[Item]
    data: bytes
    first: EventId
    last: EventId
    excludes: frozenset[str | None]
    #: Whether a stream ends with these messages.
    ends: bool


def pieces(items: Iterable[Item]) -> list[Piece]:
    """Join messages to pieces."""
    found: list[Piece] = []
    part: list[Item] = []
    size = 0
    for item in items:
        if part and size + len(item[1]) > PIECE:
            found.append(_piece(part))
            part, size = [], 0
        part.append(item)
        size += len(item[1])
    if part:
        found.append(_piece(part))
    return found


def _piece(items: list[Item]) -> Piece:
    data = items[0][1] if len(items) == 1 else b"".join([block for _, block in items])
    excludes = frozenset(message.exclude for message, _ in items if message.exclude is not None)
    ends = any(message.key == LAST for message, _ in items)
    return Piece(items, data, items[0][0].id, items[-1][0].id, excludes, ends)


def encoded(messages: Iterable[Message]) -> list[Piece]:
    """Encode messages, and join them to pieces."""
    return pieces((message, message.encode()) for message in messages)


class Pages:
    """The pages that a cohort's connections have asked for since its last message.

    A page that was asked for before is still right for a connection that asks now: whatever was
    stored since then is delivered to the cohort after this moment, and the connection holds it. So
    the cohort's next message makes all pages old.
    """

    __slots__ = ("_loop", "_readings", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin without pages."""
        self._loop = loop
        self._readings: dict[Hashable, _Reading] = {}
        self._timer: asyncio.TimerHandle | None = None

    def clear(self) -> None:
        """Forget all pages. A client that waits for one still gets it."""
        self._readings.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def get(
        self, key: Hashable, read: Callable[[], Coroutine[Any, Any, list[Message]]]
    ) -> list[Piece]:
        """Return a page, read by ``read()`` once, and once more after a failed read.

        All callers that wait for a read raise what it raises.
        """
        reading = self._readings.get(key)
        if reading is None or reading.failed:
            reading = _Reading(self._loop.create_task(_encode(read()), context=Context()))
            self._readings[key] = reading
            if len(self._readings) > KEPT:
                del self._readings[next(iter(self._readings))]
            if self._timer is None:
                self._timer = self._loop.call_later(KEPT_SECONDS, self.clear, context=Context())
        return await reading.result()


async def _encode(reading: Coroutine[Any, Any, list[Message]]) -> list[Piece]:
    return encoded(await reading)


class _Reading:
    """A page that is being read, or was read. The read is cancelled once no client waits for it."""

    __slots__ = ("_task", "_waiting")

    def __init__(self, task: asyncio.Task[list[Piece]]) -> None:
        self._task = task
        self._waiting = 0

    @property
    def failed(self) -> bool:
        task = self._task
        if not task.done():
            return False
        # A lost history is no failure of the read: the next client would get the same answer.
        return task.cancelled() or not isinstance(task.exception(), HistoryLost | None)

    async def result(self) -> list[Piece]:
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if not self._waiting and not self._task.done():
                self._task.cancel()
