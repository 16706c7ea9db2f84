"""What is older than ``MAX_AGE`` is deleted, and a client that needs it is told so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connections

from django_sse.brokers.base import PASSING
from django_sse.brokers.database import store, trimming
from django_sse.exceptions import HistoryLost
from tests.support.ear import TIMEOUT, Ear

from .process import Project

HOUR = 3_600_000


async def trim_later(project: Project, monkeypatch: pytest.MonkeyPatch, milliseconds: int) -> bool:
    """Trim as a process does that runs so much later."""
    now = store.now
    monkeypatch.setattr(store, "now", lambda: now() + (milliseconds << store.SEQUENCE_BITS))
    limits = store.Limits(history=1000, max_age=HOUR)
    return await project.run(lambda: trimming.trim_old(connections[project.alias], limits))


async def rows(project: Project, table: str) -> int:
    [[count]] = await project.execute(f"SELECT count(*) FROM django_sse_{table}")
    return int(count)


async def test_old_events_are_deleted_except_for_the_newest(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(MAX_AGE=HOUR / 1000)
    ear = Ear(project.broker)
    ids = [await project.broker.apublish(["a", "b"], b"%d" % n, timeout=TIMEOUT) for n in range(4)]
    assert not await trim_later(project, monkeypatch, HOUR // 2)
    assert await rows(project, "event") == 4
    await trim_later(project, monkeypatch, 2 * HOUR)
    # Its number says which one was given last.
    assert await rows(project, "event") == 1
    assert await rows(project, "entry") == 2
    with pytest.raises(HistoryLost):
        await ear.listener.replay(["b"], ids[0])
    assert await ear.listener.replay(["b"], ids[-1]) == []
    await ear.listener.close()


async def test_answers_that_only_their_process_needs_are_deleted_early(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    for topic in (f"{PASSING}one", f"{PASSING}two", "a"):
        await project.broker.apublish([topic], b"", timeout=TIMEOUT)
    await trim_later(project, monkeypatch, trimming.PASSING_AGE // 2)
    assert await rows(project, "event") == 3
    await trim_later(project, monkeypatch, 2 * trimming.PASSING_AGE)
    assert await rows(project, "event") == 1
    assert await rows(project, "trimmed") == 0
