"""Connections of the servers' own classes, which run in the event loop of the test."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import hypercorn.asyncio
import pytest
import uvicorn
from daphne.http_protocol import HTTPFactory, WebRequest
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.config import Config as GunicornConfig
from gunicorn.glogging import Logger as GunicornLogger
from h2.connection import H2Connection
from twisted.internet.tcp import Server as TwistedTransport
from twisted.web.http import HTTPChannel
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

REQUEST = b"GET / HTTP/1.1\r\nHost: testserver\r\n\r\n"
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}

#: Runs an application, and gives the port.
Serving = Callable[[Any], AbstractAsyncContextManager[int]]


def body(data: bytes, *, more_body: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more_body}


@asynccontextmanager
async def under_uvicorn(application: Any) -> AsyncIterator[int]:
    """Serve with the protocol that Uvicorn uses if httptools is installed."""
    config = uvicorn.Config(
        application, lifespan="off", log_config=None, access_log=False, proxy_headers=False
    )
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: HttpToolsProtocol(config, state, {}), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        if state.tasks:
            await asyncio.wait(list(state.tasks), timeout=5)
        assert not state.tasks


@asynccontextmanager
async def under_hypercorn(application: Any) -> AsyncIterator[int]:
    """Serve with Hypercorn; the end of the block shuts it down."""
    config = hypercorn.Config()
    config.errorlog = None
    config.graceful_timeout = 5
    over = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config.bind = [f"fd://{listening.fileno()}"]
        serving = asyncio.create_task(
            hypercorn.asyncio.serve(application, config, shutdown_trigger=over.wait)
        )
        try:
            yield listening.getsockname()[1]
        finally:
            over.set()
            await asyncio.wait_for(serving, 10)
            listening.detach()  # Hypercorn has closed it.


@asynccontextmanager
async def under_gunicorn(application: Any) -> AsyncIterator[int]:
    """Serve with the protocol of gunicorn's own ASGI worker."""
    loop = asyncio.get_running_loop()
    cfg = GunicornConfig()
    worker = SimpleNamespace(
        cfg=cfg,
        log=GunicornLogger(cfg),
        loop=loop,
        asgi=application,
        app=SimpleNamespace(cfg=cfg),
        state={},
        nr=0,
        nr_conns=0,
        max_requests=1000,
        worker_connections=1000,
        alive=True,
    )
    protocols: list[Any] = []

    def make() -> Any:
        protocols.append(ASGIProtocol(worker))
        return protocols[-1]

    server = await loop.create_server(make, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.05)
        for protocol in protocols:
            if protocol.transport is not None:
                protocol.transport.abort()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def under_toy(application: Any) -> AsyncIterator[int]:
    """Serve with a small HTTP/1.1 server that the package does not know; ``send`` waits for the client."""
    running: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.current_task())  # type: ignore[arg-type]
        await reader.readuntil(b"\r\n\r\n")

        async def receive() -> Any:
            await reader.read()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                writer.write(b"HTTP/1.1 %d\r\n\r\n" % message["status"])
            else:
                writer.write(message["body"])
            await writer.drain()

        scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/"}
        try:
            await application(scope, receive, send)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if running:
            await asyncio.wait(running, timeout=5)


def nothing_arrived(client: socket.socket) -> bool:
    """Return True if nothing has arrived. Bytes reach a client on this machine at once."""
    with pytest.raises(BlockingIOError):
        client.recv(1)
    return True


class Held:
    """An application that begins its response, and lets the test call ``send``."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.scope: dict[str, Any] = {}
        self.send: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
            return
        self.scope, self.send = scope, send
        await send(START)
        await send(body(b"begun"))
        await self.over.wait()
        await send(body(b"", more_body=False))


@asynccontextmanager
async def held(serving: Serving, request: bytes = REQUEST) -> AsyncIterator[tuple[Any, Any]]:
    """Yield an application that holds a connection, and its client, which does not read."""
    application = Held()
    async with serving(application) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(request)
            client.setblocking(False)
            await arrived(client, b"begun")
            try:
                yield application, client
            finally:
                application.over.set()


def http2_request() -> bytes:
    connection = H2Connection()
    connection.initiate_connection()
    names = {":method": "GET", ":path": "/", ":scheme": "http", ":authority": "testserver"}
    connection.send_headers(1, list(names.items()), end_stream=True)
    return connection.data_to_send()


class Reactor:
    """The part of Twisted's reactor that a transport needs to write."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def addReader(self, reader: Any) -> None:  # noqa: N802
        pass

    removeReader = addReader  # noqa: N815

    def addWriter(self, writer: Any) -> None:  # noqa: N802
        self._loop.add_writer(writer.fileno(), writer.doWrite)

    def removeWriter(self, writer: Any) -> None:  # noqa: N802
        self._loop.remove_writer(writer.fileno())

    def callLater(self, delay: float, call: Any, *args: Any) -> None:  # noqa: N802
        self._loop.call_later(delay, call, *args)


