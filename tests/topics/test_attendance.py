"""What the broker is told of present users, and how often; brokers that fail, forget and come back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import pytest_asyncio

from django_sse.brokers import use_broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.brokers.presence import Attended, Change, Departure, Presence
from django_sse.conf import PresenceSettings, conf
from django_sse.exceptions import BrokerError
from django_sse.topics import attendance
from django_sse.topics.attendance import Register, close_idle_register, enter, leave
from tests.support.waiting import eventually


class Watched(MemoryBroker):
    """Notes its calls and what is published; fails as often as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[Change]]] = []
        self.published: list[bytes] = []
        self.failures: list[Exception] = []
        self.last_failure: Exception | None = None
        self.forget()

    def forget(self) -> None:
        def publish(topic: str, head: bytes) -> None:
            self.published.append(head.partition(b"\n")[0])

        self._attendance = type(self._attendance)(publish)

    async def attend(
        self,
        holder: str,
        changes: Sequence[Change],
        departures: Sequence[Departure],
        **times: Any,
    ) -> Attended:
        self.calls.append((holder, list(changes)))
        if self.failures:
            raise self.failures.pop(0)
        if times["lease"] == 0 and self.last_failure is not None:
            raise self.last_failure
        return await super().attend(holder, changes, departures, **times)

    def is_empty(self) -> bool:
        it = self._attendance
        return not (it._leases or it._held or it._users or it._anonymous or it._leaving)


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[Watched]:
    broker = Watched()
    before = use_broker(broker)
    yield broker
    await close_idle_register()
    use_broker(before)
    assert not attendance._seats


