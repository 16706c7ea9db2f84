"""Random changes of rows and permissions: each copy ends as its queryset, and never shows more.

A thread makes changes while clients read, leave and come back, and while queries are held up at random. Each
version of a row has a name of its own. After each change, the test asks the database which versions
are whose. It also notes between which changes a version was read. So it knows a version that a
client was not allowed to see at that time, wherever it appears.

Rights change while streams are open: by the row itself, by its groups, by the client's groups, by the
name of a group, and by permissions of the client and of its group, which a recheck finds.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.db import connections, transaction
from django.db.models import Q
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rest_framework import serializers

from django_sse import ModelSSEView, publish_changes
from django_sse.brokers import use_broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.rows import change_table
from django_sse.rows.plan import Plan
from django_sse.testing import StreamClient, connect
from tests.support.databases import new_database

from .conftest import Copy, install_triggers, wait_for_checks

CLIENTS = ("own", "team", "all", "turns", "perm")
#: Seconds between two rechecks of the client with permissions.
RECHECK = 0.03


class RowSerializer(serializers.ModelSerializer[User]):
    """A row is a user: its first name is its owner's, its last name its version."""

    class Meta:
        model = User
        fields = ["id", "first_name", "last_name"]


def visible(client: str, alias: str) -> Any:
    """Return the rows that a client may see: by the query, a group, a permission or a flag."""
    rows = User.objects.using(alias).filter(username__startswith="row")
    if client == "all" or User.objects.using(alias).get(username=client).is_staff:
        return rows
    if client == "team":
        return rows.filter(groups__user__username=client, groups__name="team").distinct()
    if client == "perm":
        return rows if is_permitted(client, alias) else rows.filter(first_name="own")
    return rows.filter(first_name=client)


def is_permitted(client: str, alias: str) -> bool:
    """Return whether a permission of a client, or of its group, shows it all rows."""
    permissions = Permission.objects.using(alias).filter(codename="view_user")
    by_group = Q(group__user__username=client, group__name="team")
    return permissions.filter(Q(user__username=client) | by_group).exists()


class Rows(ModelSSEView):
    heartbeat = None
    serializer_class = RowSerializer
    depends_on = {Group: "user_set"}
    queryset = User.objects.all()
    snapshot_page = 2
    alias = "default"

    def get_queryset(self) -> Any:
        return visible(self.request.GET["client"], self.alias)

    async def _is_still_allowed(self) -> bool:
        world = World.current
        first = len(world.states) - 1
        allowed = await super()._is_still_allowed()
        world.rechecks.append((first, time.monotonic()))
        return allowed


class World:
    """The database, its changes, and who was allowed to see what after each of them."""

    current: World

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.states: list[dict[str, set[tuple[int, str]]]] = []
        #: Whether the client with permissions had them then.
        self.permits: list[bool] = []
        #: For each recheck of this client, after which state it began, and when it took effect.
        self.rechecks: list[tuple[int, float]] = []
        #: For each version, between which states, and when, it was read.
        self.reads: dict[tuple[int, str], list[tuple[int, int, float]]] = {}
        World.current = self
        self._versions = 0

    @property
    def rows(self) -> Any:
        return User.objects.using(self.alias).filter(username__startswith="row").order_by("pk")

    def begin(self) -> None:
        User.objects.using(self.alias).all().delete()
        Group.objects.using(self.alias).all().delete()
        for name in CLIENTS:
            User.objects.using(self.alias).create(username=name)
        Group.objects.using(self.alias).create(name="team").user_set.add(self.client("team"))
        self.note()

    def client(self, name: str) -> User:
        return User.objects.using(self.alias).get(username=name)

    def note_read(self, first: int, began: float, rows: Any) -> None:
        """Note what was read since the state ``first``; the next state may have been there already."""
        for row in rows:
            version = row.pk, json.loads(row.text)["last_name"]
            self.reads.setdefault(version, []).append((first, len(self.states), began))

    def note(self) -> None:
        self.permits.append(is_permitted("perm", self.alias))
        self.states.append(
            {
                name: set(visible(name, self.alias).values_list("pk", "last_name"))
                for name in CLIENTS
            }
        )

    def tell(self, rows: Any) -> None:
        if not change_table.covered:
            publish_changes(rows, using=self.alias)

    def change(self, what: str, number: int) -> None:
        self._versions += 1
        version, owner = f"v{self._versions}", ("own", "turns")[number % 2]
        rows = list(self.rows)
        row = rows[number % len(rows)] if rows else None
        team = Group.objects.using(self.alias).get()
        with transaction.atomic(using=self.alias):
            if what == "create" or row is None:
                row = User.objects.db_manager(self.alias).create(
                    username=f"row{self._versions}", first_name=owner, last_name=version
                )
                if number % 3 == 0:
                    team.user_set.add(row)
            elif what == "change":
                row.last_name = version
                row.save()
            elif what == "move":
                row.first_name, row.last_name = owner, version
                row.save()
            elif what == "update":
                changed = self.rows.filter(pk__gte=row.pk)
                changed.update(last_name=version, first_name=owner)
                self.tell(self.rows.filter(last_name=version))
            elif what == "bulk":
                made = User.objects.using(self.alias).bulk_create(
                    User(username=f"row{version}.{it}", first_name=owner, last_name=version)
                    for it in range(3)
                )
                self.tell(made)
            elif what == "delete":
                row.delete()
            elif what == "delete some":
                self.rows.filter(pk__gte=row.pk).delete()
            elif what == "join":
                team.user_set.add(row)
            elif what == "part":
                row.last_name = version
                row.save()
                row.groups.clear()
            elif what == "client":
                client = self.client("team")
                if client.groups.exists():
                    team.user_set.remove(client)
                else:
                    client.groups.add(team)
            elif what == "rename":
                team.name = "closed" if team.name == "team" else "team"
                team.save()
            elif what in ("permit", "grant"):
                holder = (
                    self.client("perm").user_permissions if what == "permit" else team.permissions
                )
                permission = Permission.objects.using(self.alias).get(codename="view_user")
                if holder.exists():
                    holder.remove(permission)
                else:
                    holder.add(permission)
            elif what == "appoint":
                client = self.client("perm")
                if client.groups.exists():
                    client.groups.clear()
                else:
                    client.groups.add(team)
            elif what == "roll back":
                row.last_name = version
                row.save()
                transaction.set_rollback(True, using=self.alias)
            else:
                client = self.client("turns")
                client.is_staff = not client.is_staff
                client.save()
        self.note()


