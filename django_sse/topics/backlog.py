"""The events that wait for a slow client, and what happens when they become too many."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Literal, get_args

from django_sse.brokers.base import EventId, Message
from django_sse.monitoring.metrics import counters
from django_sse.wire.events import encode_fields

#: What a view does when its client is too slow for the published events.
Overflow = Literal["close", "drop_oldest", "latest"]
OVERFLOWS: tuple[str, ...] = get_args(Overflow)

#: A message and its encoded bytes, which all connections share.
Item = tuple[Message, bytes]


class Backlog:
    """Published events that wait for one slow client, bounded in bytes.

    ``"close"`` refuses events beyond the limit; the client resumes later and loses nothing.
    ``"drop_oldest"`` drops the oldest events and tells the client how many, in an ``event:
    dropped``. ``"latest"`` keeps the newest event of each ``key``, and events without a key while
    there is room; it drops the others without notice. Where the newest events of all keys exceed
    the limit, it refuses them.
    """

    __slots__ = ("_dropped", "_items", "_keyless", "_limit", "_overflow", "_size")

    def __init__(self, overflow: str, limit: int) -> None:
        """Begin empty; ``limit`` is in bytes."""
        self._overflow = overflow
        self._limit = limit
        # By id; with "latest", by key where there is one.
        self._items: OrderedDict[EventId | str, Item] = OrderedDict()
        self._keyless: deque[EventId] = deque()
        self._size = 0
        self._dropped = 0

    def add(self, batch: list[Item]) -> bool:
        """Take messages in; return False when they exceed the limit and the stream must end."""
        latest = self._overflow == "latest"
        for item in batch:
            message, block = item
            if latest and message.key is not None:
                if message.key in self._items:
                    self._drop(message.key)
                self._items[message.key] = item
            else:
                self._items[message.id] = item
                if latest:
                    self._keyless.append(message.id)
            self._size += len(block)
        while self._size > self._limit:
            if latest and self._keyless:
                oldest: EventId | str = self._keyless.popleft()
            elif self._overflow == "drop_oldest" and len(self._items) > 1:
                oldest = next(iter(self._items))
            else:
                # Except with "close", one event that is larger than the limit is kept alone.
                return self._overflow != "close" and len(self._items) == 1
            self._drop(oldest)
        return True

    def take(self, size: int) -> bytes:
        """Remove and return whole events of about ``size`` bytes; nothing when it is empty."""
        blocks: list[bytes] = []
        if self._dropped and self._overflow == "drop_oldest":
            blocks.append(encode_fields(f'{{"count":{self._dropped}}}', "dropped"))
        self._dropped = 0
        taken = 0
        while self._items and taken < size:
            _, (message, block) = self._items.popitem(last=False)
            if self._keyless and self._keyless[0] == message.id:
                self._keyless.popleft()
            blocks.append(block)
            taken += len(block)
        self._size -= taken
        return b"".join(blocks)

    def _drop(self, name: EventId | str) -> None:
        self._size -= len(self._items.pop(name)[1])
        self._dropped += 1
        counters.dropped += 1
