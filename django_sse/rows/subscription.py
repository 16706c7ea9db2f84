"""The subscription of one connection to what its group sends."""

from __future__ import annotations

from django_sse.brokers.base import EventId
from django_sse.connection.outbox import HIGH_WATER
from django_sse.topics.cohort import Cohort
from django_sse.topics.hub import Hub
from django_sse.topics.subscription import Subscription

from .group import Group


class RowSubscription(Subscription):
    """The subscription of one connection to the changes that its group sends."""

    __slots__ = ("group",)

    group: Group

    async def enter(self, group: Group, last_event_id: str | None) -> None:
        """Join a group, and find whether the client resumes."""
        self.group = group
        self._hub = group.hub
        self._cohort = group.enter(self)
        # The client gets its id from the last event of the snapshot or of the replay.
        self._told = True
        seen = None if last_event_id is None else EventId.parse(last_event_id)
        # Skip the events up to here: they are about rows that left before this client came.
        self.cursor = await group.settle()
        if seen is not None and group.remembers(seen):
            self.resumed = True
            self.cursor = seen
            # Read the missing messages from the group, as if too many had been held.
            self._held = None

    def end(self, reason: str) -> None:
        """End the stream."""
        self.close()
        self._owner.end(reason)

    def close(self, *, keep: bool = False) -> None:
        """Leave the group."""
        group = self.group
        super().close(keep=keep)
        group.leave(self)

    async def _replay(self, hub: Hub, cohort: Cohort, after: EventId) -> None:
        self._held, self._held_size = [], 0
        try:
            blocks, position = await self.group.catch_up(after)
            for block in blocks:
                self._opened()
                self.outbox.put(block)
                if self.outbox.size >= HIGH_WATER:
                    await self.outbox.drain()
        except BaseException:
            self._held = None
            raise
        self.cursor = position
