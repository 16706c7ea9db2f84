"""A small HTTP client on a bare socket, which shows bytes as they arrive."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from types import TracebackType

from django_sse.wire.events import EventDecoder, ServerSentEvent

TIMEOUT = 10.0


class Client:
    """One connection. Every read waits at most ``TIMEOUT`` seconds."""

    def __init__(self, address: tuple[str, int], *, receive_buffer: int | None = None) -> None:
        self._socket = socket.socket()
        self._socket.settimeout(TIMEOUT)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            # As on a network. The local one's segments are as large as such a buffer, and flow
            # control would have to wait for its timers.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        self._socket.connect(address)
        self._buffer = b""
        self._decoder = EventDecoder()
        self._events: list[ServerSentEvent] = []
        self.status = 0
        self.headers: dict[str, str] = {}
        self._left: int | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def request(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        version: str = "1.1",
    ) -> None:
        """Send a request, and read the head of its response."""
        self.send(path, method, headers, version)
        self.read_head()

    def send(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        version: str = "1.1",
    ) -> None:
        """Send a request without a body."""
        lines = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def read_head(self) -> None:
        """Read the status line and the headers of a response."""
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)
        }
        length = self.headers.get("content-length")
        self._left = None if length is None else int(length)

    def event(self) -> ServerSentEvent:
        """Return the next event with data."""
        while True:
            while self._events:
                event = self._events.pop(0)
                if event.data is not None:
                    return event
            piece = self.piece()
            assert piece, "The response ended without another event."
            self._events += self._decoder.feed(piece)

    def body(self) -> bytes:
        """Return the rest of the body, up to its end."""
        body = b""
        while piece := self.piece():
            body += piece
        return body

    def piece(self) -> bytes:
        """Return what comes next of the body; empty at its proper end.

        Raises ``ConnectionError`` where the connection ends in the middle of a body that says how
        long it is.
        """
        if self.headers.get("transfer-encoding") == "chunked":
            while b"\r\n" not in self._buffer:
                self._fill()
            size, _, self._buffer = self._buffer.partition(b"\r\n")
            wanted = int(size, 16)
            while len(self._buffer) < wanted + 2:
                self._fill()
            piece, self._buffer = self._buffer[:wanted], self._buffer[wanted + 2 :]
            return piece
        if self._left == 0:
            return b""
        if not self._buffer:
            try:
                self._fill()
            except ConnectionError:
                if self._left is None:
                    return b""
                raise
        piece = self._buffer[: self._left]
        self._buffer = self._buffer[len(piece) :]
        if self._left is not None:
            self._left -= len(piece)
        return piece

    def _fill(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("The server closed the connection.")
        self._buffer += data
