"""Many clients at once, which read whatever comes as it comes."""

from __future__ import annotations

import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

OPEN_SECONDS = 20.0


class Reader:
    """One connection, and all that came on it."""

    def __init__(self, address: tuple[str, int], path: str) -> None:
        self.socket = socket.create_connection(address, timeout=OPEN_SECONDS)
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode()
        )
        self.path = path
        self.received = bytearray()
        self.done = False

    @property
    def ended(self) -> bool:
        """Whether the response has its proper end."""
        return self.received.endswith(b"\r\n0\r\n\r\n")

    @property
    def body(self) -> bytes:
        """What came of the response's body, which is chunked."""
        rest = bytes(self.received).partition(b"\r\n\r\n")[2]
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            wanted = int(size or b"0", 16)
            body, rest = body + rest[:wanted], rest[wanted + 2 :]
        return body

    @property
    def retries(self) -> list[int]:
        """The values of all ``retry:`` fields, in milliseconds."""
        return [int(value) for value in re.findall(rb"^retry: (\d+)$", self.body, re.MULTILINE)]


class Crowd:
    """Opens a stream per path, and returns when each has sent something with data.

    A thread reads until ``close()``. Each connection is closed by its client when its response
    has ended.
    """

    def __init__(self, address: tuple[str, int], paths: Iterable[str]) -> None:
        self.readers = [Reader(address, path) for path in paths]
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        for reader in self.readers:
            self._selector.register(reader.socket, selectors.EVENT_READ, reader)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        if not self.wait_until(lambda reader: b"data:" in reader.received):
            silent = [reader for reader in self.readers if b"data:" not in reader.received]
            self.close()
            raise AssertionError(f"{len(silent)} streams say nothing: {silent[0].received!r}")

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def wait_until(
        self, condition: Callable[[Reader], bool], seconds: float = OPEN_SECONDS
    ) -> bool:
        """Wait until something is so for all; return whether it is."""
        deadline = time.monotonic() + seconds
        while not (met := all(map(condition, self.readers))) and time.monotonic() < deadline:
            time.sleep(0.01)
        return met

    def wait_for_the_end(self, seconds: float = OPEN_SECONDS) -> None:
        """Wait until all connections have ended, one way or the other."""
        self.wait_until(lambda reader: reader.done, seconds)

    def close(self) -> None:
        """Leave."""
        self._stop.set()
        self._thread.join()
        for reader in self.readers:
            reader.socket.close()
        self._selector.close()

    def _read(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.05):
                reader = key.data
                try:
                    data = reader.socket.recv(1 << 18)
                except OSError:
                    data = b""
                reader.received += data
                if not data or reader.ended:
                    self._selector.unregister(reader.socket)
                    reader.socket.close()
                    reader.done = True
