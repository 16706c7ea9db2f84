"""Heartbeats of a stream: when they beat, and what happens to those that fail."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from rest_framework import serializers

from django_sse import Heartbeat, ServerSentEvent, SSEView, StreamClosed
from django_sse.streams.heartbeats import SLOTS, Pulse, rounds
from django_sse.testing import StreamClient, connect

FAST = 0.01  # seconds
BEAT = ServerSentEvent("beat", event="heartbeat")


def sync_beat() -> ServerSentEvent:
    return ServerSentEvent("sync")


async def async_beat() -> ServerSentEvent:
    await asyncio.sleep(0)
    return ServerSentEvent("async")


def object_beat() -> ServerSentEvent:
    return ServerSentEvent({"an": "object"})


class Quiet(SSEView):
    """A stream that sends nothing."""

    async def stream(self) -> None:
        await asyncio.Event().wait()


async def blocks(stream: StreamClient, number: int) -> list[ServerSentEvent]:
    """The next blocks, without the comment that opens a stream."""
    assert await stream.receive_block() == ServerSentEvent(comments="")
    return [await stream.receive_block() for _ in range(number)]


class Clock:
    """As much of an event loop as heartbeats need, with a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def is_closed(self) -> bool:
        return False

    def call_at(self, when: float, call: Callable[[], None], context: Any) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def fire(self, *, late: float = 0.0) -> None:
        timer = self.timers.pop(0)
        self.now = timer.when() + late
        timer.call()


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self._when = when
        self.call = call
        self.cancelled = False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.cancelled = True


class Beating:
    """A stream that notes its beats; ``also`` is called with each."""

    def __init__(self, also: Callable[[], None] = lambda: None) -> None:
        self.beats: list[bytes] = []
        self.also = also

    def on_round(self, message: dict[str, Any], size: int, chunk: bytes) -> None:
        assert size == len(message["body"])
        assert chunk == b"%x\r\n%b\r\n" % (size, message["body"])
        self.beats.append(message["body"])
        self.also()


def test_first_beats_are_spread_over_the_period() -> None:
    clock: Any = Clock()
    joined = rounds(clock, 10, b"beat")
    streams = [Beating() for _ in range(1000)]
    slots = [joined.join(stream) for stream in streams]
    firsts = [timer.when() - 100 for timer in clock.timers]
    # One timer for all streams of a slot; none fires before now, none after a period.
    assert len(firsts) <= SLOTS
    tenths = [sum(i < first <= i + 1 for first in firsts) for i in range(10)]
    assert sum(tenths) == len(firsts)
    assert min(firsts) >= 1.25
    assert min(tenths[2:]) >= 5
    sizes = Counter(map(id, slots))
    assert max(sizes.values()) < 1000 / SLOTS * 3
    for stream, slot in zip(streams, slots, strict=True):
        slot.leave(stream)
    assert all(timer.cancelled for timer in clock.timers)
    assert rounds(clock, 10, b"beat") is not joined


def test_beats_come_every_period_and_do_not_drift() -> None:
    clock: Any = Clock()
    stream = Beating()
    rounds(clock, 10, BEAT.encode()).join(stream)
    first = clock.timers[0].when()
    for i in range(5):
        assert clock.timers[0].when() == pytest.approx(first + 10 * i)
        clock.fire(late=3)
    assert stream.beats == [BEAT.encode()] * 5


def test_beats_that_were_missed_are_not_made_up_for() -> None:
    clock: Any = Clock()
    stream = Beating()
    rounds(clock, 10, b"beat").join(stream)
    clock.fire(late=1000)
    assert clock.timers[0].when() == clock.now
    clock.fire()
    assert clock.timers[0].when() == clock.now + 10
    assert len(stream.beats) == 2


