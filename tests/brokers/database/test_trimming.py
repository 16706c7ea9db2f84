"""Old events are deleted, whichever process does it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from django_sse.brokers.base import PASSING
from django_sse.brokers.database import store, trimming, watcher, writer
from django_sse.exceptions import HistoryLost
from tests.support.ear import TIMEOUT, Ear

from .conftest import Project, rows_until

MakeProject = Callable[..., Project]


async def publish(project: Project, *topics: str, once: str | None = None) -> Any:
    return await project.broker.apublish(topics, b"", timeout=TIMEOUT, idempotency_key=once)


@pytest.mark.parametrize("by", ["writer", "watcher"])
async def test_old_events_are_deleted_and_remembered(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    if by == "writer":
        monkeypatch.setattr(writer, "IDLE_SECONDS", 0.2)
    else:
        # The process that published is idle for less than that; another one only listens.
        monkeypatch.setattr(watcher, "TRIM_SECONDS", 0.2)
        monkeypatch.setattr(watcher, "LOOK_SECONDS", 0.2)
    project = make_project(MAX_AGE=0.5)
    ear = Ear(project.broker)
    await ear.listener.subscribe(["c"])
    ids = [await publish(project, "a", *"b" * (n < 3), once=f"key {n}") for n in range(5)]
    # No client resumes this topic, so nothing is remembered of it.
    await publish(project, f"{PASSING}x")
    await asyncio.sleep(0.6)
    last = await publish(project, "a")
    # The newest event stays.
    await rows_until(project, 1)
    number = store.number_of(last)
    assert await project.execute("SELECT number FROM django_sse_event") == [(number,)]
    assert await project.execute("SELECT number FROM django_sse_entry") == [(number,)]
    async with asyncio.timeout(TIMEOUT):
        while await project.execute("SELECT name FROM django_sse_once"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    trimmed = await project.execute("SELECT number FROM django_sse_trimmed ORDER BY number")
    assert trimmed == [(store.number_of(ids[2]),), (store.number_of(ids[4]),)]
    for topic, seen in ("a", ids[3]), ("b", ids[1]):
        with pytest.raises(HistoryLost):
            await ear.listener.replay([topic], seen)
    assert await ear.listener.replay(["a", "b"], last) == []
    await ear.listener.close()


async def test_answers_that_only_the_asking_process_needs_are_deleted_early(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(trimming, "PASSING_AGE", 300)
    project = make_project()
    first = await publish(project, "a")
    answers = [await publish(project, f"{PASSING}{n % 2}") for n in range(4)]
    await asyncio.sleep(0.4)
    last = await publish(project, "a")
    await rows_until(project, 2)
    ear = Ear(project.broker)
    assert [it.id for it in await ear.listener.replay(["a"], first)] == [last]
    numbers = [(store.number_of(it),) for it in (first, last)]
    for table in "event", "entry":
        found = await project.execute(f"SELECT number FROM django_sse_{table} ORDER BY number")
        assert found == numbers, answers
    assert await project.execute("SELECT number FROM django_sse_trimmed") == []
    await ear.listener.close()


async def test_process_that_publishes_to_more_topics_than_it_counts_trims_them(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GRACE", 0.1)
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(writer, "TRIM_EVERY", 1)
    monkeypatch.setattr(writer, "COUNTED", 2)
    project = make_project(HISTORY=2)
    for _ in range(8):
        for topic in "abcdef":
            await publish(project, topic)
    await rows_until(project, 6 * 2)
    topics = await project.execute("SELECT topic, count(*) FROM django_sse_entry GROUP BY topic")
    assert sorted(count for _, count in topics) == [2] * 6


async def test_publishing_goes_on_where_nothing_can_be_trimmed(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.2)
    project = make_project(MAX_AGE=0.3)
    await project.execute("ALTER TABLE django_sse_trimmed RENAME TO elsewhere")
    for number in range(3):
        await publish(project, "a")
        await asyncio.sleep(0.4)
        [[rows]] = await project.execute("SELECT count(*) FROM django_sse_event")
        assert rows == number + 1
    await project.execute("ALTER TABLE elsewhere RENAME TO django_sse_trimmed")
    await publish(project, "a")
    await rows_until(project, 1)
