"""``publish()`` where nobody watches; topics are in ``tests/integration/topics``."""

from __future__ import annotations

import pytest

from django_sse import publish
from django_sse.exceptions import InvalidEvent
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
    ("key", "said"),
    [
        ("", "idempotency_key must be a str that is not empty, got ''"),
        ("order\n7", r"idempotency_key must not contain control characters or surrogates, got"),
        ("\ud800", r"idempotency_key must not contain control characters or surrogates, got"),
        ("k" * 201, "idempotency_key must have at most 200 characters, got 201: 'kkk"),
    ],
)
def test_idempotency_key_that_no_broker_can_store_is_refused(key: str, said: str) -> None:
    with capture_published() as published:
        with pytest.raises(InvalidEvent) as raised:
            publish("a", "text", idempotency_key=key, on_commit=False)
        assert str(raised.value).startswith(said)
        assert (raised.value.field, raised.value.value) == ("idempotency_key", key)
    assert published == []