class Browser:
    """A client that reads all the time, and resumes where it was."""

    def __init__(self, name: str, world: World, view: Any) -> None:
        self.name = name
        self.copy: Copy | None = None
        self._got: list[tuple[int, str | None, Any]] = []
        self._world = world
        self._view = view
        self._stack = AsyncExitStack()
        self._task: asyncio.Task[None] | None = None
        self._seen = ""
        self._stream: StreamClient | None = None

    @property
    def is_open(self) -> bool:
        return self._task is not None and not self._task.done()

    async def come(self) -> None:
        since = len(self._world.states) - 1
        headers = {"last-event-id": self._seen} if self._seen else {}
        address = f"/?client={self.name}"
        stream = connect(self._view, address, headers=headers)
        self._stream = await self._stack.enter_async_context(stream)
        copy = Copy(self._stream, "id")
        if self.copy is not None:
            copy.rows = self.copy.rows
        self.copy = copy
        self._task = asyncio.create_task(self._read(copy, since))

    async def leave(self) -> None:
        if self._task is not None and self._stream is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._seen = self._stream.last_event_id
        await self._stack.aclose()

    async def _read(self, copy: Copy, since: int) -> None:
        while True:
            self._got.append((since, *(await copy.event(60))))

    def faults(self) -> list[str]:
        """Return what it got and was not allowed to see when it was read, since it connected.

        Of a deleted row, it gets the key, which it had before.
        """
        world = self._world
        states = [state[self.name] for state in world.states]
        found = []
        for since, name, data in self._got:
            if name in ("created", "changed"):
                version = data["id"], data["last_name"]
                if not any(
                    self._was_allowed(version, since, *read)
                    for read in world.reads.get(version, ())
                ):
                    found.append(f"{self.name} got {name} {data}")
            elif name == "deleted" and not any(
                data["id"] == pk for state in states for pk, _ in state
            ):
                found.append(f"{self.name} got to know that there was {data}")
        return found

    def _was_allowed(
        self, version: tuple[int, str], since: int, first: int, last: int, began: float
    ) -> bool:
        """Return whether it was allowed to see a version that was read between two states."""
        world = self._world
        read = world.states[max(first, since) : last + 1]
        if any(version in state[self.name] for state in read):
            return True
        # It has the rights that the last recheck found, also to versions that come meanwhile. The
        # time when that took effect counts: a recheck is slow on a machine that is busy.
        found = [state for state, ended in world.rechecks if ended < began]
        begin = min(first, found[-1] if found else 0)
        return (
            self.name == "perm"
            and any(world.permits[max(begin, since) : last + 1])
            and any(version in state["all"] for state in read)
        )


WORDS = (
    *("create", "change", "move", "update", "bulk", "delete", "delete some", "join", "part"),
    *("client", "roll back", "turn", "leave", "come", "pause"),
    *("rename", "permit", "grant", "appoint"),
)