@pytest.fixture
def set_times(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    def set_to(lease: float, grace: float) -> None:
        monkeypatch.setitem(conf._parsed, "PRESENCE", PresenceSettings(lease, grace))

    return set_to


JOIN, LEAVE = b"event: join", b"event: leave"


async def test_nothing_stays_when_the_last_user_has_left(
    broker: Watched, set_times: Callable[[float, float], None]
) -> None:
    set_times(60, 0.1)
    enter("stream", ["a", "b"], "7")
    enter("stream", ["a", "b"], "7")  # It is counted already.
    enter("another", ["a"], None)
    enter("nowhere", [], "7")
    await eventually(lambda: len(broker.published) == 2)
    assert broker.presence("a") == Presence(("7",), 1)
    for stream in "stream", "stream", "another", "nowhere", "unknown":
        leave(stream)
    await eventually(broker.is_empty)
    assert broker.published == [JOIN, JOIN, LEAVE, LEAVE]
    register = attendance._get_register()
    assert register._task is not None
    await asyncio.wait_for(register._task, 5)
    # A new stream begins anew.
    enter("stream", ["a"], "7")
    await eventually(lambda: len(broker.published) == 5)
    leave("stream")
    await eventually(broker.is_empty)


async def test_many_idle_streams_cost_one_renewal_together(
    broker: Watched, set_times: Callable[[float, float], None]
) -> None:
    set_times(1.5, 1)
    for number in range(450):
        enter(number, [f"topic {number}"], str(number))
    await eventually(lambda: len(broker.published) == 450)
    # They are told in batches of bounded size.
    assert [len(changes) for _, changes in broker.calls] == [200, 200, 50]
    began = time.monotonic()
    await asyncio.sleep(1.6)
    renewals = broker.calls[3:]
    assert 1 <= len(renewals) <= (time.monotonic() - began) / 0.5 + 1
    assert all(changes == [] for _, changes in renewals)
    for number in range(450):
        leave(number)


async def test_a_reload_within_one_turn_is_not_told_at_all(broker: Watched) -> None:
    enter("stream", ["a"], "7")
    await eventually(lambda: broker.published)
    leave("stream")
    enter("again", ["a"], "7")
    enter("other tab", ["a"], "7")
    await eventually(lambda: len(broker.calls) == 2)
    assert broker.calls[1][1] == []
    leave("again")
    leave("other tab")


async def test_a_broker_that_fails_is_told_everything_again_under_another_name(
    broker: Watched,
    set_times: Callable[[float, float], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    set_times(1, 0.2)
    enter("stream", ["a"], "7")
    enter("anonymous", ["a"], None)
    enter("short", ["a"], "8")
    await eventually(lambda: len(broker.published) == 2)
    broker.failures = [BrokerError("Away."), BrokerError("Still away.")]
    leave("short")
    with caplog.at_level(logging.DEBUG, "django_sse"):
        await eventually(lambda: len({name for name, _ in broker.calls}) == 3)
        await eventually(lambda: not broker.failures)
    assert [it.levelname for it in caplog.records] == ["WARNING", "DEBUG"]
    # The old name's lease ends, and only the one who was told to have left does.
    await eventually(lambda: broker.published == [JOIN, JOIN, LEAVE])
    await eventually(lambda: len(broker._attendance._leases) == 1)
    assert broker.presence("a") == Presence(("7",), 1)
    leave("stream")
    leave("anonymous")
    await eventually(lambda: broker.published == [JOIN, JOIN, LEAVE, LEAVE])
    await eventually(broker.is_empty)


async def test_a_bug_of_a_broker_is_logged_with_its_traceback(
    broker: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    broker.failures = [ZeroDivisionError()]
    enter("stream", ["a"], "7")
    await eventually(lambda: broker.published)
    assert "ZeroDivisionError" in caplog.text
    leave("stream")


async def test_a_broker_that_forgot_is_told_everything_again(
    broker: Watched, set_times: Callable[[float, float], None]
) -> None:
    set_times(1, 0.5)
    enter("stream", ["a"], "7")
    enter("anonymous", ["a"], None)
    await eventually(lambda: broker.published == [JOIN])
    broker.forget()
    await eventually(lambda: broker.published == [JOIN, JOIN])
    assert broker.presence("a") == Presence(("7",), 1)
    leave("stream")
    leave("anonymous")


async def test_a_loop_that_stood_still_lets_its_users_leave_later(
    broker: Watched, set_times: Callable[[float, float], None]
) -> None:
    """Its lease has ended meanwhile, so its first call removes nobody."""
    set_times(0.6, 0.3)
    enter("stream", ["a"], "7")
    await eventually(lambda: broker.published)
    leave("stream")
    await eventually(lambda: broker._attendance._leaving)
    time.sleep(1)  # noqa: ASYNC251 - this is the point
    await eventually(lambda: broker.published == [JOIN, LEAVE])
    await eventually(broker.is_empty)


async def test_a_register_ends_although_its_broker_fails_at_last(
    broker: Watched, set_times: Callable[[float, float], None]
) -> None:
    set_times(60, 0.01)
    broker.last_failure = BrokerError("Away.")
    enter("stream", ["a"], "7")
    await eventually(lambda: broker.published)
    leave("stream")
    register = attendance._get_register()
    assert register._task is not None
    async with asyncio.timeout(5):
        await register._task
    assert broker.published == [JOIN, LEAVE]


async def test_users_of_a_process_that_died_leave_as_its_lease_ends(
    broker: Watched, set_times: Callable[[float, float], None]
) -> None:
    """Not only with the next renewal, which comes after 20 seconds here."""
    set_times(60, 10)
    enter("stream", ["a"], "7")
    await eventually(lambda: broker.published)
    theirs = [Change("a", "8", 1, b"event: join\n")]
    await broker.attend("dead", theirs, [], lease=1, grace=10, timeout=1)
    enter("tab", ["a"], None)
    await eventually(lambda: broker.published == [JOIN, JOIN, LEAVE])
    assert broker.presence("a") == Presence(("7",), 1)
    leave("stream")
    leave("tab")


async def test_closing_tells_the_broker_at_once_if_it_is_there(broker: Watched) -> None:
    enter("stream", ["a"], "7")
    enter("anonymous", ["a"], None)
    await eventually(lambda: broker.published)
    leave("stream")
    await eventually(lambda: broker._attendance._leaving)
    await close_idle_register()
    assert broker.published == [JOIN, LEAVE]
    assert broker.is_empty()
    enter("away", ["a"], "7")
    await eventually(lambda: len(broker.published) == 3)
    broker.failures = [BrokerError("Away.")] * 9
    await close_idle_register()
    await close_idle_register()
    for stream in "away", "anonymous":
        leave(stream)
    broker.failures.clear()


async def test_each_broker_has_a_register_of_its_own(broker: Watched) -> None:
    enter("first", ["a"], "7")
    other = Watched()
    use_broker(other)
    enter("second", ["a"], "8")
    await eventually(lambda: other.published)
    leave("first")
    await eventually(lambda: broker._attendance._leaving)
    leave("second")


async def test_registers_of_closed_loops_are_forgotten(broker: Watched) -> None:
    closed = asyncio.new_event_loop()
    attendance._registers[closed] = Register(broker, closed)
    closed.close()
    enter("stream", ["a"], "7")
    assert closed not in attendance._registers
    leave("stream")


@pytest.mark.parametrize("key", ["x" * 256, "a\x00b", "a\nb", "a\x1fb"])
async def test_a_key_that_no_broker_can_store_is_refused(broker: Watched, key: str) -> None:
    with pytest.raises(ValueError, match="at most 255 printable characters"):
        enter("stream", ["a"], key)
    assert broker.calls == []


async def test_a_user_without_a_key_is_anonymous(broker: Watched) -> None:
    enter("stream", ["a"], "")
    await eventually(lambda: broker.calls)
    assert broker.presence("a") == Presence((), 1)
    leave("stream")
