"""The rows that clients of the same queryset hold, and the events for rows that are touched.

Clients that wait for the same page of a snapshot share one read of it.

The reads of a group come one after another, whether they check touched rows or make a page of a
snapshot. After each of them, ``_held`` is right for what was read: it has every row that any client of
the group may hold. docs/models.md has the whole argument.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from django.db import DatabaseError, InterfaceError

from django_sse.brokers.base import INTERNAL, EventId, Message
from django_sse.connection.threads import Lane, pool
from django_sse.exceptions import HistoryLost
from django_sse.topics.backlog import Item
from django_sse.topics.cohort import Cohort, Follower
from django_sse.topics.hub import Hub
from django_sse.wire.events import encode_fields, encode_head

from . import relay
from .changes import read, topic_of
from .paths import Path
from .plan import Plan, Row

logger = logging.getLogger("django_sse")

T = TypeVar("T")

#: How many sent changes a group remembers, for clients that resume.
REMEMBERED = 10_000
#: Seconds for which a group without clients remembers, so that a client that comes back resumes.
LINGER = 60.0
#: How many results of related changes are kept for the groups that ask a moment later.
READINGS = 100
#: Seconds until a check is tried again that failed because the database was away.
AGAIN = 1.0


class RowFollower(Follower, Protocol):
    """The attributes and methods of a connection's subscription that a group uses."""

    def end(self, reason: str) -> None:
        """End the stream."""


class Sent(NamedTuple):
    """A change that was sent; ``created`` says that no client had the row before it."""

    at: int
    pk: Any
    key: Any
    created: bool


class Page(NamedTuple):
    """A part of a snapshot: its events, and where the next one begins, or ``None``."""

    data: bytes
    rows: int
    following: Any


@dataclass(slots=True)
class Asked:
    """A page for which clients wait, and which is not being read yet."""

    task: asyncio.Task[Page]
    clients: int = 0


