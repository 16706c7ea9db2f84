"""The shortcuts past a server's ``send()``, over connections of the servers' own classes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from django_sse.connection.outbox import Outbox
from django_sse.servers.direct import frame, shortcut_for
from tests.support.connections import (
    REQUEST,
    arrived,
    body,
    held,
    held_by_daphne,
    under_uvicorn,
)

#: More than the kernel takes for a client that does not read.
BIG = frame(bytes(range(256)) * 40_000)


def nothing_arrived(client: Any) -> bool:
    """What is written reaches a client on this machine at once."""
    with pytest.raises(BlockingIOError):
        client.recv(1)
    return True


def fill(connected: Any) -> int:
    """Write until the kernel takes no more; return how much it took."""
    taken = 0
    while True:
        try:
            taken += connected.send(b"." * 65536)
        except BlockingIOError:
            return taken


async def send(message: Any) -> None:
    """An application's own ``send()``."""


class RequestResponseCycle:
    """What a Uvicorn of the future might call a response."""

    async def send(self, message: Any) -> None:
        pass


RequestResponseCycle.__module__ = "uvicorn.protocols.http.httptools_impl"


@pytest.mark.parametrize(
    "unknown",
    [
        send,
        functools.partial(send, "message"),
        functools.partial(send, 1, 2),
        RequestResponseCycle().send,
    ],
)
def test_shortcut_is_declined_by_what_is_not_known(unknown: Any) -> None:
    assert not shortcut_for(unknown)(frame(b"x"), 1)


# Uvicorn.


async def test_uvicorns_transport_is_written_to() -> None:
    async with held(under_uvicorn) as (connection, client):
        shortcut = shortcut_for(connection.send)
        assert shortcut(frame(b"data: shared\n\n"), 14)
        await connection.send(body(b"own"))
        assert await arrived(client, b"own") == b"e\r\ndata: shared\n\n\r\n3\r\nown\r\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda cycle: setattr(cycle, "response_started", False),
        lambda cycle: setattr(cycle, "response_complete", True),
        lambda cycle: setattr(cycle, "chunked_encoding", False),
        lambda cycle: setattr(cycle, "disconnected", True),
        lambda cycle: cycle.flow.pause_writing(),
    ],
    ids=["not begun", "ended", "not chunked", "disconnected", "full"],
)
async def test_uvicorn_declines(change: Callable[[Any], None]) -> None:
    async with held(under_uvicorn) as (connection, client):
        cycle = connection.send.__self__
        before = dict(vars(cycle))
        shortcut = shortcut_for(connection.send)
        change(cycle)
        assert not shortcut(frame(b"x"), 1)
        assert nothing_arrived(client)
        # As it was, so that the response may end.
        vars(cycle).update(before)
        cycle.flow.resume_writing()


# Daphne.


async def test_daphnes_socket_is_written_to() -> None:
    async with held_by_daphne() as (connection, client):
        shortcut = shortcut_for(connection.send)
        sent = connection.request.sentLength
        assert shortcut(frame(b"data: shared\n\n"), 14)
        assert client.recv(100) == b"e\r\ndata: shared\n\n\r\n"
        assert connection.request.sentLength == sent + 14
        await connection.send(body(b"own"))
        assert await arrived(client, b"own") == b"3\r\nown\r\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda request, transport: setattr(request, "channel", None),
        lambda request, transport: setattr(
            request, "channel", SimpleNamespace(transport=transport)
        ),
        lambda request, transport: setattr(request, "_disconnected", True),
        lambda request, transport: setattr(request, "finished", 1),
        lambda request, transport: setattr(request, "startedWriting", 0),
        lambda request, transport: setattr(request, "chunked", 0),
        lambda request, transport: setattr(request.channel, "transport", object()),
        lambda request, transport: setattr(transport, "TLS", True),
        lambda request, transport: setattr(transport, "connected", 0),
        lambda request, transport: setattr(transport, "disconnecting", True),
        lambda request, transport: setattr(transport, "dataBuffer", b"waits"),
        lambda request, transport: transport.write(b"waits"),
    ],
    ids=[
        "left",
        "HTTP/2",
        "disconnected",
        "ended",
        "not begun",
        "not chunked",
        "another transport",
        "TLS",
        "closed",
        "closing",
        "full",
        "busy",
    ],
)
async def test_daphne_declines(change: Callable[[Any, Any], None]) -> None:
    async with held_by_daphne() as (connection, client):
        shortcut = shortcut_for(connection.send)
        sent = connection.request.sentLength
        change(connection.request, connection.transport)
        assert not shortcut(frame(b"x"), 1)
        assert nothing_arrived(client)
        assert connection.request.sentLength == sent
        connection.transport.connected = 1


@pytest.mark.parametrize(
    ("request_line", "begun"), [(REQUEST, False), (b"GET / HTTP/1.0\r\n\r\n", True)]
)
async def test_daphne_declines_before_a_response_and_to_old_clients(
    request_line: bytes, begun: bool
) -> None:
    async with held_by_daphne(request_line, begun=begun) as (connection, client):
        assert not shortcut_for(connection.send)(frame(b"x"), 1)
        assert nothing_arrived(client)


async def test_daphnes_transport_gets_what_the_socket_does_not_take() -> None:
    async with held_by_daphne() as (connection, client):
        shortcut = shortcut_for(connection.send)
        # The first is taken in part, and another has to wait for its rest.
        assert shortcut(BIG, len(BIG))
        assert connection.transport._tempDataBuffer
        assert not shortcut(frame(b"too early"), 9)
        await connection.send(body(b"last"))
        assert await arrived(client, b"4\r\nlast\r\n") == BIG + b"4\r\nlast\r\n"


async def test_daphnes_transport_gets_all_where_the_socket_is_full() -> None:
    async with held_by_daphne() as (connection, client):
        filler = fill(connection.transport.socket)
        assert shortcut_for(connection.send)(frame(b"data: x\n\n"), 9)
        assert await arrived(client, b"\r\n") == b"." * filler + frame(b"data: x\n\n")


async def test_writer_is_paused_by_what_daphnes_socket_does_not_take() -> None:
    async with held_by_daphne() as (connection, client):
        outbox = Outbox(connection.send, asyncio.get_running_loop())
        data = BIG.partition(b"\r\n")[2][:-2]
        ready = asyncio.Event()
        outbox.on_ready = ready.set
        assert outbox.write(body(data), len(data), BIG)
        assert outbox.blocked
        assert not outbox.write(body(b"x"), 1, frame(b"x"))
        assert await arrived(client, BIG[-256:]) == BIG
        await asyncio.wait_for(ready.wait(), 5)
        assert not outbox.blocked
        outbox.abandon()
