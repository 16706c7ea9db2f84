"""The streams of one event loop that count as present, and what the broker is told of them.

A task tells the broker what has changed, and renews one lease for all streams. It publishes the
leaves that are due, also those of processes that have died.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from contextvars import Context
from typing import Any

from django_sse.brokers import get_broker
from django_sse.brokers.base import Broker
from django_sse.brokers.presence import Attended, Change, Departure
from django_sse.conf import conf
from django_sse.connection.tasks import stop
from django_sse.exceptions import BrokerError
from django_sse.wire.events import encode_head

logger = logging.getLogger("django_sse")

#: The events that tell of users who come and go.
JOIN, LEAVE = "join", "leave"
#: The most changes that the broker is told in one call.
BATCH = 200
#: The longest primary key of a user, in characters; every broker can store that.
LONGEST_KEY = 255
#: Seconds after which the broker is asked again where other holders' data is to be removed.
_SOON = 0.01

#: A topic and the primary key of a user, ``None`` for anonymous streams.
Member = tuple[str, str | None]


def encode(event: str, user: str) -> bytes:
    """Return the encoded event that a user came or left."""
    return encode_head(json.dumps({"user": user}), event)


class Register:
    """Counts the streams of an event loop by topic and user, and keeps the broker informed.

    All methods belong to the event loop.
    """

    def __init__(self, broker: Broker, loop: asyncio.AbstractEventLoop) -> None:
        """Begin without streams; nothing runs yet."""
        self.broker = broker
        self._loop = loop
        self._holder = uuid.uuid4().hex
        self._streams: Counter[Member] = Counter()
        # The members and numbers of streams that the broker knows of this holder.
        self._told: dict[Member, int] = {}
        # The members whose changes the broker does not know yet, in order.
        self._changed: dict[Member, None] = {}
        # The users who have left, each with the moment from which the leave is due at the broker.
        self._left: dict[Member, float] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # When the broker was last asked with success, in the loop's time.
        self._renewed = -math.inf
        self._away = False

    def enter(self, members: Collection[Member]) -> None:
        """Count a stream in."""
        for member in members:
            self._streams[member] += 1
        self._note(members)

    def leave(self, members: Collection[Member]) -> None:
        """Count a stream out."""
        for member in members:
            self._streams[member] -= 1
            if self._streams[member] <= 0:
                del self._streams[member]
        self._note(members)

    async def aclose(self) -> None:
        """Let all users leave at once, without a grace; for tests, which end their event loop."""
        if self._task is not None:
            await stop(self._task)
        lease = self._lease()
        everyone = [Change(topic, user, 0) for topic, user in {**self._told, **self._left}]
        self._streams.clear()
        self._changed.clear()
        try:
            attended = await self._attend(everyone, [], lease=lease, grace=0)
            while attended.due:
                attended = await self._attend([], _departures(attended), lease=lease, grace=0)
            await self._attend([], [], lease=0, grace=0)
        except BrokerError as error:
            logger.debug("The broker could not be told that a process ends: %s", error)

    def _note(self, members: Collection[Member]) -> None:
        self._changed.update(dict.fromkeys(members))
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._run(), context=Context())

    def _lease(self) -> float:
        # The lease is at least as long as the grace: users of a process that died need time to
        # reconnect, too.
        return max(conf.presence)

    async def _attend(
        self,
        changes: Sequence[Change],
        departures: Sequence[Departure],
        *,
        lease: float,
        grace: float,
    ) -> Attended:
        # The lease must not end while the broker is asked.
        timeout = min(conf.publish_timeout, max(lease / 3, 1.0))
        return await self.broker.attend(
            self._holder, changes, departures, lease=lease, grace=grace, timeout=timeout
        )

    async def _run(self) -> None:
        """Tell the broker of changes and renew the lease, until nobody is present or about to leave."""
        departures: list[Departure] = []
        while True:
            self._wake.clear()
            changes = self._next_changes()
            idle = not (changes or departures or self._streams or self._left)
            asked = self._loop.time()
            attended: Attended | None = None
            try:
                attended = await self._attend(
                    changes,
                    departures,
                    lease=0 if idle else self._lease(),
                    grace=conf.presence.grace,
                )
            except Exception as error:
                self._begin_anew(error)
            if attended is None:
                departures = []
                if idle and not self._streams:
                    return  # The lease ends by itself.
                await asyncio.sleep(random.uniform(0.2, 1.0))  # noqa: S311 - spreads load
                continue
            self._away = False
            self._note_told(changes, attended, asked)
            if idle and not self._changed:
                return
            departures = _departures(attended)
            if not (departures or self._changed) and (self._streams or self._left):
                await self._rest(attended)

    def _next_changes(self) -> list[Change]:
        changes: list[Change] = []
        while self._changed and len(changes) < BATCH:
            member = next(iter(self._changed))
            del self._changed[member]
            topic, user = member
            # For a user, the broker only has to know whether there is a stream, and not how many.
            streams = self._streams[member] if user is None else min(self._streams[member], 1)
            if streams != self._told.get(member, 0):
                head = encode(JOIN, user) if streams and user is not None else b""
                changes.append(Change(topic, user, streams, head))
        return changes

    def _note_told(self, changes: Sequence[Change], attended: Attended, asked: float) -> None:
        now = self._loop.time()
        for topic, user, streams, _ in changes:
            member = topic, user
            if streams:
                self._told[member] = streams
                self._left.pop(member, None)
            else:
                self._told.pop(member, None)
                if user is not None:
                    self._left[member] = now + conf.presence.grace
        if not attended.known and len(self._told) > sum(1 for it in changes if it.streams):
            # The broker has lost its data, or this process was stopped for longer than its lease.
            self._tell_all()
        # Without a lease before the call, no leave is due. The broker may renew it a quarter late.
        had_lease = asked < self._renewed + self._lease() * 0.7
        while had_lease and self._left and (first := next(iter(self._left.items())))[1] <= asked:
            # The broker has returned this departure as due, or another process has published it.
            del self._left[first[0]]
        self._renewed = asked

    def _begin_anew(self, error: Exception) -> None:
        """Take another name: it is not known what became of the last call under the old one."""
        if isinstance(error, BrokerError):
            log = logger.debug if self._away else logger.warning
            log("Presence is not up to date, trying again: %s", error)
        else:
            logger.error("Presence is not up to date, trying again.", exc_info=error)
        self._away = True
        if self._told or self._left:
            # Keep running until the lease of the old name is over, to publish the leave of users
            # who have not come back by then.
            moment = self._loop.time() + self._lease() + _SOON
            self._left = dict.fromkeys({**self._left, **self._told}, moment)
        self._holder = uuid.uuid4().hex
        self._renewed = -math.inf
        self._tell_all()

    def _tell_all(self) -> None:
        self._told.clear()
        self._changed = dict.fromkeys(self._streams)

    async def _rest(self, attended: Attended) -> None:
        """Wait for a change, the next renewal, or for the moment when a user may have left."""
        now = self._loop.time()
        until = now + self._lease() / 3
        if attended.wait is not None:
            until = min(until, now + attended.wait + _SOON)
        if self._left:
            until = min(until, next(iter(self._left.values())))
        timer = self._loop.call_at(max(until, now + _SOON), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()


def _departures(attended: Attended) -> list[Departure]:
    return [Departure(topic, user, encode(LEAVE, user)) for topic, user in attended.due]


_registers: dict[asyncio.AbstractEventLoop, Register] = {}
# The streams that are counted, each with where and as what.
_seats: dict[Any, tuple[Register, list[Member]]] = {}


def enter(stream: Any, topics: Collection[str], user: str | None) -> None:
    """Count a stream as present in topics, until ``leave()``. One that is counted already stays so.

    Raises ``ValueError`` for the primary key of a user that not every broker can store.
    """
    if stream in _seats or not topics:
        return
    if user is not None and not (len(user) <= LONGEST_KEY and user.isprintable()):
        raise ValueError(
            f"Presence needs a primary key of at most {LONGEST_KEY} printable characters, got "
            f"{user[:40]!r}…"
        )
    register = _get_register()
    members = [(topic, user or None) for topic in topics]
    _seats[stream] = register, members
    register.enter(members)


def leave(stream: Any) -> None:
    """Count a stream out, if it was counted."""
    seat = _seats.pop(stream, None)
    if seat is not None:
        register, members = seat
        register.leave(members)


def _get_register() -> Register:
    loop = asyncio.get_running_loop()
    register, broker = _registers.get(loop), get_broker()
    if register is None or register.broker is not broker:
        for gone in [other for other in _registers if other.is_closed()]:
            del _registers[gone]
        # Where a test has replaced the broker, the old register goes on for its streams.
        register = _registers[loop] = Register(broker, loop)
    return register


async def close_idle_register() -> None:
    """Close the register of the running event loop; for tests, which end their loop."""
    register = _registers.pop(asyncio.get_running_loop(), None)
    if register is not None:
        await register.aclose()