class Group:
    """The connections of one event loop that share a plan. All methods belong to that loop."""

    # The attributes that the hub expects of a follower. A group is never live: it holds messages.
    cursor = EventId(0, 0)
    client: str | None = None
    outbox: Any = None
    backlog: Any = None

    def __init__(self, plan: Plan, hub: Hub, forget: Callable[[], object]) -> None:
        """Begin without connections; ``forget()`` is called as the last one is long gone."""
        self.plan = plan
        self.hub = hub
        self.topic = ""
        self._last = 0
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._held: dict[Any, Any] = {}
        self._sent: deque[Sent] = deque()
        # The rows that were touched since the last check, each with the message that told of it.
        self._touched: OrderedDict[Any, EventId] = OrderedDict()
        self._related: OrderedDict[tuple[Path, Message], None] = OrderedDict()
        # Whether the database failed in the last check.
        self._away = False
        self._lock = asyncio.Lock()
        self._pages: dict[tuple[Any, int], Asked] = {}
        self._followers: dict[RowFollower, None] = {}
        self._lane: Lane | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._renew()
        self._relays = relay.follow(hub, self, plan.written)
        self._cohort: Cohort = hub.add(self, frozenset(plan.topics))

    @property
    def position(self) -> EventId:
        """The id of the newest change that was sent.

        Its first number is a time in microseconds, so that ids rise from one group to the next. The
        second one names the group: another process would not know what the client holds.
        """
        return EventId(self._last, self._token)

    def remembers(self, position: EventId) -> bool:
        """Return whether a client that has seen ``position`` can resume."""
        return (
            position.sequence == self._token and self._floor <= position.milliseconds <= self._last
        )

    def enter(self, follower: RowFollower) -> Cohort:
        """Take a connection in. From now on, it holds the changes that the group sends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lane is None:
            self._lane = pool.lease()
        self._followers[follower] = None
        return self.hub.add(follower, frozenset([self.topic]))

    async def settle(self) -> EventId:
        """Hear of all changes from now on, and check the earlier ones; return the position then."""
        for it in self._relays:
            # The rows that triggers have recorded before are older than the snapshot. Wait for them
            # here, so that they need not come after it.
            await it.first_look_done.wait()
        await self.hub.subscribe(self.plan.topics)
        async with self._lock:
            await self._check()
            return self.position

    def leave(self, follower: RowFollower) -> None:
        """Note that a connection has ended."""
        if self._followers.pop(follower, False) is None and not self._followers:
            if self._lane is not None:
                pool.give_back(self._lane)
                self._lane = None
            # No other connection can join a group whose rows are not shared.
            linger = LINGER if self.plan.owner is None else 0
            self._timer = self._loop.call_later(linger, self.close, context=Context())

    def close(self) -> None:
        """Forget everything: no client can resume any more."""
        if not self._followers:
            self._forget()
            relay.leave(self.hub, self)
            self.hub.remove(self, self._cohort)

    async def page(self, after: Any, size: int) -> Page:
        """Return the next rows of a snapshot.

        Clients that ask for the same page while other reads are under way share the next one, and
        its text. No client gets what was read before it asked: rights may have changed since.
        """
        place = after, size
        asked = self._pages.get(place)
        if asked is None:
            task = self._loop.create_task(self._read_page(after, size), context=Context())
            # Without this line, asyncio logs the error of a read whose clients have all left.
            task.add_done_callback(lambda it: it.cancelled() or it.exception())
            asked = self._pages[place] = Asked(task)
        asked.clients += 1
        try:
            return await asyncio.shield(asked.task)
        finally:
            asked.clients -= 1
            if not asked.clients and self._pages.get(place) is asked:
                # All clients have left before the read began.
                del self._pages[place]
                asked.task.cancel()

    async def _read_page(self, after: Any, size: int) -> Page:
        async with self._lock:
            # A client that asks from now on needs another read: this one may miss the newest changes.
            self._pages.pop((after, size), None)
            rows, following = await self._run(partial(self.plan.page, after, size))
            # Before the lock is given back: if one of them leaves the queryset, a check has to know
            # that a client holds it.
            self._hold(rows)
        data = b"".join([encode_fields(row.text, "created") for row in rows.values()])
        return Page(data, len(rows), following)

    async def catch_up(self, position: EventId) -> tuple[list[bytes], EventId]:
        """Return what a client lacks that has seen ``position``, and the position after it.

        Each row that was sent since then comes at most once, as it is now. Raises ``HistoryLost``
        where the group does not remember that.
        """
        async with self._lock:
            await self._check()
            if not self.remembers(position):
                raise HistoryLost(f"The changes of rows since {position} are not remembered.")
            first: dict[Any, Sent] = {}
            for sent in self._sent:
                if sent.at > position.milliseconds:
                    first.setdefault(sent.pk, sent)
            rows = await self._run(partial(self.plan.read, dict.fromkeys(first)))
            self._hold(rows)
            events = []
            for pk, sent in first.items():
                row = rows.get(pk)
                has_key = row is not None and row.key == sent.key
                if not (sent.created or has_key):
                    events.append(("deleted", self.plan.gone(sent.key)))
                if row is not None:
                    is_known = has_key and not sent.created
                    events.append(("changed" if is_known else "created", row.text))
            if not self.plan.format.is_by_pk:
                # Send deletions first: another row may have the same key by now.
                events.sort(key=lambda it: it[0] != "deleted")
            # Only the last one moves the client's position. A client that leaves before it gets all
            # of them again.
            ids = [None] * (len(events) - 1) + [str(self.position)]
            blocks = [
                encode_fields(text, event, id)
                for (event, text), id in zip(events, ids, strict=False)
            ]
            return blocks, self.position

    # The hub calls these.

    def hold(self, batch: list[Item], size: int) -> None:
        """Take messages that touched rows, and check the rows soon, all of them in one query."""
        own = topic_of(self.plan.model)
        for message, _ in batch:
            if read(message).all:
                self.lose()
                continue
            if own in message.topics:
                for pk in self.plan.own(read(message).pks):
                    self._touched[pk] = message.id
            for topic in message.topics:
                for path in self.plan.paths.get(topic, ()):
                    self._related[path, message] = None
        if not self._followers and len(self._touched) + len(self._related) > REMEMBERED:
            self._renew()
        self._start()

    def lose(self) -> None:
        """Begin anew with all connections: the broker lost messages."""
        self._renew()
        for follower in tuple(self._followers):
            follower.lose()

    def send(self, batch: list[Item]) -> None:
        """Never called: a group is not live."""
        raise NotImplementedError

    def enqueue(self, batch: list[Item]) -> None:
        """Never called: a group is not live."""
        raise NotImplementedError

    def finish(self) -> None:
        """Never called: a model's topic has no last message."""
        raise NotImplementedError

    def fail(self) -> None:
        """Log the error that is being handled, and begin anew."""
        logger.exception("Messages about %s cannot be read.", self.plan.model._meta.label)
        self.lose()

    # Checks.

    def _renew(self) -> None:
        self._token = secrets.randbelow(2**53)
        self._floor = self._last = max(self._last + 1, time.time_ns() // 1000)
        self._held.clear()
        self._sent.clear()
        self._touched.clear()
        self._related.clear()
        self.topic = self.topic or f"{INTERNAL}rows:{self._token}"

    def _start(self) -> None:
        if self._followers and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._work(), context=Context())

    async def _work(self) -> None:
        while self._followers and (self._touched or self._related):
            try:
                async with self._lock:
                    await self._check()
            except (DatabaseError, InterfaceError) as error:
                # Log an outage once, however long it lasts.
                logger.log(
                    logging.DEBUG if self._away else logging.ERROR,
                    "Changes of %s cannot be checked; trying again every %g s.",
                    self.plan.model._meta.label,
                    AGAIN,
                    exc_info=error,
                )
                self._away = True
                await asyncio.sleep(AGAIN)
            except Exception:
                logger.exception("Changes of %s cannot be sent.", self.plan.model._meta.label)
                self._renew()
                for follower in tuple(self._followers):
                    follower.end("error")
            else:
                self._away = False

    async def _check(self) -> None:
        """Ask which of the touched rows are in the queryset, and send what that changes."""
        touched, self._touched = self._touched, OrderedDict()
        related, self._related = self._related, OrderedDict()
        token = self._token
        try:
            for path, message in related:
                for pk in await self._rows_of(path, message):
                    touched[pk] = max(message.id, touched.get(pk, message.id))
            rows = await self._run(partial(self.plan.read, touched)) if touched else {}
        except BaseException:
            if token == self._token:
                for pk, mark in touched.items():
                    self._touched.setdefault(pk, mark)
                self._related.update(related)
            raise
        if token != self._token:
            return  # Everything begins anew.
        if not self.plan.format.is_by_pk:
            # Send deletions first, for the same reason as in catch_up().
            self._remove(pk for pk in touched if pk not in rows)
            self._rename(rows)
        # Look at all rows that were found, and not only at `touched`: the database may treat two
        # texts as the same key.
        for pk in dict.fromkeys([*touched, *rows]):
            row = rows.get(pk)
            if row is None:
                self._remove([pk])
                continue
            self._emit("changed" if pk in self._held else "created", pk, row.key, row.text)
            self._held[pk] = row.key

    def _hold(self, rows: dict[Any, Row]) -> None:
        """Note that clients hold rows, before the next read begins."""
        for pk in self._rename(rows):
            self._emit("created", pk, rows[pk].key, rows[pk].text)
        self._held.update((pk, row.key) for pk, row in rows.items())

    def _rename(self, rows: dict[Any, Row]) -> list[Any]:
        """Remove rows under the keys that they do not have any more; return their primary keys."""
        renamed = [pk for pk, row in rows.items() if self._held.get(pk, row.key) != row.key]
        self._remove(renamed)
        return renamed

    def _remove(self, pks: Iterable[Any]) -> None:
        """Send ``deleted`` for the rows among these that clients hold."""
        gone = [(pk, self._held.pop(pk)) for pk in pks if pk in self._held]
        # With a `lookup_field`, another row may have the key by now.
        kept = set(self._held.values()) if gone and not self.plan.format.is_by_pk else ()
        for pk, key in gone:
            if key not in kept:
                self._emit("deleted", pk, key, self.plan.gone(key))

    def _emit(self, event: str, pk: Any, key: Any, text: str) -> None:
        self._last = max(self._last + 1, time.time_ns() // 1000)
        self._sent.append(Sent(self._last, pk, key, event == "created"))
        if len(self._sent) > REMEMBERED:
            self._floor = self._sent.popleft().at
        head = encode_head(text, event)
        self.hub.deliver(Message(self.position, (self.topic,), head, b"", str(pk)))

    async def _rows_of(self, path: Path, message: Message) -> list[Any]:
        """Return the primary keys to which a path leads; one query for all groups of the process."""
        place = self.plan.model, self.plan.using, path, message.id
        readings: OrderedDict[Hashable, asyncio.Task[list[Any]]]
        readings = self.hub.attached.setdefault("rows of paths", OrderedDict())
        reading = readings.get(place)
        if reading is None or (reading.done() and reading.exception() is not None):
            call = partial(self.plan.pks, path, read(message))
            reading = readings[place] = self._loop.create_task(self._run(call), context=Context())
            if len(readings) > READINGS:
                readings.popitem(last=False)
        return await asyncio.shield(reading)

    async def _run(self, call: Callable[[], T]) -> T:
        own = self._lane
        lane = own or pool.lease()
        try:
            return await asyncio.wrap_future(lane.submit(call))
        finally:
            # Compare with the lane of the beginning: if the last client leaves meanwhile, leave()
            # gives that one back.
            if own is None:
                pool.give_back(lane)


def group_for(plan: Plan, hub: Hub) -> Group:
    """Return the group of a plan in a hub, made where there is none yet."""
    groups: dict[Hashable, Group] = hub.attached.setdefault("groups of rows", {})
    group = groups.get(plan.key)
    if group is None:
        group = groups[plan.key] = Group(plan, hub, lambda: groups.pop(plan.key, None))
    return group
