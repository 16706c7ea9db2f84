"""``publish()`` where nobody watches; topics are in ``tests/integration/topics``."""

from __future__ import annotations

import pytest

from django_sse import publish
from django_sse.testing import capture_published
from django_sse.topics import publishing


def test_publish_needs_no_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "watcher", None)
    with capture_published() as published:
        event_id = publish("a", "text", on_commit=False)
    assert [(it.topics, it.event.data, it.event.id) for it in published] == [
        (("a",), "text", event_id)
    ]
