"""What a process tells of its streams: signals, and numbers."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.dispatch import Signal

import django_sse
from django_sse.asgi import get_asgi_application
from django_sse.signals import stream_closed, stream_opened
from django_sse.testing import connect

from .project.streams import Brief, Quiet


@pytest.fixture
def application(settings: Any) -> Any:
    settings.ROOT_URLCONF = "tests.health.project.urls"
    return get_asgi_application()


class Receivers:
    """Receivers of both signals, which are taken off at the end of a test."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any], int]] = []
        self._connected: list[tuple[Signal, Any]] = []

    def add(self, signal: Signal, receiver: Any, sender: Any = None) -> None:
        signal.connect(receiver, sender, weak=False)
        self._connected.append((signal, receiver))

    def note(self, name: str) -> Any:
        def receiver(signal: Signal, **kwargs: Any) -> None:
            self.told.append((name, kwargs, threading.get_ident()))

        return receiver

    def close(self) -> None:
        for signal, receiver in self._connected:
            # Of whichever sender: what was not connected is not disconnected either.
            for sender in (None, Quiet, Brief):
                signal.disconnect(receiver, sender)


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    receivers = Receivers()
    yield receivers
    receivers.close()


async def test_signals_tell_of_a_stream_from_its_beginning_to_its_end(
    application: Any, receivers: Receivers
) -> None:
    async def on_closed(signal: Signal, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        receivers.told.append(("closed", kwargs, threading.get_ident()))

    receivers.add(stream_opened, receivers.note("opened"))
    receivers.add(stream_closed, on_closed)
    receivers.add(stream_closed, receivers.note("another's"), sender=Brief)
    began = asyncio.get_running_loop().time()
    async with connect(application, "/quiet/?key=1") as stream:
        assert (await stream.receive()).data == "open"
        # Before stream() has sent anything.
        [(name, opened, thread)] = receivers.told
        assert name == "opened"
        assert opened["sender"] is Quiet
        assert opened["view"].request.GET["key"] == "1"
        assert thread != threading.get_ident()
    took = asyncio.get_running_loop().time() - began
    name, closed, thread = receivers.told[-1]
    assert len(receivers.told) == 2
    assert (name, closed["sender"], closed["reason"]) == ("closed", Quiet, "client")
    assert closed["view"] is opened["view"]
    assert 0 < closed["duration"] <= took
    assert thread == threading.get_ident()


async def test_signal_receiver_that_fails_harms_nobody(
    application: Any, receivers: Receivers, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**kwargs: Any) -> None:
        raise RuntimeError("The receiver is broken.")

    for signal in (stream_opened, stream_closed):
        receivers.add(signal, fail)
        receivers.add(signal, receivers.note("told"))
    with caplog.at_level(logging.WARNING, "django_sse"):
        async with connect(application, "/quiet/") as stream:
            assert (await stream.receive()).data == "open"
    assert [name for name, _, _ in receivers.told] == ["told", "told"]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        "The receiver is broken.",
        "The receiver is broken.",
    ]


async def test_numbers_tell_how_streams_ended(application: Any, settings: Any) -> None:
    settings.DJANGO_SSE = {"MAX_CONNECTIONS": 2}
    before = django_sse.stats()

    def change() -> dict[str, int]:
        return {
            name: number - before[name]
            for name, number in django_sse.stats().items()
            if number != before[name]
        }

    async with connect(application, "/quiet/") as stream:
        await stream.receive()
        async with connect(application, "/brief/") as brief:
            await brief.receive()
            assert change() == {"open": 2, "opened": 2, "sent": 2}
            async with connect(application, "/quiet/") as refused:
                assert refused.status_code == 503
            await brief.receive_end()
    async with connect(application, "/breaks/") as broken:
        await broken.receive_end()
    assert change() == {
        "opened": 3,
        "closed": 3,
        "sent": 2,
        "refused": 1,
        "client": 1,
        "expired": 1,
        "errors": 1,
    }