def test_a_beat_that_fails_or_ends_another_stream_spares_the_rest(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.randrange", lambda stop: 0)
    clock: Any = Clock()

    def fail() -> None:
        raise RuntimeError("no beat today")

    joined = rounds(clock, 10, b"beat")
    ended, last = Beating(), Beating()
    failing, ending = Beating(fail), Beating(lambda: slot.leave(ended))
    for stream in failing, ending, ended, last:
        slot = joined.join(stream)
    clock.fire()
    assert [len(stream.beats) for stream in (failing, ending, ended, last)] == [1, 1, 0, 1]
    assert "The heartbeat of Beating failed." in caplog.text


async def test_slow_callable_is_not_called_twice_at_a_time() -> None:
    called, proceed = asyncio.Semaphore(0), asyncio.Event()
    running = most = 0

    async def slow() -> ServerSentEvent:
        nonlocal running, most
        running += 1
        most = max(most, running)
        called.release()
        await proceed.wait()
        running -= 1
        return BEAT

    beats: asyncio.Queue[Any] = asyncio.Queue()
    pulse = Pulse(Heartbeat(FAST, slow), beats.put_nowait, asyncio.get_running_loop(), None)
    await called.acquire()
    await asyncio.sleep(10 * FAST)
    proceed.set()
    assert await beats.get() == BEAT
    await called.acquire()
    assert most == 1
    pulse.stop()


async def test_stop_ends_a_callable_that_runs() -> None:
    called, ended = asyncio.Event(), asyncio.Event()

    async def slow() -> ServerSentEvent:
        called.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return BEAT

    beats: list[Any] = []
    pulse = Pulse(Heartbeat(FAST, slow), beats.append, asyncio.get_running_loop(), None)
    await called.wait()
    pulse.stop()
    await ended.wait()
    await asyncio.sleep(5 * FAST)
    assert beats == []


async def test_stop_before_a_callable_has_begun_leaves_no_coroutine() -> None:
    beats: list[Any] = []
    loop = asyncio.get_running_loop()
    fired = asyncio.Event()

    def provider() -> Any:
        # Stopped in the very turn in which the task is made.
        loop.call_soon(lambda: (pulse.stop(), fired.set()))
        return async_beat()

    pulse = Pulse(Heartbeat(FAST, provider), beats.append, loop, None)
    await fired.wait()
    await asyncio.sleep(0)
    gc.collect()
    assert beats == []


async def test_callable_may_return_any_awaitable() -> None:
    loop = asyncio.get_running_loop()
    beats: asyncio.Queue[Any] = asyncio.Queue()

    def provider() -> Any:
        future = loop.create_future()
        loop.call_soon(future.set_result, BEAT)
        return future

    pulse = Pulse(Heartbeat(FAST, provider), beats.put_nowait, loop, None)
    assert [await beats.get() for _ in range(2)] == [BEAT, BEAT]
    await settled(pulse)


async def test_callable_that_cancels_itself_is_logged_and_beats_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = 0

    async def provider() -> ServerSentEvent:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError
        return BEAT

    beats: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    pulse = Pulse(Heartbeat(FAST, provider), beats.put_nowait, loop, None)
    assert await beats.get() == BEAT
    await settled(pulse)
    [record] = caplog.records
    assert "cancelled itself" in record.message


async def settled(pulse: Pulse) -> None:
    """Stop, and wait for a callable that runs."""
    if task := pulse.stop():
        await asyncio.wait([task])


async def test_stream_waits_for_the_callable_that_it_stops() -> None:
    order: list[str] = []

    async def slow() -> ServerSentEvent:
        order.append("called")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            order.append("ended")
            raise RuntimeError("It failed to end.")
        return BEAT

    class Slow(Quiet):
        heartbeat = Heartbeat(FAST, slow)

    async with connect(Slow) as stream:
        await stream.receive_nothing(10 * FAST)
        assert order == ["called"]
    assert order == ["called", "ended"]


# In a stream.


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"PERIOD": FAST}, ServerSentEvent(comments="heartbeat")),
        ({"PERIOD": timedelta(seconds=FAST)}, ServerSentEvent(comments="heartbeat")),
        ({"PERIOD": FAST, "EVENT": {"event": "e", "data": "d"}}, ServerSentEvent("d", "e")),
        ({"PERIOD": FAST, "EVENT": BEAT}, BEAT),
        ({"PERIOD": FAST, "EVENT": f"{__name__}.sync_beat"}, ServerSentEvent("sync")),
        ({"PERIOD": FAST, "EVENT": f"{__name__}.async_beat"}, ServerSentEvent("async")),
        ({"PERIOD": FAST, "EVENT": f"{__name__}.object_beat"}, ServerSentEvent('{"an":"object"}')),
        ({"PERIOD": FAST, "EVENT": async_beat}, ServerSentEvent("async")),
        ({"PERIOD": FAST, "EVENT": {"data": {"a": 1}}}, ServerSentEvent('{"a":1}')),
        ({"PERIOD": FAST, "EVENT": {"data": "a\nb", "id": "7", "retry": 9}}, None),
    ],
)
async def test_stream_beats_as_the_setting_says(
    setting: dict[str, Any], expected: ServerSentEvent | None
) -> None:
    expected = expected or ServerSentEvent("a\nb", id="7", retry=9)
    with override_settings(DJANGO_SSE={"HEARTBEAT": setting}):
        async with connect(Quiet) as stream:
            assert await blocks(stream, 3) == [expected] * 3


