"""What every server's class keeps, over connections of the servers' own classes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from django_sse.connection.outbox import Outbox, frame
from django_sse.servers import SERVERS, base, keeps_cancelled, server_for, sockets
from django_sse.servers.base import Server
from django_sse.servers.daphne import Daphne
from django_sse.servers.granian import Granian
from django_sse.servers.gunicorn import Gunicorn
from django_sse.servers.hypercorn import Hypercorn
from django_sse.servers.uvicorn import Uvicorn
from tests.support.connections import (
    arrived,
    body,
    everything,
    held,
    held_by_daphne,
    held_by_granian,
    http2_request,
    under_gunicorn,
    under_hypercorn,
    under_toy,
    under_uvicorn,
)
from tests.support.waiting import eventually

#: More than the kernel takes for a client that does not read.
BIG = 8_000_000

Held = Callable[[], AbstractAsyncContextManager[tuple[Any, Any]]]

EACH: dict[type[Server], Held] = {
    Uvicorn: partial(held, under_uvicorn),
    Hypercorn: partial(held, under_hypercorn),
    Daphne: held_by_daphne,
    Granian: held_by_granian,
    Gunicorn: partial(held, under_gunicorn),
}
#: A server that this package does not know.
TOY: dict[type[Server], Held] = {Server: partial(held, under_toy)}
SHARED: dict[str, Held] = {
    "hypercorn": partial(held, under_hypercorn, http2_request()),
    "granian": partial(held_by_granian, "2"),
}


def each(servers: dict[type[Server], Held]) -> Any:
    ids = [server.__name__.lower() for server in servers]
    return pytest.mark.parametrize(("kind", "holding"), list(servers.items()), ids=ids)


each_known = each(EACH)
each_server = each({**EACH, **TOY})


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the sockets again for each question."""
    monkeypatch.setattr(sockets, "FRESH_SECONDS", -1)


def server_of(connection: Any) -> Server:
    return server_for(connection.send, connection.scope)


def test_every_known_server_is_tried_here() -> None:
    assert set(SERVERS) == {*EACH, *TOY}


@each_server
async def test_server_is_known_by_its_send(kind: type[Server], holding: Held) -> None:
    async with holding() as (connection, _):
        assert type(server_of(connection)) is kind
        # None takes the connection of another for its own.
        owners = {it for it in SERVERS if it.owns(connection.send)}
        assert owners == {kind, Server}


@each_server
async def test_wrapped_send_is_of_the_general_case(kind: type[Server], holding: Held) -> None:
    async with holding() as (connection, client):

        async def send(message: Any) -> None:
            await connection.send(message)

        server = server_for(send, connection.scope)
        assert type(server) is Server
        outbox = Outbox(send, asyncio.get_running_loop())
        assert not outbox.blocked
        assert outbox.write(body(b"data: x\n\n"), 9, frame(b"data: x\n\n"))
        await arrived(client, b"data: x\n\n")
        await outbox.aclose()


@each_server
async def test_bytes_that_take_another_way_to_the_server_are_not_written_past_it(
    kind: type[Server], holding: Held
) -> None:
    async with holding() as (connection, client):
        taken: list[bytes] = []

        async def bridge(message: Any) -> None:
            taken.append(message["body"])
            await connection.send(message)

        # As where a middleware has wrapped the response: the server is known all the same.
        outbox = Outbox(bridge, asyncio.get_running_loop(), server_of(connection))
        assert outbox.write(body(b"data: x\n\n"), 9, frame(b"data: x\n\n"))
        await arrived(client, b"data: x\n\n")
        assert taken == [b"data: x\n\n"]
        await outbox.aclose()


@each_server
async def test_chunk_arrives_once_whichever_way_it_takes(kind: type[Server], holding: Held) -> None:
    async with holding() as (connection, client):
        outbox = Outbox(connection.send, asyncio.get_running_loop(), server_of(connection))
        for number in range(20):
            data = b"data: %d\n\n" % number
            await eventually(partial(outbox.write, body(data), len(data), frame(data)))
        received = await arrived(client, b"data: 19\n\n")
        assert [received.count(b"data: %d\n\n" % number) for number in range(20)] == [1] * 20
        assert outbox.written == sum(len(b"data: %d\n\n" % number) for number in range(20))
        await outbox.aclose()


@each({kind: it for kind, it in {**EACH, **TOY}.items() if kind is not Granian})
async def test_full_connection_blocks_until_its_client_reads(
    kind: type[Server], holding: Held
) -> None:
    async with holding() as (connection, client):
        outbox = Outbox(connection.send, asyncio.get_running_loop(), server_of(connection))
        ready = asyncio.Event()
        outbox.on_ready = ready.set
        data = b"." * BIG
        assert outbox.write(body(data), len(data), frame(data))
        # A server may say it with the next write only.
        last = b"taken" if outbox.write(body(b"taken"), 5, frame(b"taken")) else b"."
        assert outbox.blocked
        assert not outbox.write(body(b"refused"), 7, frame(b"refused"))
        ready.clear()
        received = b""
        while received.count(b".") < BIG or last not in received:
            received += await arrived(client, last)
        assert received.count(b".") == BIG
        assert b"refused" not in received
        await asyncio.wait_for(ready.wait(), 5)
        assert not outbox.blocked
        await outbox.aclose()


