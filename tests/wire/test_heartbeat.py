"""The declaration of a heartbeat."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_sse import Heartbeat, ServerSentEvent

BEAT = ServerSentEvent("beat", event="heartbeat")


def sync_beat() -> ServerSentEvent:
    return ServerSentEvent("sync")


@pytest.mark.parametrize(
    ("period", "seconds"),
    [
        (5, 5.0),
        (0.5, 0.5),
        (timedelta(minutes=2), 120.0),
        (0, 0.0),
        (None, 0.0),
        (timedelta(), 0.0),
    ],
)
def test_period_is_in_seconds(period: Any, seconds: float) -> None:
    heartbeat = Heartbeat(period)
    assert heartbeat.period == seconds
    assert bool(heartbeat) is (seconds > 0)
    assert heartbeat.event == ServerSentEvent(comments="heartbeat")


@pytest.mark.parametrize(
    "period",
    ["15s", -1, -0.1, True, False, float("nan"), float("inf"), timedelta(seconds=-1), 10**400, [1]],
)
def test_wrong_period_is_refused(period: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"seconds, a timedelta or None .* got "):
        Heartbeat(period)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (5, "got 5"),
        ("ping", "dotted path"),
        ("not a path", "dotted path"),
        ("a..b", "dotted path"),
        (b"x", "dotted path"),
        ({}, "at least one of data"),
        ({"id": "a\nb"}, "line end"),
        ({"dat": "x"}, "dat"),
        ({1: "x"}, "strings"),
    ],
)
def test_wrong_event_is_refused(event: Any, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^A heartbeat's event") as caught:
        Heartbeat(5, event)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.such.module", "cannot be imported: No module named 'no'"),
        (f"{__name__}.missing", "cannot be imported"),
        (f"{__name__}.BEAT", "must be a callable that returns a ServerSentEvent"),
    ],
)
def test_dotted_path_is_imported_when_it_is_needed(path: str, message: str) -> None:
    heartbeat = Heartbeat(5, path)
    with pytest.raises(ImproperlyConfigured, match=message):
        heartbeat.provider()
    assert Heartbeat(5, f"{__name__}.sync_beat").provider() is sync_beat


def test_heartbeat_is_a_value_that_leaves_its_dict_alone() -> None:
    fields = {"data": "beat", "event": "heartbeat"}
    heartbeat = Heartbeat(timedelta(seconds=5), fields)
    assert heartbeat == Heartbeat(5, BEAT) != Heartbeat(6, BEAT)
    assert hash(heartbeat) == hash(Heartbeat(5, BEAT))
    assert fields == {"data": "beat", "event": "heartbeat"}
    assert heartbeat.provider()() == BEAT
