"""What the doctor says of what was observed."""

from __future__ import annotations

from typing import Any

import pytest

from django_sse import ServerSentEvent
from django_sse.monitoring import doctor
from django_sse.monitoring.doctor import examine
from django_sse.monitoring.probe import Observation

HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-store, no-transform",
    "x-accel-buffering": "no",
}


def sound(**changes: Any) -> Observation:
    """What is seen of a stream that has only its beginning, with ``changes``."""
    seen: dict[str, Any] = {"status": 200, "headers": HEADERS, "arrivals": [0.1], "over_at": 1.0}
    return Observation(**seen | changes)


EVENT = (0.1, ServerSentEvent("x"))
CALM = ["first-bytes", "short", "retry"]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (sound(), ["stream", *CALM, "protocol"]),
        (Observation(over_at=10), ["no-answer"]),
        (
            sound(headers=HEADERS | {"cache-control": "no-store"}),
            ["stream", "no-transform", *CALM, "protocol"],
        ),
        # Too short to say that anything is late.
        (sound(arrivals=[]), ["stream", "short", "retry", "protocol"]),
        (sound(version=10), ["stream", *CALM, "protocol", "http-1.0"]),
        (sound(events=[EVENT]), ["stream", *CALM, "ids", "protocol"]),
    ],
)
def test_doctor_finds(
    monkeypatch: pytest.MonkeyPatch, seen: Observation, expected: list[str]
) -> None:
    monkeypatch.setattr(doctor, "observe", lambda *args, **kwargs: seen)
    diagnosis = examine("http://testserver/")
    assert [finding.code for finding in diagnosis.findings] == expected


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (sound(retry=2500), "Browsers reconnect 2500 ms after it breaks."),
        (sound(), "Browsers reconnect after a few seconds of their own choice."),
        (Observation(over_at=10), "nothing was answered within 10 s."),
        (sound(version=10), "Browsers speak HTTP/1.0 here"),
        (sound(events=[EVENT], last_id="1"), "Events have ids"),
        (sound(events=[EVENT]), "The events seen have no id"),
    ],
)
def test_doctor_says(monkeypatch: pytest.MonkeyPatch, seen: Observation, text: str) -> None:
    monkeypatch.setattr(doctor, "observe", lambda *args, **kwargs: seen)
    assert any(text in finding.text for finding in examine("http://testserver/").findings)
