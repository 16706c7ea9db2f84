"""The short way to Daphne's socket, and its flow control."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from django_sse.connection.outbox import Outbox, frame
from django_sse.servers import server_for
from django_sse.servers.daphne import Daphne
from tests.support.connections import (
    REQUEST,
    arrived,
    body,
    held_by_daphne,
    nothing_arrived,
)

#: More than the kernel takes for a client that does not read.
BIG = frame(bytes(range(256)) * 40_000)


def fill(connected: Any) -> int:
    """Write until the kernel takes no more; return how much it took."""
    taken = 0
    while True:
        try:
            taken += connected.send(b"." * 65536)
        except BlockingIOError:
            return taken


async def test_daphnes_socket_is_written_to() -> None:
    async with held_by_daphne() as (connection, client):
        server = server_for(connection.send, {})
        sent = connection.request.sentLength
        assert server.write(frame(b"data: shared\n\n"), 14)
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
        server = server_for(connection.send, {})
        sent = connection.request.sentLength
        change(connection.request, connection.transport)
        assert not server.write(frame(b"x"), 1)
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
        assert not server_for(connection.send, {}).write(frame(b"x"), 1)
        assert nothing_arrived(client)


async def test_daphnes_transport_gets_what_the_socket_does_not_take() -> None:
    async with held_by_daphne() as (connection, client):
        server = server_for(connection.send, {})
        # The first is taken in part, and another has to wait for its rest.
        assert server.write(BIG, len(BIG))
        assert connection.transport._tempDataBuffer
        assert not server.write(frame(b"too early"), 9)
        await connection.send(body(b"last"))
        assert await arrived(client, b"4\r\nlast\r\n") == BIG + b"4\r\nlast\r\n"


async def test_daphnes_transport_gets_all_where_the_socket_is_full() -> None:
    async with held_by_daphne() as (connection, client):
        filler = fill(connection.transport.socket)
        assert server_for(connection.send, {}).write(frame(b"data: x\n\n"), 9)
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


async def test_writer_is_told_that_the_client_left_until_it_is_detached() -> None:
    async with held_by_daphne() as (connection, _):
        outbox = Outbox(connection.send, asyncio.get_running_loop())
        other = Outbox(nowhere, asyncio.get_running_loop())
        server = server_for(connection.send, {})
        outbox._server.detach()
        server.attach(other)
        connection.transport.connectionLost(Failure(ConnectionDone()))
        assert other.gone
        assert not outbox.gone


async def test_writer_that_is_detached_is_told_nothing() -> None:
    async with held_by_daphne() as (connection, _):
        server = Daphne(connection.send, {})
        outbox = Outbox(connection.send, asyncio.get_running_loop(), server)
        server.detach()
        # What Twisted had on its way.
        server.pauseProducing()
        server.resumeProducing()
        server.stopProducing()
        assert not outbox.paused
        assert not outbox.gone


async def nowhere(message: Any) -> None:
    """Send nothing."""
