"""What a listener finds when it looks late, or what it cannot read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from django_sse.brokers.base import Message
from django_sse.brokers.database import DatabaseBroker, store, watcher, writer
from tests.support.databases import database, in_thread
from tests.support.ear import PATIENCE, TIMEOUT, Ear
from tests.support.postgres_server import PostgresServer

from .conftest import Project, rows_until

MakeProject = Callable[..., Project]


class Elsewhere:
    """An event loop in a thread of its own, whose listener keeps what it hears, and can be held up."""

    def __init__(self, broker: DatabaseBroker) -> None:
        self.heard: list[Any] = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        self._broker = broker
        self._ready, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),))

    async def __aenter__(self) -> Elsewhere:
        self._thread.start()
        assert await asyncio.to_thread(self._ready.wait, PATIENCE)
        return self

    async def __aexit__(self, *args: Any) -> None:
        self.goes_on.set()
        self._over.set()
        await asyncio.to_thread(self._thread.join)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.heard) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def _run(self) -> None:
        listener = self._broker.listen(self._deliver, self.heard.append)
        await listener.subscribe(["a"])
        self._ready.set()
        while not self._over.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await listener.close()

    def _deliver(self, message: Message) -> None:
        self.heard.append(message.head)
        self.goes_on.wait(PATIENCE)


async def test_events_that_are_deleted_before_a_slow_process_reads_them_are_a_loss(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GRACE", 0.1)
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(watcher, "LOOK_SECONDS", 0.2)
    project = make_project(HISTORY=5)
    async with Elsewhere(project.broker) as slow:
        slow.goes_on.clear()
        await project.broker.apublish(["a"], b"first", timeout=TIMEOUT)
        await slow.until(1)
        for number in range(150):
            await project.broker.apublish(["a"], b"%d" % number, timeout=TIMEOUT)
        await rows_until(project, 100)
        slow.goes_on.set()
        last = await project.broker.apublish(["a"], b"last", timeout=TIMEOUT)
        async with asyncio.timeout(PATIENCE):
            while slow.heard[-1] != b"last":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        # The loss is told before anything that comes after it, and what is left comes whole.
        rest = slow.heard[2:]
        assert slow.heard[:2] == [b"first", frozenset("a")]
        assert rest == [b"%d" % n for n in range(151 - len(rest), 150)] + [b"last"], last


async def test_data_that_goes_while_it_is_read_is_a_loss(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(store, "BATCH", 500)
    project = make_project()
    async with Elsewhere(project.broker) as slow:
        slow.goes_on.clear()
        await project.broker.apublish(["a"], b"first", timeout=TIMEOUT)
        await slow.until(1)
        # More than one query reads.
        await asyncio.gather(
            *(project.broker.apublish(["a"], b"x", timeout=PATIENCE) for _ in range(600))
        )
        slow.goes_on.set()
        await slow.until(2)
        slow.goes_on.clear()
        for table in "event", "entry", "state":
            await project.execute(f"DELETE FROM django_sse_{table}")
        slow.goes_on.set()
        async with asyncio.timeout(PATIENCE):
            while frozenset("a") not in slow.heard:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        later = await project.broker.apublish(["a"], b"later", timeout=TIMEOUT)
        async with asyncio.timeout(PATIENCE):
            while slow.heard[-1] != b"later":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert slow.heard.count(b"later") == 1, later


async def test_row_that_cannot_be_read_is_logged_and_listening_goes_on(
    project: Project, ear: Ear, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "LOOK_SECONDS", 0.2)
    first = await project.broker.apublish(["a"], b"first", timeout=TIMEOUT)
    await ear.until_id(first)
    number = store.number_of(first) + 1
    values = f"({number}, 'no JSON', 'x', 'x')"
    await project.execute(
        f"INSERT INTO django_sse_event (number, envelope, head, tail) VALUES {values}"
    )
    async with asyncio.timeout(PATIENCE):
        while "Listening to the database failed" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await project.execute(f"DELETE FROM django_sse_event WHERE number = {number}")
    await ear.until_id(await project.broker.apublish(["a"], b"later", timeout=TIMEOUT))
    assert ear.heads == [b"first", b"later"]


@pytest.mark.parametrize("polls", [False, True], ids=["poll", "select"])
async def test_connection_of_its_own_that_listens_tells_after_quiet_times(
    shared_postgres: PostgresServer,
    django_db_blocker: Any,
    monkeypatch: pytest.MonkeyPatch,
    polls: bool,
) -> None:
    if polls:
        monkeypatch.delattr("select.poll")  # As on Windows.
    monkeypatch.setattr(watcher, "LOOK_SECONDS", 0.1)
    settings = shared_postgres.new_database()
    with (
        django_db_blocker.unblock(),
        database(settings) as alias,
        database(settings) as direct,
    ):
        project = Project(alias, LISTEN=direct)
        ear = Ear(project.broker)
        await ear.listener.subscribe(["a"])
        await asyncio.sleep(0.5)
        # From now on, only a notification is quick enough.
        monkeypatch.setattr(watcher, "LOOK_SECONDS", 2 * PATIENCE)
        await asyncio.sleep(0.3)
        for number in range(3):
            await ear.until_id(
                await project.broker.apublish(["a"], b"%d" % number, timeout=TIMEOUT)
            )
        await ear.listener.close()
        project.close()
        assert await in_thread(lambda: project.broker.problems(timeout=TIMEOUT)) == []
