"""What is attacked: a server, what it holds, and a client without manners."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from tests.support.http_client import Client
from tests.support.servers import Server

#: Seconds for which a server may be busy until it holds no more than before.
SETTLE_SECONDS = 8.0
#: Threads that asyncio's own pool, which never shrinks, may have started meanwhile.
SPARE = (os.cpu_count() or 1) + 4
STREAM = {"Accept": "text/event-stream"}


class Level(NamedTuple):
    """What a process holds."""

    open: int
    tasks: int
    threads: int
    files: int
    kilobytes: int


class Attacker(Client):
    """A client that sends whatever bytes, and is not surprised by anything."""

    def raw(self, data: bytes) -> None:
        """Send bytes, as far as the server takes them."""
        with suppress(OSError):
            self._socket.sendall(data)

    def answer(self, seconds: float = 3.0) -> bytes:
        """Return what comes until the server is done, or for so many seconds."""
        received, deadline = self._buffer, time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except OSError:
                break
            if not data:
                break
            received += data
        return received

    def reset(self) -> None:
        """Leave without a word of goodbye: the connection is torn, not closed."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()


class Target:
    """A running server with the streams of ``tests.integration.attack.project``."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.address = server.address
        self.forgiven = 0

    def client(self, **options: Any) -> Attacker:
        """Connect."""
        return Attacker(self.address, **options)

    def open(self, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> Attacker:
        """Return a client with a stream that is open, or with the head of a refusal."""
        client = self.client(**more)
        client.request(path, headers={**STREAM, **(headers or {})})
        return client

    def get(self, path: str, **query: Any) -> tuple[int, str]:
        """Return the status and the body of a page."""
        with self.client() as client:
            client.request(
                f"{path}?{urlencode(query)}" if query else path, headers={"Connection": "close"}
            )
            return client.status, client.body().decode()

    def publish(self, topic: str, data: str = "", **more: Any) -> str:
        """Publish an event, and return its id."""
        status, body = self.get("/publish/", topic=topic, data=data, **more)
        assert status == 200, body
        return body

    def first_event(self, topic: str, **headers: str) -> str:
        """Follow a topic and say so as others would see it, with an event that is published now."""
        with self.open(f"/topics/{quote(topic)}/", headers) as client:
            assert client.status == 200
            piece = client.piece()
            while b"id: " not in piece:
                piece += client.piece()
            self.publish(topic, "probe")
            return str(client.event().data)

    def level(self, **query: str) -> Level:
        """Return what the process holds at the moment; ``collect="yes"`` lets it collect garbage."""
        found = json.loads(self.get("/inside/", **query)[1])
        # The page's own connection may still be on its way out.
        return Level(
            found["open"],
            found["tasks"],
            self.server.threads(),
            len(os.listdir(f"/proc/{self.server.pid}/fd")),  # noqa: PTH208
            self.kilobytes(),
        )

    def kilobytes(self) -> int:
        """Return the resident memory of the process."""
        status = Path(f"/proc/{self.server.pid}/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1])

    def settle(self, before: Level, *, megabytes: int = 24) -> Level:
        """Wait until the process holds no more than ``before``; fail if it never does."""
        deadline, query = time.monotonic() + SETTLE_SECONDS, {}
        while True:
            now = self.level(**query)
            grown = [
                name
                for name in ("open", "tasks", "threads", "files")
                if getattr(now, name) > getattr(before, name) + (SPARE if name == "threads" else 0)
            ]
            if now.kilobytes > before.kilobytes + megabytes * 1024:
                grown.append("kilobytes")
            if not grown:
                return now
            query = {"collect": "yes"}
            assert time.monotonic() < deadline, f"{grown} has not come back: {before} → {now}"
            time.sleep(0.01)

    def complaints(self) -> list[str]:
        """Return the lines of the log that tell of something that went wrong unforeseen."""
        return self.server.faults()[self.forgiven :]

    def forgive(self, error: str) -> None:
        """Take a traceback that was to be; fail if the last one in the log is another's, or missing."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while len(self.complaints()) < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.complaints(), "Nothing was logged."
        counted = 0
        while counted != len(self.complaints()):
            # A server may log it again, a moment later.
            counted = len(self.complaints())
            time.sleep(0.3)
        last = self.server.log().rpartition("Traceback (most recent call last)")[2]
        assert error in last, last
        self.forgiven += len(self.complaints())
