"""Streams over TLS, and over HTTP/2: what do they cost beside plain TCP?"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from ssl import SSLWantReadError
from tempfile import TemporaryDirectory

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived

from tests.support.certificates import make_certificate

from .clients import Connection, Swarm, settle, trusting
from .context import Context
from .fanout import RATE, SIZE, full_speed
from .memory import settled_kb
from .report import Result
from .servers import Server

#: Streams of a connection of HTTP/2.
STREAMS = 20


class Tls(Connection):
    """A connection of HTTP/1.1 over TLS."""

    __slots__ = ()
    protocol = "http/1.1"

    def connect(self, port: int) -> socket.socket:
        """Return a socket after its TLS handshake."""
        return trusting(self.protocol).wrap_socket(super().connect(port))

    def read(self) -> bytes | None:
        """Return all that can be read, if anything can."""
        found = b""
        try:
            while piece := self.socket.recv(262144):
                found += piece
        except SSLWantReadError:
            return found or None
        except ConnectionError:
            pass
        return found


class Http2(Tls):
    """A connection of HTTP/2 over TLS, with several streams."""

    __slots__ = ("_h2",)
    protocol = "h2"
    streams = STREAMS

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(2**30)

    def ask(self, path: str, headers: Mapping[str, str]) -> None:
        """Ask for all streams."""
        for _ in range(self.streams):
            stream = self._h2.get_next_available_stream_id()
            pseudo = [(":method", "GET"), (":path", path)]
            pseudo += [(":scheme", "https"), (":authority", "127.0.0.1")]
            own = [(name.lower(), value) for name, value in headers.items()]
            self._h2.send_headers(stream, pseudo + own, end_stream=True)
            self._h2.increment_flow_control_window(2**30, stream)
        self.socket.sendall(self._h2.data_to_send())

    def feed(self, data: bytes) -> None:
        """Count the events in the streams' data."""
        for event in self._h2.receive_data(data):
            if isinstance(event, DataReceived):
                self.count(event.data)
        if answer := self._h2.data_to_send():
            self.socket.sendall(answer)


#: The servers, and how each is asked. Daphne and HTTP/2 need more than Daphne's usual extras.
WAYS: list[tuple[str, str, str, type[Connection]]] = [
    ("uvicorn", "Uvicorn", "TLS", Tls),
    ("hypercorn", "Hypercorn", "TLS", Tls),
    ("granian", "Granian", "TLS", Tls),
    ("hypercorn", "Hypercorn", "HTTP/2", Http2),
    ("granian", "Granian", "HTTP/2", Http2),
]


def measure(context: Context) -> Iterator[Result]:
    """Compare streams over TLS and HTTP/2 with the same server's over plain TCP."""
    with TemporaryDirectory() as directory:
        make_certificate(Path(directory))
        plain: dict[str, list[float]] = {}
        for kind, name, way, connection in WAYS:
            if kind not in plain:
                with context.project(kind, BENCHMARK_PLAIN="1") as server:
                    plain[kind] = figures(context, server, Connection)
            with context.project(kind, BENCHMARK_PLAIN="1", BENCHMARK_TLS=directory) as server:
                found = figures(context, server, connection)
            labels = ("set-up and end", "idle stream", "one by one", "full speed")
            units = ("µs", "kB", "µs/delivery", "µs/delivery")
            for what, unit, figure, beside in zip(labels, units, found, plain[kind], strict=True):
                yield Result(f"{way}: {what}", name, figure, beside, unit, note="beside plain TCP")


def figures(context: Context, server: Server, kind: type[Connection]) -> list[float]:
    """Return µs for a set-up, kB for an idle stream, µs for a delivery one by one and at full speed."""
    connections = context.size(400, 80) // kind.streams
    count = connections * kind.streams
    path = "/follow/open/"
    with Swarm(kind) as swarm:
        # What is made once stays.
        swarm.open(server.port, path, connections // 4)
        before = settled_kb(server)
        swarm.open(server.port, path, connections)
        memory = (settled_kb(server) - before) / count
    settle(server.cpu)
    begun = server.cpu()
    with Swarm(kind) as swarm:
        swarm.open(server.port, path, connections)
    settle(server.cpu)
    opened = (server.cpu() - begun) / count * 1e6
    with Swarm(kind) as swarm:
        swarm.open(server.port, path, connections)
        events = context.size(4, 1) * RATE
        begun = server.cpu()
        page = server.begin(f"/publish/?size={SIZE}&count={events}&rate={RATE}")
        swarm.wait_for(events * kind.streams)
        server.end(page)
        single = (server.cpu() - begun) / events / count * 1e6
        speed = full_speed(server, swarm, context.size(200, 50), "apublish")
    return [opened, memory, single, speed]