@each_known
async def test_unsent_is_what_the_client_has_not_taken(kind: type[Server], holding: Held) -> None:
    async with holding() as (connection, client):
        server = server_of(connection)
        await eventually(lambda: server.unsent() == 0)
        sending = asyncio.ensure_future(connection.send(body(b"." * BIG + b"end")))
        await eventually(server.unsent)
        await arrived(client, b"end")
        await eventually(lambda: server.unsent() == 0)
        await sending


@each({kind: EACH[kind] for kind in (Uvicorn, Hypercorn, Daphne)})
async def test_unsent_counts_what_the_server_itself_holds(
    kind: type[Server], holding: Held
) -> None:
    async with holding() as (connection, client):
        sending = asyncio.ensure_future(connection.send(body(b"." * BIG + b"end")))
        await asyncio.sleep(0)
        # Whatever the kernel took of it, for itself and for a client that has not read.
        waiting = server_of(connection).unsent()
        assert waiting is not None
        with client:
            queued = sockets.queued(
                {"client": client.getsockname(), "server": client.getpeername()}
            )
            assert queued is not None
            assert queued < waiting <= BIG + 20
        await asyncio.wait([sending], timeout=5)


@each_known
async def test_nothing_is_unsent_where_the_system_does_not_tell(
    kind: type[Server], holding: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with holding() as (connection, _):
        server = server_of(connection)
        assert server.unsent() is not None
        # As on Windows.
        monkeypatch.setattr(base, "fcntl", None)
        assert server.unsent() is None


@each_known
async def test_abort_does_not_wait_for_the_client(kind: type[Server], holding: Held) -> None:
    async with holding() as (connection, client):
        server = server_of(connection)
        sending = asyncio.ensure_future(connection.send(body(b"." * BIG * 2)))
        await eventually(server.unsent)
        server.abort()
        assert len(await everything(client)) < BIG * 2
        # There is nothing any more to be asked.
        await eventually(lambda: server.unsent() is None)
        await asyncio.wait([sending], timeout=5)


@pytest.mark.parametrize("holding", SHARED.values(), ids=SHARED)
async def test_connection_of_several_streams_is_left_alone(holding: Held) -> None:
    async with holding() as (connection, client):
        server = server_of(connection)
        assert server.unsent() is None
        server.abort()
        await asyncio.sleep(0.01)
        await connection.send(body(b"still there"))
        await arrived(client, b"still there")


async def test_nothing_is_known_of_other_servers() -> None:
    async def send(message: Any) -> None:
        """Some wrapper's."""

    server = server_for(send, {})
    assert server.unsent() is None
    assert not server.is_gone()
    assert server.ending() is None
    assert server.limit() is None
    assert not server.write(b"1\r\nx\r\n", 1)
    server.abort()
    server.note_gone()
    server.detach()


class _RequestResponseCycle:
    async def send(self, message: Any) -> None:
        sent.append(message["body"])


class _HTTPStream(_RequestResponseCycle):
    pass


class _Protocol(_RequestResponseCycle):
    pass


class _WebRequest:
    channel = SimpleNamespace(transport=object())


async def _handle(request: Any, message: Any) -> None:
    sent.append(message["body"])


_RequestResponseCycle.__module__ = "uvicorn.protocols.http.httptools_impl"
_RequestResponseCycle.__qualname__ = "RequestResponseCycle"
_HTTPStream.__module__ = "hypercorn.protocol.http_stream"
_Protocol.__module__ = "granian._granian"
_WebRequest.__module__ = "daphne.http_protocol"
_WebRequest.__qualname__ = "WebRequest"

#: What was sent to the servers of versions to come.
sent: list[bytes] = []


@pytest.mark.parametrize(
    ("send", "kind"),
    [
        (_RequestResponseCycle().send, Uvicorn),
        (_HTTPStream().send, Hypercorn),
        (_Protocol().send, Granian),
        (partial(_handle, _WebRequest()), Daphne),
    ],
    ids=["uvicorn", "hypercorn", "granian", "daphne"],
)
async def test_version_that_has_nothing_private_is_served_as_any_server(
    send: Any, kind: type[Server], caplog: pytest.LogCaptureFixture
) -> None:
    sent.clear()
    server = server_for(send, {})
    assert type(server) is kind
    outbox = Outbox(send, asyncio.get_running_loop(), server)
    assert server.unsent() is None
    assert not server.is_gone()
    assert server.ending() is None
    assert server.limit() is None
    server.note_gone()
    assert outbox.write(body(b"data: x\n\n"), 9, frame(b"data: x\n\n"))
    outbox.put(b"data: y\n\n")
    outbox.flush()
    await outbox.finish()
    assert b"".join(sent) == b"data: x\n\ndata: y\n\n"
    outbox.abort()
    server.abort()
    told = "Daphne has no flow control for this stream."
    assert (told in caplog.text) == (kind is Daphne)


def test_receive_is_cancelled_only_where_that_is_known_to_be_harmless() -> None:
    async def receive() -> None:
        """gunicorn's, or of a server that is not known."""

    class Cycle:
        async def receive(self) -> None:
            """Of a protocol."""

    assert keeps_cancelled(asyncio.Queue[Any]().get)
    assert not keeps_cancelled(receive)
    assert not keeps_cancelled(Cycle().receive)
    for module in ("uvicorn.protocols.http.h11_impl", "granian.asgi"):
        Cycle.__module__ = module
        assert keeps_cancelled(Cycle().receive)