#: A permission is given and taken away, and rows change once rechecks have found each of that.
PAUSES = [("pause", 99)] * 8
WITHDRAWAL = [
    *[("create", 1), ("create", 1), ("permit", 0), *PAUSES, ("create", 1), *PAUSES],
    *[("permit", 0), *PAUSES, ("create", 1), ("change", 1), ("create", 1), *PAUSES],
]


async def play(alias: str, steps: list[tuple[str, int]], seed: int) -> None:
    world = World(alias)
    view = Rows.as_view(alias=alias)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as writer:
        await loop.run_in_executor(writer, world.begin)
        browsers = [Browser(name, world, view) for name in (*CLIENTS, "own", "team")]
        browsers[4] = Browser("perm", world, Rows.as_view(alias=alias, recheck_period=RECHECK))
        watcher = connect(Rows.as_view(alias=alias), "/?client=all")
        async with watcher:  # Without a stream, the groups would be forgotten.
            try:
                for browser in browsers[:5]:
                    await browser.come()
                for what, number in steps:
                    browser = browsers[number % len(browsers)]
                    if what == "pause":
                        await asyncio.sleep(number / 5000)
                    elif what in ("come", "leave"):
                        await browser.leave()
                        if what == "come":
                            await browser.come()
                    elif what == "turn":
                        # As close_streams() does: what is open has the rights of before.
                        await browsers[3].leave()
                        await loop.run_in_executor(writer, world.change, what, number)
                        await browsers[3].come()
                    else:
                        await loop.run_in_executor(writer, world.change, what, number)
                for browser in browsers:
                    # What the recheck does must be seen in a stream that stays open.
                    if browser.name != "perm" or not browser.is_open:
                        await browser.leave()
                        await browser.come()
                await agree(browsers, world)
            finally:
                for browser in browsers:
                    await browser.leave()
                await loop.run_in_executor(writer, connections.close_all)


async def agree(browsers: list[Browser], world: World) -> None:
    """Wait until each copy is what its client may see, and find that it stays so."""
    wanted = world.states[-1]
    deadline = time.monotonic() + 10
    quiet = 0
    while quiet < 3:
        copies = {
            (browser.name, number): {
                (it["id"], it["last_name"]) for it in browser.copy.rows.values()
            }
            for number, browser in enumerate(browsers)
            if browser.copy is not None
        }
        wrong = {name: it for name, it in copies.items() if it != wanted[name[0]]}
        quiet = 0 if wrong else quiet + 1
        assert not wrong or time.monotonic() < deadline, (wrong, wanted)
        await asyncio.sleep(0.02)
    assert [fault for browser in browsers for fault in browser.faults()] == []


@pytest.fixture(params=["sqlite", "postgresql", "triggers"])
def alias(request: pytest.FixtureRequest, tmp_path: Path, covered: set[Any]) -> Iterator[str]:
    """A database with the tables of users and groups; with triggers, in PostgreSQL, or without."""
    kind = request.param.replace("triggers", "postgresql")
    with new_database(kind, request, tmp_path) as alias, ThreadPoolExecutor(1) as thread:
        migrate = partial(call_command, "migrate", database=alias, verbosity=0)
        thread.submit(migrate).result()
        if request.param == "triggers":
            models = User, Group, User.groups.through
            thread.submit(install_triggers, alias, *models).result()
        thread.submit(connections.close_all).result()
        yield alias
        wait_for_checks()


@pytest.fixture
def slow_queries(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Hold up what is read by some milliseconds, before it is read or after it."""
    rng = random.Random()

    def slow(method: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            world = World.current
            first, began = len(world.states) - 1, time.monotonic()
            time.sleep(rng.choice((0, 0, 0.002, 0.005)))
            result = method(*args)
            rows = result[0] if isinstance(result, tuple) else result
            world.note_read(first, began, rows.values())
            time.sleep(rng.choice((0, 0, 0.002, 0.005)))
            return result

        return wrapped

    monkeypatch.setattr(Plan, "read", slow(Plan.read))
    monkeypatch.setattr(Plan, "page", slow(Plan.page))
    return rng.seed


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    steps=st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 99)), min_size=20, max_size=60),
    seed=st.integers(0, 2**16),
)
@example(steps=WITHDRAWAL, seed=0)
@pytest.mark.timeout(500)
def test_copies_become_the_querysets_and_show_nothing_else(
    alias: str, slow_queries: Callable[[int], None], steps: list[tuple[str, int]], seed: int
) -> None:
    slow_queries(seed)
    before = use_broker(MemoryBroker())
    try:
        asyncio.run(play(alias, steps, seed))
    finally:
        use_broker(before)
