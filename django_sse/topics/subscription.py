"""The subscription of one connection: how it joins the live flow of its topics, and what it gets there."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection
from typing import Protocol

from django_sse.brokers.base import EventId
from django_sse.connection.outbox import HIGH_WATER, Outbox, body_message
from django_sse.exceptions import HistoryLost, StreamClosed
from django_sse.monitoring.metrics import counters

from .backlog import Backlog, Item
from .cohort import CHUNK, Cohort, for_client
from .hub import Hub, get_hub
from .pages import Piece, encoded, pieces

logger = logging.getLogger("django_sse")

# Shared by all live subscriptions, since an empty deque takes 600 bytes. Nothing is ever put into
# it.
_NOTHING: deque[Piece] = deque()
#: How many events a resuming connection asks of the broker at once.
PAGE = 200


class Owner(Protocol):
    """The attributes and methods of a stream that its subscription uses."""

    def end(self, reason: str) -> None:
        """End the stream: its client is too slow."""

    def start_anew(self) -> None:
        """Begin again: events were lost."""


class Subscription:
    """The topics of one connection. Its messages are first held, then replayed, then live.

    ``resumed`` says whether the client resumes where it was. ``cursor`` is the id after which
    ``join()`` goes on; it does not move any more while the subscription is live. All methods belong
    to the connection's event loop.
    """

    __slots__ = (
        "_cohort",
        "_held",
        "_held_size",
        "_hub",
        "_joining",
        "_limit",
        "_live",
        "_overflow",
        "_owner",
        "_page",
        "_told",
        "backlog",
        "client",
        "cursor",
        "outbox",
        "resumed",
    )

    def __init__(
        self,
        outbox: Outbox,
        *,
        overflow: str,
        limit: int,
        client: str | None,
        owner: Owner,
    ) -> None:
        """Belong to one connection; ``limit`` is the bytes that may wait for it.

        ``client`` is the id of its page, if it has one.
        """
        self.outbox = outbox
        self.backlog: Backlog | None = None
        self.client = client
        self.resumed = False
        self.cursor = EventId(0, 0)
        self._overflow = overflow
        self._limit = limit
        self._owner = owner
        self._hub: Hub | None = None
        self._cohort: Cohort | None = None
        # Messages that the broker had stored and that are not sent yet.
        self._page: deque[Piece] = deque()
        # Messages that came since, before the subscription is live. None where they were too many
        # to be held, or a replay failed: then they are read from the broker.
        self._held: list[Item] | None = []
        self._held_size = 0
        self._joining = False
        self._live = False
        # Whether the client was told the id from which it resumes.
        self._told = False

    async def open(
        self, topics: Collection[str], last_event_id: str | None, rewind: int = 0
    ) -> None:
        """Subscribe to topics, and find whether and where the client resumes.

        A client that does not resume begins with the newest ``rewind`` stored messages. Waits for as long as the broker is away.
        """
        hub = self._hub = get_hub()
        self._cohort = hub.add(self, frozenset(topics))
        await hub.subscribe(topics)
        after = None if last_event_id is None else EventId.parse(last_event_id)
        if after is not None:
            try:
                await self._replay(hub, self._cohort, after)
            except HistoryLost:
                pass
            else:
                self.resumed = True
                self.cursor = after
                return
        if rewind:
            per_key = self._overflow == "latest"
            newest = await hub.listener.newest(topics, rewind, per_key=per_key)
            self._page = deque(encoded(newest))
            if self._page:
                # They have ids of their own, so the client needs no cursor.
                self._told = True
                return
        # The snapshot is made after this moment, and so has what was published before it.
        self.cursor = await hub.listener.latest_id()

    async def join(self) -> None:
        """Send the messages after the cursor as fast as the client takes them, then become live.

        After a cancellation it may be called again, and goes on where it was. Once the subscription
        is live, it does nothing. Raises ``HistoryLost`` when the broker does not hold all of the
        messages any more, ``StreamClosed`` when the client has left, and ``RuntimeError`` where it
        runs already.
        """
        if self._live:
            return
        if self._joining:
            raise RuntimeError("follow() runs already: a stream follows its topics once.")
        self._joining = True
        try:
            await self._join()
        finally:
            self._joining = False

    async def _join(self) -> None:
        hub, cohort = self._opened()
        if not (self.resumed or self._told):
            # A browser dispatches nothing for an id alone, but resumes from it.
            self._told = True
            self.outbox.put(b"id: %d-%d\n\n" % self.cursor)
        while True:
            cohort.flush()
            if not self._page:
                if self._held is None:
                    await self._replay(hub, cohort, self.cursor)
                    self._opened()
                    continue
                self._page = deque(pieces(self._held))
                self._held, self._held_size = [], 0
            if not self._page:
                break
            while self._page:
                await self._send_piece(self._page.popleft())
                self._opened()
        self.outbox.flush()
        self._opened()
        self._page, self._held, self._live = _NOTHING, None, True
        cohort.set_live(self)

    async def _send_piece(self, piece: Piece) -> None:
        if piece.first > self.cursor and self.client not in piece.excludes:
            self.outbox.put(piece.data)
            counters.sent += len(piece.items)
        else:
            newer = [item for item in piece.items if item[0].id > self.cursor]
            for _, block in for_client(newer, self.client):
                self.outbox.put(block)
                counters.sent += 1
        self.cursor = max(self.cursor, piece.last)
        if piece.ends:
            self.finish()
        if self.outbox.size >= HIGH_WATER:
            await self.outbox.drain()

    def _opened(self) -> tuple[Hub, Cohort]:
        """Return the hub and the cohort; raise ``StreamClosed`` once the stream has ended."""
        if self._hub is None or self._cohort is None or self.outbox.gone:
            raise StreamClosed("The stream has ended.")
        return self._hub, self._cohort

    @property
    def newest(self) -> EventId:
        """The id of the newest event that the connection was given, also where it still waits."""
        last = None if self._cohort is None else self._cohort.last
        return self.cursor if last is None else max(self.cursor, last.id)

    def hold(self, batch: list[Item], size: int) -> None:
        """Keep messages for ``join()``; drop them above the limit, and let ``join()`` read them again."""
        if self._held is not None:
            self._held_size += size
            if self._held_size > self._limit:
                self._held = None
            else:
                self._held.extend(batch)

    def send(self, batch: list[Item]) -> None:
        """Write messages in one piece that no other connection shares."""
        if not batch:
            return
        data = b"".join([block for _, block in batch])
        try:
            if self.backlog is not None or not self.outbox.write(body_message(data), len(data)):
                self.enqueue(batch)
        except Exception:
            self.fail()

    def enqueue(self, batch: list[Item]) -> None:
        """Keep messages in the backlog, for a client that is slower than they come."""
        if self.backlog is None:
            self.backlog = Backlog(self._overflow, self._limit)
            self.outbox.on_ready = self._pump
        if not self.backlog.add(batch):
            self.give_up()

    def give_up(self) -> None:
        """End the connection. The client loses nothing if it reconnects and resumes."""
        self.close()
        self._owner.end("overflow")

    def fail(self) -> None:
        """Log the error that is being handled, and end the connection.

        The error is not raised, because the other connections of the cohort wait for the same
        messages.
        """
        logger.exception("Writing to a connection failed; its client is to resume.")
        self.give_up()

    def lose(self) -> None:
        """Note that the broker lost messages between the last one and the next."""
        self._owner.start_anew()

    def finish(self) -> None:
        """End the connection once its messages are sent: the topic has had its last event."""
        self._owner.end("completed")

    def close(self, *, keep: bool = False) -> None:
        """Leave the hub. With ``keep``, put the messages that still wait into the outbox."""
        hub, cohort = self._hub, self._cohort
        self._hub = self._cohort = None
        if hub is not None and cohort is not None:
            if keep:
                cohort.flush()
            hub.remove(self, cohort)
        backlog, self.backlog = self.backlog, None
        self.outbox.on_ready = None
        if keep and backlog is not None:
            while data := backlog.take(CHUNK):
                self.outbox.put(data)

    async def _replay(self, hub: Hub, cohort: Cohort, after: EventId) -> None:
        """Read the next page of stored messages, and hold those that come meanwhile."""
        self._held, self._held_size = [], 0
        try:
            page = await hub.replay(cohort, after, PAGE)
        except BaseException:
            # Without the page, there would be a gap before the messages that are held.
            self._held = None
            raise
        self._page = deque(page)
        if sum(len(piece.items) for piece in page) >= PAGE:
            # The broker has more. The next page will also have what comes until then.
            self._held = None

    def _pump(self) -> None:
        backlog = self.backlog
        while backlog is not None and not self.outbox.blocked:
            data = backlog.take(CHUNK)
            if not data:
                self.backlog = backlog = self.outbox.on_ready = None
                return
            self.outbox.write(body_message(data), len(data))