class DaphneConnection:
    """One request, through the classes of Daphne that handle it."""

    scope: dict[str, Any]
    send: Any
    request: Any

    def __init__(self, request: bytes = REQUEST) -> None:
        server = SimpleNamespace(
            protocol_connected=lambda request: None,
            protocol_disconnected=lambda request: None,
            create_application=self._create_application,
            log_action=lambda *args: None,
            proxy_forwarded_address_header=None,
            request_buffer_size=8192,
            root_path="",
            server_name="",
        )
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.client = socket.create_connection(listening.getsockname())
            accepted, address = listening.accept()
        accepted.setblocking(False)
        self.client.setblocking(False)
        channel: Any = HTTPChannel()
        channel.factory = HTTPFactory(server)
        channel.requestFactory = WebRequest
        channel.timeOut = None
        port, reactor = None, Reactor()
        self.transport: Any = TwistedTransport(accepted, channel, address, port, 0, reactor)  # type: ignore[arg-type]
        channel.makeConnection(self.transport)
        channel.dataReceived(request)

    def _create_application(self, request: WebRequest, scope: Any) -> Any:
        self.request, self.scope = request, scope
        self.send = functools.partial(self._handle_reply, request)
        return SimpleNamespace(put_nowait=lambda message: None)

    async def _handle_reply(self, request: Any, message: Any) -> None:
        # Daphne's server calls it in the next turn of the loop.
        request.handle_reply(message)


@asynccontextmanager
async def held_by_daphne(
    request: bytes = REQUEST, *, begun: bool = True
) -> AsyncIterator[tuple[DaphneConnection, socket.socket]]:
    """Do the same as ``held()`` with Daphne's classes."""
    connection = DaphneConnection(request)
    with connection.client as client:
        try:
            if begun:
                await connection.send(START)
                await connection.send(body(b"begun"))
                await arrived(client, b"begun")
            yield connection, client
        finally:
            if connection.transport.connected:
                connection.transport.abortConnection()
                await asyncio.sleep(0.001)


async def arrived(client: socket.socket, end: bytes) -> bytes:
    """Read until ``end`` has arrived; return all bytes that were read."""
    received = b""
    async with asyncio.timeout(5):
        while end not in received:
            received += await asyncio.get_running_loop().sock_recv(client, 1 << 20)
    return received


async def everything(client: socket.socket) -> bytes:
    """Read until the connection ends, in order or not; return all bytes that were read."""
    received = b""
    async with asyncio.timeout(5):
        try:
            while data := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
                received += data
        except ConnectionResetError:
            pass
    return received


class GranianProtocol:
    """Stands for Granian's protocol, which does not give out its transport."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def send(self, message: Any) -> None:
        self._writer.write(message["body"])


GranianProtocol.__module__ = "granian._granian"


@asynccontextmanager
async def held_by_granian(version: str = "1.1") -> AsyncIterator[tuple[Any, socket.socket]]:
    """Do the same as ``held()`` with a connection that can be found only by its addresses."""
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: accepted.put(writer), "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        client.setblocking(False)
        writer = await accepted.get()
        scope = {
            "client": writer.get_extra_info("peername"),
            "server": writer.get_extra_info("sockname"),
            "http_version": version,
        }
        try:
            yield SimpleNamespace(send=GranianProtocol(writer).send, scope=scope), client
        finally:
            writer.transport.abort()
            server.close()
            await asyncio.sleep(0)


def client_of(port: int) -> socket.socket:
    """Return a client's connection, non-blocking for the event loop."""
    client = socket.create_connection(("127.0.0.1", port))
    client.setblocking(False)
    return client
