"""What ``brokers/base.py`` promises of presence, asked of every broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from django_sse.brokers.base import Broker
from django_sse.brokers.presence import (
    DUE_LIMIT,
    SWEEP_LIMIT,
    Attended,
    Change,
    Departure,
    Presence,
)
from tests.support.databases import in_thread
from tests.support.ear import PATIENCE, TIMEOUT, Ear, publish

Listen = Callable[[Broker], Ear]

#: Seconds of a lease that does not end during a test.
LONG = 600.0


def here(topic: str, user: str | None, streams: int = 1) -> Change:
    return Change(topic, user, streams, b"" if user is None else f"data: {user} came\n".encode())


def gone(topic: str, user: str | None) -> Change:
    return Change(topic, user, 0)


class Holder:
    """A process, as the broker knows it."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = name

    async def tell(
        self,
        *changes: Change,
        lease: float = LONG,
        grace: float = LONG,
        departures: list[Departure] | None = None,
    ) -> Attended:
        return await self.broker.attend(
            self.name, changes, departures or [], lease=lease, grace=grace, timeout=TIMEOUT
        )

    async def let_leave(self, attended: Attended) -> Attended:
        """Publish what is due."""
        return await self.tell(
            departures=[
                Departure(topic, user, f"data: {user} left\n".encode())
                for topic, user in attended.due
            ]
        )

    async def until_due(self, count: int = 1) -> Attended:
        """Ask until the leave of so many users is due."""
        async with asyncio.timeout(PATIENCE):
            while len((attended := await self.tell()).due) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return attended


@pytest.fixture
def holders(broker: Broker) -> tuple[Holder, Holder]:
    return Holder(broker, "first1"), Holder(broker, "second2")


async def heard(ear: Ear, broker: Broker, *topics: str) -> list[tuple[str, bytes]]:
    """Return what was published so far, in order."""
    last = await publish(broker, list(topics), b"last")
    await ear.until_id(last)
    return [(it.topics[0], it.head) for it in ear.messages if it.head != b"last"]


async def come_and_go(brokers: list[Broker]) -> None:
    """Let a user come and go through several processes at once, until all have left."""

    async def repeat(holder: Holder) -> None:
        await holder.tell()
        for number in range(25):
            await holder.tell(here("a", "7"))
            attended = await holder.tell(gone("a", "7"), grace=0.001 * (number % 2))
            if attended.due:
                await holder.let_leave(attended)

    await asyncio.gather(*(repeat(Holder(it, f"holder{n}")) for n, it in enumerate(brokers)))
    last = Holder(brokers[0], "last")
    await last.tell()
    while (await last.broker.apresence("a", timeout=TIMEOUT)).users or (await last.tell()).due:
        await last.let_leave(await last.tell())


