"""``publish()`` where nobody watches; topics are in ``tests/integration/topics``."""

from __future__ import annotations

import pytest

from django_sse import InvalidEvent, publish
from django_sse.testing import capture_published
from django_sse.topics import publishing


def test_publish_needs_no_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "watcher", None)
    with capture_published() as published:
        event_id = publish("a", "text", on_commit=False)
    assert [(it.topics, it.event.data, it.event.id) for it in published] == [
        (("a",), "text", event_id)
    ]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("order 7\n", r"idempotency_key .*'order 7\\n'"),
        ("x" * 300, "idempotency_key"),
        (7, r"idempotency_key must be a str, got 7\. Convert it first"),
    ],
)
def test_an_idempotency_key_has_the_limits_of_a_topic(key: object, reason: str) -> None:
    with capture_published() as published, pytest.raises(InvalidEvent, match=reason) as error:
        publish("a", "text", idempotency_key=key)  # type: ignore[arg-type]
    assert (error.value.field, error.value.value) == ("idempotency_key", key)
    assert published == []
