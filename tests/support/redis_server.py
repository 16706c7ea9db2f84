"""A real Redis server for tests, which may be killed, paused and emptied, and a proxy that may fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.exceptions import RedisError

from tests.support.services import find

START_SECONDS = 15.0


class RedisServer:
    """A ``redis-server`` on a free port of 127.0.0.1, with its data in ``directory``.

    ``REDIS_SERVER`` in the environment names another program, as ``valkey-server``.
    Everything that was confirmed survives ``kill()``: the append-only file is written before Redis
    answers. With ``appendonly=False`` only what ``save()`` wrote survives.
    """

    def __init__(
        self,
        directory: Path,
        *,
        password: str | None = None,
        appendonly: bool = True,
        options: Sequence[str] = (),
    ) -> None:
        program = os.environ.get("REDIS_SERVER", "redis-server")
        self.program = find(program, package="redis-server")
        self.directory = directory
        self.password = password
        self.appendonly = appendonly
        self.options = options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def url(self, database: int = 0, *, password: str | None = None, port: int = 0) -> str:
        """Return the address, optionally with the port of a ``Proxy``, or another password."""
        password = password or self.password
        credentials = f":{password}@" if password else ""
        return f"redis://{credentials}127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start the server, with the data that is there; return when it answers."""
        command = [self.program, "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--dir", str(self.directory), "--save", ""]
        # "no" writes at once and leaves it to the system when it reaches the disk; "everysec" may
        # put the write off.
        command += ["--appendonly", "yes" if self.appendonly else "no", "--appendfsync", "no"]
        if self.password:
            command += ["--requirepass", self.password]
        command += self.options
        with (self.directory / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self("PING")
                return
            except RedisError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.kill()
                    log_text = (self.directory / "redis.log").read_text()
                    raise AssertionError(f"redis-server did not start:\n{log_text}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """End the server with SIGKILL, paused or not."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Pause the server: connections stay open, and it does not answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server continue."""
        self._signal(signal.SIGCONT)

    def flush(self) -> None:
        """Delete all data."""
        self("FLUSHALL")

    def save(self) -> None:
        """Write the present data to disk."""
        self("SAVE")

    def kill_clients(self) -> None:
        """Cut all connections."""
        self("CLIENT", "KILL", "TYPE", "pubsub")
        self("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def connections(self, kind: str) -> int:
        """Return how many connections of a kind (``pubsub``, ``normal``) are open, without this one."""
        lines = self("CLIENT", "LIST", "TYPE", kind).splitlines()
        return len(lines) - (kind == "normal")

    def __call__(self, *command: Any, database: int = 0) -> Any:
        """Run a command on a connection of its own."""
        client = redis.Redis.from_url(self.url(database), socket_timeout=5, decode_responses=True)
        with contextlib.closing(client):
            return client.execute_command(*command)

    def _signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)


class Proxy:
    """A proxy to the server that can close connections, stop forwarding, or delay answers."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._frozen: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.accepted = 0
        #: Seconds for which each answer is held back.
        self.delay = 0.0

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def open(self) -> None:
        """Accept connections (again)."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    def freeze(self) -> None:
        """Forward nothing more on the connections that are open; new ones work."""
        self._frozen |= self._writers

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target)
        for source, target in ((reader, other_writer), (other_reader, writer)):
            self._writers.add(target)
            task = asyncio.create_task(self._forward(source, target, reader))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        asking: asyncio.StreamReader,
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    if self.delay and source is not asking:
                        await asyncio.sleep(self.delay)
                    if target not in self._frozen:
                        target.write(data)
                        await target.drain()
        finally:
            self._writers.discard(target)
            target.close()