def assert_alternating(events: list[bytes]) -> None:
    assert len(events) >= 2
    assert events[::2] == [b"data: 7 came\n"] * (len(events) // 2)
    assert events[1::2] == [b"data: 7 left\n"] * (len(events) // 2)


async def both(broker: Broker, topic: str) -> Presence:
    """Return who is present, asked from a thread and from the event loop."""
    there = await broker.apresence(topic, timeout=TIMEOUT)
    assert await asyncio.to_thread(_ask, broker, topic) == there
    return there


def _ask(broker: Broker, topic: str) -> Presence:
    from django.db import connections  # noqa: PLC0415

    try:
        return broker.presence(topic, timeout=TIMEOUT)
    finally:
        connections.close_all()


async def test_nobody_is_present_in_a_topic_of_which_nothing_is_known(broker: Broker) -> None:
    assert await both(broker, "room") == Presence((), 0)


async def test_a_user_joins_once_over_all_processes_and_leaves_with_the_last(
    broker: Broker, listen: Listen, holders: tuple[Holder, Holder]
) -> None:
    ear, (one, two) = listen(broker), holders
    await ear.listener.subscribe(["a", "b:ünï"])
    assert not (await one.tell(here("a", "7"), here("b:ünï", "x/\u2028ß"), here("a", "8"))).known
    assert not (await two.tell(here("a", "7"))).known
    assert (await one.tell(here("a", "7"))).known
    assert await both(broker, "a") == Presence(("7", "8"), 0)
    assert await both(broker, "b:ünï") == Presence(("x/\u2028ß",), 0)
    # The second one has the user still.
    await one.tell(gone("a", "7"), grace=0)
    assert (await one.tell()).due == []
    await two.tell(gone("a", "7"), grace=0)
    attended = await one.until_due()
    assert attended.due == [("a", "7")]
    # Both see it, and it is published once.
    assert (await one.let_leave(attended)).due == []
    assert (await two.let_leave(attended)).due == []
    assert await both(broker, "a") == Presence(("8",), 0)
    assert await heard(ear, broker, "a", "b:ünï") == [
        ("a", b"data: 7 came\n"),
        ("b:ünï", "data: x/\u2028ß came\n".encode()),
        ("a", b"data: 8 came\n"),
        ("a", b"data: 7 left\n"),
    ]
    # Who comes again, joins again.
    await two.tell(here("a", "7"))
    assert (await heard(ear, broker, "a"))[-1] == ("a", b"data: 7 came\n")


async def test_a_user_who_comes_back_within_the_grace_never_left(
    broker: Broker, listen: Listen, holders: tuple[Holder, Holder]
) -> None:
    ear, (one, two) = listen(broker), holders
    await ear.listener.subscribe(["a"])
    await one.tell(here("a", "7"))
    await one.tell(gone("a", "7"), grace=LONG)
    assert await both(broker, "a") == Presence(("7",), 0)
    assert (await one.tell()).due == []
    await two.tell(here("a", "7"))
    # Also where the leave was due already, and is on its way to be published.
    await two.tell(gone("a", "7"), grace=0)
    attended = await two.until_due()
    assert await both(broker, "a") == Presence((), 0)
    await one.tell(here("a", "7"))
    assert (await two.tell()).due == []
    await two.let_leave(attended)
    assert await both(broker, "a") == Presence(("7",), 0)
    assert await heard(ear, broker, "a") == [("a", b"data: 7 came\n")]


async def test_of_two_moments_of_a_leave_the_earlier_counts(
    broker: Broker, holders: tuple[Holder, Holder]
) -> None:
    one, _ = holders
    await one.tell(here("a", "7"))
    await one.tell(gone("a", "7"), grace=LONG)
    await one.tell(gone("a", "7"), grace=0)
    await one.tell(gone("a", "7"), gone("a", "unknown"), gone("unknown", None), grace=LONG)
    assert (await one.until_due()).due == [("a", "7")]


async def test_anonymous_streams_are_counted_without_events(
    broker: Broker, listen: Listen, holders: tuple[Holder, Holder]
) -> None:
    ear, (one, two) = listen(broker), holders
    await ear.listener.subscribe(["a"])
    await one.tell(here("a", None, 3), here("a", "7"))
    await two.tell(here("a", None, 2))
    assert await both(broker, "a") == Presence(("7",), 5)
    await one.tell(here("a", None, 1))
    assert await both(broker, "a") == Presence(("7",), 3)
    await two.tell(gone("a", None), gone("a", None))
    assert await both(broker, "a") == Presence(("7",), 1)
    assert await heard(ear, broker, "a") == [("a", b"data: 7 came\n")]


async def test_what_a_call_says_again_changes_nothing(
    broker: Broker, listen: Listen, holders: tuple[Holder, Holder]
) -> None:
    ear, (one, _) = listen(broker), holders
    await ear.listener.subscribe(["a"])
    for _ in range(3):
        await one.tell(here("a", "7"), here("a", None, 2))
    assert await both(broker, "a") == Presence(("7",), 2)
    assert len(await heard(ear, broker, "a")) == 1


async def test_the_users_of_a_process_that_died_leave_after_its_lease(
    broker: Broker, listen: Listen, holders: tuple[Holder, Holder]
) -> None:
    ear, (one, two) = listen(broker), holders
    await ear.listener.subscribe(["a", "b"])
    await two.tell(here("a", "both"))
    await one.tell(here("a", "7"), here("a", "both"), here("b", "7"), here("a", None, 4))
    assert await both(broker, "a") == Presence(("7", "both"), 4)
    await one.tell(lease=3)
    attended = await two.tell()
    assert attended.due == []
    assert attended.wait is not None
    assert 0 < attended.wait <= 3
    attended = await two.until_due(2)
    assert sorted(attended.due) == [("a", "7"), ("b", "7")]
    assert (await two.let_leave(attended)).wait is None
    assert await both(broker, "a") == Presence(("both",), 0)
    assert [it for it in await heard(ear, broker, "a", "b") if b"left" in it[1]] == [
        (topic, b"data: 7 left\n") for topic, _ in attended.due
    ]
    # The one that was only slow is told that it is unknown, tells everything, and its user joins.
    assert not (await one.tell()).known
    await one.tell(here("a", "7"))
    assert (await heard(ear, broker, "a"))[-1] == ("a", b"data: 7 came\n")


async def test_users_without_a_process_are_not_present_although_nobody_looks_after_them(
    broker: Broker, holders: tuple[Holder, Holder]
) -> None:
    one, _ = holders
    await one.tell(here("a", "7"), here("a", None))
    assert await both(broker, "a") == Presence(("7",), 1)
    await one.tell(lease=0.1)
    async with asyncio.timeout(PATIENCE):
        while await broker.apresence("a", timeout=TIMEOUT) != Presence((), 0):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_process_without_a_lease_removes_nobody(
    broker: Broker, holders: tuple[Holder, Holder]
) -> None:
    """After the broker was away, no process has a lease, and the first to come is not alone."""
    one, two = holders
    await one.tell(here("a", "1"), lease=0.2)
    await two.tell(here("a", "2"), lease=0.2)
    async with asyncio.timeout(PATIENCE):
        while (await broker.apresence("a", timeout=TIMEOUT)).users:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    attended = await one.tell()
    assert attended == Attended(True, [], None)
    assert await two.tell() == Attended(True, [], None)
    assert (await one.tell()).due == []
    assert await both(broker, "a") == Presence(("1", "2"), 0)


async def test_a_process_that_ends_gives_up_its_lease(
    broker: Broker, holders: tuple[Holder, Holder]
) -> None:
    one, two = holders
    await two.tell()
    await one.tell(here("a", "7"))
    await one.tell(gone("a", "7"), grace=LONG)
    assert (await one.tell(lease=0)).known
    assert await two.tell() == Attended(True, [], None)
    # What it has nevertheless, is left.
    await one.tell(here("a", "8"), here("a", None, 2))
    await one.tell(lease=0)
    assert (await two.until_due()).due == [("a", "8")]
    assert await both(broker, "a") == Presence(("7",), 0)


async def test_many_users_of_a_process_that_died_leave_part_by_part(
    broker: Broker, holders: tuple[Holder, Holder]
) -> None:
    one, two = holders
    await two.tell()
    users = [str(number) for number in range(SWEEP_LIMIT + 50)]
    for start in range(0, len(users), 200):
        await one.tell(*(here("a", user) for user in users[start : start + 200]))
    assert len((await both(broker, "a")).users) == len(users)
    await one.tell(lease=0.01)
    await asyncio.sleep(0.05)
    left: set[str] = set()
    attended = await two.tell()
    assert len(attended.due) == DUE_LIMIT
    assert attended.wait == 0
    # It comes back in the middle, and knows that something is missing.
    assert not (await one.tell()).known
    assert (await one.tell(lease=0)).known
    async with asyncio.timeout(PATIENCE):
        while len(left) < len(users):
            left.update(user for _, user in attended.due)
            attended = await two.let_leave(attended)
    assert attended == Attended(True, [], None)
    assert await both(broker, "a") == Presence((), 0)


async def test_joins_and_leaves_of_many_processes_alternate(broker: Broker, listen: Listen) -> None:
    """However the calls of several processes cross, each user joins, leaves, joins, …"""
    ear = listen(broker)
    await ear.listener.subscribe(["a"])

    await come_and_go([broker] * 4)
    assert_alternating([head for _, head in await heard(ear, broker, "a")])


async def test_joins_are_replayed(broker: Broker, listen: Listen, holders: Any) -> None:
    ear, (one, _) = listen(broker), holders
    start = await ear.listener.latest_id()
    await one.tell(here("a", "7"))
    async with asyncio.timeout(PATIENCE):
        while not (found := await ear.listener.replay(["a"], start)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert [it.head for it in found] == [b"data: 7 came\n"]
    assert await in_thread(lambda: broker.latest_id(timeout=TIMEOUT)) == found[0].id
