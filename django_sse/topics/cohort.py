"""The connections of one event loop that follow exactly the same topics, and the batch for them."""

from __future__ import annotations

from typing import Any, Protocol

from django_sse.brokers.base import EventId, Message
from django_sse.connection.outbox import Outbox, body_message, frame
from django_sse.monitoring.metrics import counters

from .backlog import Item
from .pages import Pages

#: Bytes after which a cohort's batch is written at once, so that a burst stays bounded.
CHUNK = 64 * 1024


class Follower(Protocol):
    """The attributes and methods of a connection's subscription that a cohort and the hub use."""

    #: The id of the newest message that the connection got by itself, before it was live.
    cursor: EventId
    #: The id of the page that has opened the connection. It gets no message that excludes it.
    client: str | None
    outbox: Outbox
    #: The messages that wait for a slow client; ``None`` while the client keeps up.
    backlog: Any

    def hold(self, batch: list[Item], size: int) -> None:
        """Keep messages for a connection that is not live yet."""

    def send(self, batch: list[Item]) -> None:
        """Write messages that only this connection gets in one piece."""

    def enqueue(self, batch: list[Item]) -> None:
        """Keep messages for a client that is slower than they come."""

    def fail(self) -> None:
        """Log the error that is being handled, and end the connection."""

    def lose(self) -> None:
        """Note that the broker lost messages after the last one that it delivered."""

    def finish(self) -> None:
        """End the connection: it was given the topic's last message."""


class Cohort:
    """The connections of one loop that follow exactly the same topics."""

    __slots__ = (
        "_live",
        "_order",
        "_skipping",
        "_waiting",
        "batch",
        "dirty",
        "ends",
        "excludes",
        "last",
        "pages",
        "size",
        "topics",
    )

    def __init__(self, topics: frozenset[str]) -> None:
        """Begin without connections."""
        self.topics = topics
        #: The pages of history that resuming connections have read since the newest message.
        self.pages: Pages | None = None
        #: The newest message. A message of several topics comes once for each of them, and is taken
        #: once.
        self.last: Message | None = None
        self.batch: list[Item] = []
        self.size = 0
        #: Whether the hub is going to call ``flush()``.
        self.dirty = False
        #: Whether the batch has a message that excludes a page.
        self.excludes = False
        #: Whether the batch has the topic's last message.
        self.ends = False
        # The followers that get each batch as it is written.
        self._live: dict[Follower, None] = {}
        # The followers that are not live yet, and hold the batches.
        self._waiting: dict[Follower, None] = {}
        # The followers whose replay was newer than what the listener has delivered so far. They
        # become live with the first message that is newer than their cursor.
        self._skipping: dict[Follower, None] = {}
        # The keys of _live, kept from one flush to the next.
        self._order: tuple[Follower, ...] | None = None

    @property
    def empty(self) -> bool:
        """Whether the cohort has no connections."""
        return not (self._live or self._waiting or self._skipping)

    def add(self, follower: Follower) -> None:
        """Take a connection in; it holds messages until ``set_live()``."""
        self._waiting[follower] = None

    def set_live(self, follower: Follower) -> None:
        """Write messages to a connection from now on, as far as they are newer than its cursor."""
        self._waiting.pop(follower, None)
        if self.last is None or self.last.id < follower.cursor:
            # A broker may store an event before its listener hears of it. Then the connection got
            # the event by its replay, and the listener is still to deliver it.
            self._skipping[follower] = None
        else:
            self._live[follower] = None
            self._order = None

    def remove(self, follower: Follower) -> None:
        """Take a connection out."""
        self._waiting.pop(follower, None)
        self._skipping.pop(follower, None)
        if follower in self._live:
            del self._live[follower]
            self._order = None

    def flush(self) -> None:
        """Write the batch to the live connections, in one piece; the others hold it."""
        batch, size = self.batch, self.size
        if not batch:
            return
        self.batch, self.size = [], 0
        oldest = batch[0][0].id
        for follower in [it for it in self._skipping if it.cursor < oldest]:
            self._join_live(follower)
        data = batch[0][1] if len(batch) == 1 else b"".join([block for _, block in batch])
        message = body_message(data)
        order = self._order
        if order is None:
            order = self._order = tuple(self._live)
        if self.excludes:
            self.excludes = False
            order = _apart(batch, order)
        chunk = frame(data)
        # A connection that overflows leaves the cohort, and resets self._order; the local name
        # keeps this one.
        for follower in order:
            try:
                if follower.backlog is not None or not follower.outbox.write(message, size, chunk):
                    follower.enqueue(batch)
            except Exception:
                follower.fail()
        counters.sent += len(batch) * len(order)
        for follower in tuple(self._skipping):
            newer = [item for item in batch if item[0].id > follower.cursor]
            if newer:
                self._join_live(follower)
                newer = for_client(newer, follower.client)
                counters.sent += len(newer)
                follower.send(newer)
        for follower in tuple(self._waiting):
            try:
                follower.hold(batch, size)
            except Exception:
                follower.fail()
        if self.ends:
            self.ends = False
            # The followers that are not live yet find the last message among those that they hold.
            for follower in tuple(self._live):
                follower.finish()

    def _join_live(self, follower: Follower) -> None:
        del self._skipping[follower]
        self._live[follower] = None
        self._order = None

    def everyone(self) -> list[Follower]:
        """Return all connections, whether they are live or not."""
        return [*self._live, *self._skipping, *self._waiting]


def for_client(batch: list[Item], client: str | None) -> list[Item]:
    """Return the messages of a batch that a page with the id ``client`` gets."""
    return [item for item in batch if item[0].exclude is None or item[0].exclude != client]


def _apart(batch: list[Item], order: tuple[Follower, ...]) -> tuple[Follower, ...]:
    """Write the rest of a batch to the followers that it excludes; return the other followers."""
    excluded = {message.exclude for message, _ in batch} - {None}
    for follower in order:
        if follower.client in excluded:
            rest = for_client(batch, follower.client)
            counters.sent += len(rest)
            follower.send(rest)
    return tuple(follower for follower in order if follower.client not in excluded)
