"""``manage.py sse_stats``, where nobody answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_sse.brokers import use_broker
from django_sse.brokers.redis import RedisBroker
from django_sse.exceptions import BrokerError
from django_sse.management.commands import sse_stats


@pytest.fixture(autouse=True)
def redis() -> Iterator[None]:
    """A broker that is not asked."""
    broker = RedisBroker("redis://127.0.0.1:1/0", {})
    before = use_broker(broker)
    yield
    use_broker(before)
    broker.close()


def test_watching_goes_on_while_the_broker_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stats = {"open": 3, "opened": 5}
    rounds: list[Any] = [BrokerError("gone"), [], [{"process": "a:1", "id": "1", "stats": stats}]]
    slept: list[float] = []

    def reports(*, wait: float) -> Any:
        if isinstance(rounds[0], Exception):
            raise rounds.pop(0)
        return rounds.pop(0)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if not rounds:
            raise KeyboardInterrupt

    monkeypatch.setattr(sse_stats, "reports", reports)
    monkeypatch.setattr("django_sse.management.commands.sse_stats.time.sleep", sleep)
    call_command("sse_stats", "--watch", "7")
    written = capsys.readouterr()
    away, nobody = written.err.splitlines()
    assert "The broker is away: gone" in away
    assert "No process answered within 1 s." in nobody
    assert [line.split()[:3] for line in written.out.splitlines()] == [
        ["process", "open", "opened"],
        ["a:1", "3", "5"],
        ["all", "3", "5"],
    ]
    assert slept == [7, 7, 7]


@pytest.mark.parametrize("seconds", ["0", "-1", "86400", "nan", "soon"])
@pytest.mark.parametrize("option", ["--wait", "--watch"])
def test_seconds_are_refused_that_nobody_can_wait(option: str, seconds: str) -> None:
    with pytest.raises(CommandError, match=f"argument {option}: invalid _seconds value"):
        call_command("sse_stats", f"{option}={seconds}")
