"""The presence of users in topics, kept in the memory of one process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from .presence import DUE_LIMIT, SWEEP_LIMIT, Attended, Change, Departure, Presence

Member = tuple[str, str | None]

# The end of the lease of a holder that has none, of which some is removed already.
_ENDED = -math.inf


class Attendance:
    """``Broker.attend()`` for one process. The caller holds a lock during each call.

    ``publish(topic, head)`` publishes an event. Times are those of ``time.monotonic()``.
    """

    def __init__(self, publish: Callable[[str, bytes], object]) -> None:
        """Begin without holders."""
        self._publish = publish
        self._leases: dict[str, float] = {}
        # For each holder, what it has.
        self._held: dict[str, set[Member]] = {}
        # For each topic and present user, the holders that have the user.
        self._users: dict[str, dict[str, set[str]]] = {}
        # For each topic and holder, the number of anonymous streams.
        self._anonymous: dict[str, dict[str, int]] = {}
        # For each user without a holder, when the leave is due.
        self._leaving: dict[tuple[str, str], float] = {}

    def attend(
        self,
        holder: str,
        changes: Sequence[Change],
        departures: Sequence[Departure],
        *,
        lease: float,
        grace: float,
    ) -> Attended:
        """Do what ``Broker.attend()`` promises. Never waits."""
        now = time.monotonic()
        before = self._leases.get(holder, _ENDED)
        for change in changes:
            if change.streams:
                self._enter(holder, change)
            else:
                self._release(holder, (change.topic, change.user), now + grace)
        for topic, user, head in departures:
            if self._leaving.get((topic, user), math.inf) <= now:
                del self._leaving[topic, user]
                _drop(self._users, topic, user)
                self._publish(topic, head)
        if not lease:
            self._leases[holder] = _ENDED
            self._forget_if_empty(holder)
            return Attended(before != _ENDED, [], None)
        self._leases[holder] = now + lease
        if before < now:
            return Attended(before != _ENDED, [], None)
        self._sweep(now)
        due = [member for member, moment in self._leaving.items() if moment <= now]
        others = [end - now for it, end in self._leases.items() if it != holder]
        return Attended(True, due[:DUE_LIMIT], max(min(others), 0.0) if others else None)

    def presence(self, topic: str) -> Presence:
        """Return the users that are present in a topic."""
        now = time.monotonic()
        alive = {holder for holder, end in self._leases.items() if end >= now}
        users = [
            user
            for user, holders in self._users.get(topic, {}).items()
            if holders & alive or self._leaving.get((topic, user), now) > now
        ]
        counts = self._anonymous.get(topic, {})
        return Presence(
            tuple(sorted(users)), sum(counts[holder] for holder in counts.keys() & alive)
        )

    def _enter(self, holder: str, change: Change) -> None:
        topic, user, streams, head = change
        self._held.setdefault(holder, set()).add((topic, user))
        if user is None:
            self._anonymous.setdefault(topic, {})[holder] = streams
            return
        users = self._users.setdefault(topic, {})
        if user not in users:
            users[user] = set()
            self._publish(topic, head)
        users[user].add(holder)
        self._leaving.pop((topic, user), None)

    def _release(self, holder: str, member: Member, due: float) -> None:
        topic, user = member
        held = self._held.get(holder, set())
        held.discard(member)
        if not held:
            self._held.pop(holder, None)
        if user is None:
            _drop(self._anonymous, topic, holder)
            return
        holders = self._users.get(topic, {}).get(user)
        if holders is not None:
            holders.discard(holder)
            if not holders:
                self._leaving[topic, user] = min(self._leaving.get((topic, user), due), due)

    def _sweep(self, now: float) -> None:
        """Remove what holders without a lease have, as much as one call may."""
        left = SWEEP_LIMIT
        for holder in [it for it, end in self._leases.items() if end < now]:
            # A holder that comes back in the middle of this must tell everything again.
            self._leases[holder] = _ENDED
            for member in list(self._held.get(holder, ()))[:left]:
                self._release(holder, member, now)
                left -= 1
            self._forget_if_empty(holder)

    def _forget_if_empty(self, holder: str) -> None:
        if holder not in self._held:
            del self._leases[holder]


def _drop(table: dict[str, dict[str, Any]], topic: str, name: str) -> None:
    rows = table.get(topic, {})
    rows.pop(name, None)
    if not rows:
        table.pop(topic, None)