@pytest.mark.parametrize(
    "setting", [None, {"PERIOD": None}, {"PERIOD": 0}, {"PERIOD": timedelta()}]
)
async def test_heartbeat_that_is_off_never_beats(setting: Any) -> None:
    with override_settings(DJANGO_SSE={"HEARTBEAT": setting}):
        async with connect(Quiet) as stream:
            await stream.receive_nothing()
            assert stream.received == b":\n\n"


async def test_view_has_its_own_heartbeat() -> None:
    class Own(Quiet):
        heartbeat = Heartbeat(FAST, BEAT)

    class Off(Quiet):
        heartbeat = None

    with override_settings(DJANGO_SSE={"HEARTBEAT": {"PERIOD": FAST}}):
        async with connect(Own) as stream:
            assert await blocks(stream, 2) == [BEAT] * 2
        async with connect(Off) as stream:
            await stream.receive_nothing()
            assert stream.received == b":\n\n"
        async with connect(Quiet.as_view(heartbeat=Heartbeat(FAST, BEAT))) as stream:
            assert await blocks(stream, 2) == [BEAT] * 2


async def test_heartbeat_changes_while_the_stream_runs() -> None:
    steps: asyncio.Queue[Callable[[SSEView], Any]] = asyncio.Queue()

    class Changing(SSEView):
        heartbeat = Heartbeat(FAST, {"data": "own"})

        async def stream(self) -> None:
            while True:
                change = await steps.get()
                change(self)
                await self.send("changed")

    async def beats_after(stream: StreamClient, change: Callable[[SSEView], Any]) -> str:
        steps.put_nowait(change)
        while (await stream.receive()).data != "changed":
            pass
        return str((await stream.receive()).data)

    other = Heartbeat(FAST, {"data": "other"})
    async with connect(Changing) as stream:
        assert (await stream.receive()).data == "own"
        assert await beats_after(stream, lambda view: view.start_heartbeat(other)) == "other"
        assert await beats_after(stream, lambda view: view.start_heartbeat()) == "own"
        assert await beats_after(stream, lambda v: v.start_heartbeat(FAST, {"data": "3"})) == "3"
        assert await beats_after(stream, lambda v: v.start_heartbeat(event=async_beat)) == "async"
        steps.put_nowait(lambda view: view.stop_heartbeat())
        while (await stream.receive()).data != "changed":
            pass
        await stream.receive_nothing()
        steps.put_nowait(lambda view: view.start_heartbeat(0))
        assert (await stream.receive()).data == "changed"
        await stream.receive_nothing()
        period = timedelta(seconds=FAST)
        assert await beats_after(stream, lambda v: v.start_heartbeat(period, BEAT)) == "beat"


async def test_start_heartbeat_refuses_what_is_wrong() -> None:
    refused: list[Exception] = []

    class Wrong(SSEView):
        heartbeat = Heartbeat(FAST, BEAT)

        async def connect(self) -> None:
            try:
                self.start_heartbeat()
            except StreamClosed as error:
                refused.append(error)

        async def stream(self) -> None:
            try:
                self.start_heartbeat(-1)
            except ImproperlyConfigured as error:
                refused.append(error)
            await asyncio.Event().wait()

    async with connect(Wrong) as stream:
        # The one that ran goes on.
        assert await blocks(stream, 2) == [BEAT] * 2
    assert ["not begun" in str(refused[0]), "got -1" in str(refused[1])] == [True, True]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_failing_callable_is_logged_and_beats_go_on(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def beat() -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("no beat today")
        return "not an event" if calls == 2 else BEAT

    async def later() -> Any:
        await asyncio.sleep(0)
        return beat()

    class Failing(Quiet):
        heartbeat = Heartbeat(FAST, later if asynchronous else beat)

    async with connect(Failing) as stream:
        assert await blocks(stream, 2) == [BEAT] * 2
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.name for record in errors] == ["django_sse"] * 2
    assert all("this beat is left out" in record.getMessage() for record in errors)
    assert [record.exc_info and str(record.exc_info[1])[:13] for record in errors] == [
        "no beat today",
        "The heartbeat",
    ]


