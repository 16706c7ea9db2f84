"""The end of a process, of which its streams are told."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from django_sse import SSEView
from django_sse.connection.shutdown import Shutdown
from django_sse.testing import connect
from tests.support.connections import REQUEST, arrived, client_of, everything, under_hypercorn
from tests.support.waiting import eventually


class Endless(SSEView):
    """Stays open, and notes how it ended."""

    heartbeat = None
    reasons: Any = None

    async def stream(self) -> None:
        await self.send("open")
        await asyncio.Event().wait()

    async def disconnect(self) -> None:
        self.reasons.append(self.close_reason)


@pytest.fixture
def handlers() -> Iterator[Callable[[], list[Any]]]:
    """``handlers()`` returns what handles the signals; it is as before after the test."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield lambda: [signal.getsignal(number) for number in numbers]
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_hypercorn_is_asked_whether_it_ends(ending: Any) -> None:
    reasons: list[str] = []
    application = Endless.as_asgi(reasons=reasons)

    async def served(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            # Its word comes after the streams' time is over.
            raise NotImplementedError
        await application(scope, receive, send)

    async with under_hypercorn(served) as port:
        client = client_of(port)
        client.sendall(REQUEST)
        await arrived(client, b"data: open\n\n")
        assert not ending.draining
    with client:
        last = await everything(client)
    assert b"retry: " in last
    assert last.endswith(b"0\r\n\r\n")
    assert reasons == ["shutdown"]
    assert ending.draining


def test_signals_are_left_alone_outside_of_the_main_thread(
    handlers: Callable[[], list[Any]],
) -> None:
    before, errors = handlers(), []

    async def watch() -> None:
        Shutdown().watch(asyncio.get_running_loop())

    def run() -> None:
        try:
            asyncio.run(watch())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(5)
    assert errors == []
    assert handlers() == before


def test_worker_that_was_forked_begins_anew(
    handlers: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutdown = Shutdown()
    shutdown.draining = True
    monkeypatch.setattr("django_sse.connection.shutdown.os.getpid", lambda: -1)
    loop = asyncio.new_event_loop()
    shutdown.watch(loop)
    loop.close()
    assert not shutdown.draining
    assert handlers() == [shutdown._on_signal] * 2


def test_loop_that_was_closed_does_not_keep_the_others_open(
    handlers: Callable[[], list[Any]],
) -> None:
    shutdown, drained = Shutdown(), []
    closed, loop = asyncio.new_event_loop(), asyncio.new_event_loop()
    for each in (closed, loop):
        shutdown.watch(each)
    closed.close()
    shutdown._drain = drained.append  # type: ignore[assignment]
    shutdown.begin()
    assert shutdown.draining
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert drained == [loop]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_handled_as_without_us(
    handlers: Callable[[], list[Any]], number: signal.Signals
) -> None:
    handled: list[tuple[int, bool]] = []
    loop = asyncio.new_event_loop()
    shutdown = Shutdown()

    def handler(number: int, frame: FrameType | None) -> None:
        handled.append((number, shutdown.draining))

    signal.signal(number, handler)
    shutdown.watch(loop)
    assert handlers() == [shutdown._on_signal] * 2
    signal.raise_signal(number)
    assert handled == [(number, True)]
    loop.close()


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_process_ends_by_the_signal_that_nobody_handles_or_ignores_it(
    handlers: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch, handler: Any
) -> None:
    raise_signal, raised = signal.raise_signal, []

    def note(number: int) -> None:
        # Before the process would have ended.
        raised.append((number, signal.getsignal(number)))

    monkeypatch.setattr(signal, "raise_signal", note)
    loop = asyncio.new_event_loop()
    signal.signal(signal.SIGTERM, handler)
    shutdown = Shutdown()
    shutdown.watch(loop)
    raise_signal(signal.SIGTERM)
    ends = handler == signal.SIG_DFL
    assert shutdown.draining is ends
    assert raised == ([(signal.SIGTERM, signal.SIG_DFL)] if ends else [])
    loop.close()


class Flood(Endless):
    """Sends more than its client takes."""

    max_duration = 60

    async def stream(self) -> None:
        while True:
            await self.send("x" * 70_000)


async def test_client_that_takes_nothing_is_cut_off_at_the_last_deadline(
    settings: Any, ending: Any
) -> None:
    reasons: list[str] = []
    flood, over = Flood.as_asgi(reasons=reasons), asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await flood(scope, receive, send)
        over.set()

    async with connect(application) as stream:
        await stream.receive()
        await asyncio.sleep(0.1)  # Until no more is taken.
        for seconds in (0.1, 60):
            settings.DJANGO_SSE = {"DRAIN_SECONDS": seconds}
            ending.begin()
            await asyncio.sleep(0)
        await eventually(lambda: reasons)
        await asyncio.sleep(0.3)
        assert not over.is_set()
        settings.DJANGO_SSE = {"DRAIN_SECONDS": 0.1}
        ending.begin()
        await asyncio.wait_for(over.wait(), 5)
    assert reasons == ["shutdown"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handler_that_was_hooked_over_ours_is_called_once(
    handlers: Callable[[], list[Any]], number: signal.Signals
) -> None:
    called: list[str] = []
    shutdown = Shutdown()
    loops = [asyncio.new_event_loop() for _ in range(3)]
    signal.signal(number, lambda *_: called.append("server"))
    shutdown.watch(loops[0])
    ours: Any = signal.getsignal(number)

    def library(*args: Any) -> None:
        """Passes on to whoever was there before."""
        called.append("library")
        ours(*args)

    signal.signal(number, library)
    for loop in loops[1:]:
        # We hook over it, and are hooked over again in the end.
        shutdown.watch(loop)
        signal.raise_signal(number)
        assert called == ["library", "server"]
        called.clear()
    signal.signal(number, library)
    signal.raise_signal(number)
    assert called == ["library", "server"]
    for loop in loops:
        loop.close()


async def test_process_that_ends_by_a_signal_waits_for_its_streams(
    handlers: Callable[[], list[Any]], ending: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raise_signal, steps = signal.raise_signal, []
    monkeypatch.setattr(signal, "raise_signal", steps.append)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(ending, "_previous", {})
    monkeypatch.setattr(ending, "_loops", {})

    class Slow(Endless):
        async def disconnect(self) -> None:
            await asyncio.sleep(0.2)
            steps.append(self.close_reason)

    async with connect(Slow) as stream:
        await stream.receive()
        raise_signal(signal.SIGTERM)
        await stream.receive_end()
        await eventually(lambda: len(steps) == 2)
    assert steps == ["shutdown", signal.SIGTERM]


async def test_disconnect_that_hangs_holds_the_process_no_longer_than_it_may(
    ending: Any, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DJANGO_SSE = {"DRAIN_SECONDS": 0.3}

    class Hanging(Endless):
        async def disconnect(self) -> None:
            await asyncio.Event().wait()

    async with connect(Hanging) as stream:
        await stream.receive()
        began = asyncio.get_running_loop().time()
        ending.begin()
        await stream.disconnect()
    assert asyncio.get_running_loop().time() - began < 3.5
    assert "Hanging.disconnect() was not over before its process had to end." in caplog.text


async def test_stream_that_cannot_be_told_costs_the_others_nothing(
    ending: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(Endless):
        pass

    shut_down = SSEView.shut_down

    def fail(view: SSEView, deadline: float | None = None) -> None:
        if isinstance(view, Odd):
            raise RuntimeError("not foreseen")
        shut_down(view, deadline)

    monkeypatch.setattr(SSEView, "shut_down", fail)
    reasons: list[str] = []
    async with (
        connect(Odd.as_view(reasons=[])) as odd,
        connect(Endless.as_view(reasons=reasons)) as stream,
    ):
        await odd.receive()
        await stream.receive()
        ending.begin()
        await stream.receive_end()
        await eventually(lambda: reasons == ["shutdown"])
    assert "Odd could not be told of the shutdown." in caplog.text


def test_handler_that_calls_us_in_vain_is_left_alone(handlers: Callable[[], list[Any]]) -> None:
    shutdown, called = Shutdown(), []
    loop = asyncio.new_event_loop()

    def library(*args: Any) -> None:
        called.append("library")
        shutdown._on_signal(*args)

    # It was there before us, and hooks itself over us again.
    signal.signal(signal.SIGTERM, library)
    shutdown.watch(loop)
    signal.signal(signal.SIGTERM, library)
    signal.raise_signal(signal.SIGTERM)
    assert called == ["library"]
    assert shutdown.draining
    loop.close()
