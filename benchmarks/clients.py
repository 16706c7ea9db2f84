"""Clients that cost little: sockets, one epoll loop, and counting instead of decoding."""

from __future__ import annotations

import math
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping

HEAD_END = b"\r\n\r\n"
#: What every event that is counted has once, and neither heartbeats nor openings have.
EVENT = b"data: "
NAP_SECONDS = 0.002
STAMP = re.compile(rb"t=(\d+);")


class Failed(Exception):
    """Raised when a server did not do what a measurement needs."""


class Connection:
    """One connection to a stream: how many events have arrived, and when."""

    __slots__ = ("body", "closed", "events", "head", "latencies", "socket", "tail")

    #: How many streams it carries.
    streams = 1

    def __init__(self, port: int) -> None:
        self.socket = self.connect(port)
        self.socket.setblocking(False)
        self.head: bytes | None = None
        self.tail = b""
        self.body = 0
        self.events = 0
        self.closed = False
        self.latencies: list[int] | None = None

    def connect(self, port: int) -> socket.socket:
        """Return a socket that is connected."""
        return socket.create_connection(("127.0.0.1", port))

    def ask(self, path: str, headers: Mapping[str, str]) -> None:
        """Ask for the stream."""
        self.socket.sendall(encode_request(path, headers))

    def read(self) -> bytes | None:
        """Return what has arrived, if anything has; nothing where the connection has ended."""
        try:
            return self.socket.recv(262144)
        except ConnectionError:
            return b""

    def feed(self, data: bytes) -> None:
        """Count the events that end in ``data``."""
        if self.head is None:
            head, found, data = (self.tail + data).partition(HEAD_END)
            if not found:
                self.tail = head
                return
            self.head, self.tail = head, b""
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                raise Failed(f"A server answered {head!r} {data[:500]!r}.")
        if data:
            self.count(data)

    def count(self, data: bytes) -> None:
        """Count the events in a piece of a body."""
        self.body += len(data)
        if self.latencies is not None:
            # That of the oldest event in the piece. To look at each takes a client longer than it
            # takes a server to send them.
            stamp = STAMP.search(data)
            if stamp is not None:
                self.latencies.append(time.monotonic_ns() - int(stamp[1]))
        # An event may have been cut in two anywhere.
        data = self.tail + data
        self.events += data.count(EVENT)
        self.tail = data[1 - len(EVENT) :]


class Swarm:
    """Many connections to one server or several, in one epoll loop."""

    def __init__(self, kind: type[Connection] = Connection) -> None:
        self._kind = kind
        self.connections: list[Connection] = []
        #: What has arrived in all of them.
        self.events = 0
        self._by_number: dict[int, Connection] = {}
        self._epoll = select.epoll()
        # Those that have got nothing yet.
        self._waiting: set[Connection] = set()

    def __enter__(self) -> Swarm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._epoll.close()

    def open(
        self,
        port: int,
        path: str,
        count: int = 1,
        *,
        headers: Mapping[str, str] | None = None,
        at_once: int = 8,
        rate: float = math.inf,
        timeout: float = 120,
    ) -> list[Connection]:
        """Open connections, and wait for the first bytes of each.

        At most ``at_once`` of them are under way, and ``rate`` are begun in a second.
        """
        headers = {"Accept": "*/*", **(headers or {})}
        opened: list[Connection] = []
        begun = time.monotonic()
        deadline = begun + timeout
        while len(opened) < count or self._waiting:
            due = min(count, (time.monotonic() - begun) * rate + 1)
            while len(opened) < due and len(self._waiting) < at_once:
                connection = self._kind(port)
                number = connection.socket.fileno()
                self._by_number[number] = connection
                self._epoll.register(number, select.EPOLLIN)
                connection.ask(path, headers)
                opened.append(connection)
                self._waiting.add(connection)
            if len(opened) < count and len(self._waiting) < at_once:
                self.listen(1 / rate)
            else:
                self.read(deadline, f"{count} connections to {path}")
        self.connections += opened
        return opened

    def read(self, deadline: float, what: str) -> None:
        """Read what has arrived; wait for something to arrive."""
        left = deadline - time.monotonic()
        ready = self._epoll.poll(max(left, 0)) if left > 0 else []
        if not ready:
            raise Failed(f"Waited in vain for {what}.")
        for number, _ in ready:
            self._receive(number)

    def wait_for(self, events: int, timeout: float = 120, nap: float = NAP_SECONDS) -> None:
        """Read until each connection has so many events, counted from its opening."""
        deadline = time.monotonic() + timeout
        total = events * len(self.connections)
        while self.events < total:
            self.read(deadline, f"{events} events")
            # Awake only now and then: on one machine, the server would pay for each waking.
            time.sleep(nap)
        if any(each.events != events for each in self.connections):
            raise Failed(f"Not every connection has its {events} events, and others have more.")

    def listen(self, seconds: float) -> None:
        """Read for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for number, _ in self._epoll.poll(left):
                self._receive(number)

    def _receive(self, number: int) -> None:
        connection = self._by_number[number]
        data = connection.read()
        if data is None:
            return
        if data:
            before = connection.events
            connection.feed(data)
            self.events += connection.events - before
            if connection.body:
                self._waiting.discard(connection)
        elif connection in self._waiting:
            raise Failed("A server closed a connection without a word.")
        else:
            connection.closed = True
            del self._by_number[number]
            self._epoll.unregister(number)
            connection.socket.close()

    def close(self) -> None:
        """Close all connections."""
        for number, connection in self._by_number.items():
            self._epoll.unregister(number)
            connection.socket.close()
        self._by_number.clear()
        self.connections.clear()


def trusting(protocol: str) -> ssl.SSLContext:
    """Return a context that takes any certificate, and asks for a protocol (ALPN)."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


def encode_request(path: str, headers: Mapping[str, str]) -> bytes:
    """Return a GET request."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def request(port: int, path: str, headers: Mapping[str, str], timeout: float) -> str:
    """Fetch a page and return its body."""
    return answer(begin(port, path, headers, timeout))


def begin(
    port: int, path: str, headers: Mapping[str, str], timeout: float, *, secure: bool = False
) -> socket.socket:
    """Ask for a page; ``answer()`` fetches it."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    if secure:
        connection = trusting("http/1.1").wrap_socket(connection)
    # HTTP/1.0, so that the body is what comes up to the end.
    wire = encode_request(path, {**headers, "Connection": "close"})
    connection.sendall(wire.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    return connection


def answer(connection: socket.socket) -> str:
    """Return the body of the page that was asked for."""
    with connection:
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(HEAD_END)
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise Failed(f"A server answered {head!r} {body[:500]!r}.")
    return body.decode()


def settle(quiet: Callable[[], float], seconds: float = 0.3, limit: float = 20) -> None:
    """Wait until ``quiet()`` (a server's processor time) stands almost still."""
    deadline = time.monotonic() + limit
    before = quiet()
    while time.monotonic() < deadline:
        time.sleep(seconds)
        now = quiet()
        if now - before < seconds * 0.02:
            return
        before = now