async def test_heartbeat_does_not_keep_a_finished_stream_open() -> None:
    class Finished(SSEView):
        heartbeat = Heartbeat(FAST, async_beat)

        async def stream(self) -> None:
            await asyncio.sleep(3 * FAST)
            await self.send("last")

    async with connect(Finished) as stream:
        body = await stream.read()
    assert body.endswith(b"data: last\n\n")


async def test_beats_never_fall_into_an_event() -> None:
    class Busy(SSEView):
        heartbeat = Heartbeat(FAST / 10, BEAT)

        async def stream(self) -> None:
            for i in range(300):
                await self.send("\n".join(str(i) * 50), id=str(i))
                if i % 30 == 0:
                    await asyncio.sleep(FAST)

    async with connect(Busy) as stream:
        await stream.read()
    events = [event for event in stream.blocks if event.id is not None]
    assert events == [ServerSentEvent("\n".join(str(i) * 50), id=str(i)) for i in range(300)]
    rest = [event for event in stream.blocks if event.id is None and event.data]
    assert rest
    assert set(rest) == {BEAT}


@pytest.mark.django_db(transaction=True)
async def test_event_that_is_an_object_goes_the_way_of_send() -> None:
    threads: set[int] = set()

    class NameSerializer(serializers.Serializer[Any]):
        def to_representation(self, instance: Any) -> Any:
            threads.add(threading.get_ident())
            return {"users": User.objects.count(), "name": instance.username}

    def beat() -> ServerSentEvent:
        return ServerSentEvent(User(username="ada"), event="beat")

    class Beating(Quiet):
        heartbeat = Heartbeat(FAST, beat)
        serializer_classes = {User: NameSerializer}
        serialize_in_thread = True

    async with connect(Beating) as stream:
        for _ in range(3):
            assert (await stream.receive()).data == '{"users":0,"name":"ada"}'
    assert threads
    assert threading.get_ident() not in threads


async def test_event_that_is_an_object_which_cannot_be_sent_is_logged_and_beats_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    beats = iter([object(), {"n": 1}, {"n": 2}])

    def beat() -> ServerSentEvent:
        return ServerSentEvent(next(beats))

    class Beating(Quiet):
        heartbeat = Heartbeat(FAST, beat)

    async with connect(Beating) as stream:
        assert (await stream.receive()).data == '{"n":1}'
        assert (await stream.receive()).data == '{"n":2}'
    assert "The heartbeat of test_event_that_is_an_object_which" in caplog.text


async def test_text_of_a_beat_goes_out_as_it_is() -> None:
    class Enveloped(Quiet):
        heartbeat = Heartbeat(FAST, lambda: ServerSentEvent("beat"))

        def serialize(self, obj: Any) -> str:
            return f"<{obj}>"

    async with connect(Enveloped) as stream:
        assert (await stream.receive()).data == "beat"


async def test_start_heartbeat_takes_one_or_its_parts() -> None:
    class Starting(SSEView):
        heartbeat = None

        async def stream(self) -> None:
            with pytest.raises(TypeError, match="takes a Heartbeat alone"):
                self.start_heartbeat(Heartbeat(5), event={"data": "x"})
            with override_settings(DJANGO_SSE={"HEARTBEAT": {"PERIOD": FAST}}):
                self.start_heartbeat(event={"data": "own"})
            await asyncio.Event().wait()

    async with connect(Starting) as stream:
        assert (await stream.receive()).data == "own"


async def test_event_that_is_serialized_as_the_stream_ends_is_left_out() -> None:
    begun, go = threading.Event(), threading.Event()

    class Slow(serializers.Serializer[Any]):
        def to_representation(self, instance: Any) -> Any:
            begun.set()
            go.wait(10)
            return {}

    class Beating(SSEView):
        heartbeat = Heartbeat(FAST, lambda: ServerSentEvent(User(username="ada")))
        serializer_classes = {User: Slow}
        serialize_in_thread = True

        async def stream(self) -> None:
            await asyncio.to_thread(begun.wait, 10)
            await self.send("last")
            asyncio.get_running_loop().call_later(0.05, go.set)

    async with connect(Beating) as stream:
        assert (await stream.receive()).data == "last"
        await stream.receive_end()
