"""Clients that come, read and leave at random while events flow, and what they leave behind.

``python -m tests.integration.attack.soak`` prints what each server holds before, at most, and after. Needs
more file descriptors than clients, in each process: ``ulimit -n 10000``.
"""

from __future__ import annotations

import argparse
import random
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.redis_server import RedisServer
from tests.support.servers import make_database

from .conftest import attackable
from .target import Target

TOPICS = 20
#: Seconds that a server has to come back to where it was.
COOL_DOWN = 30.0
REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
    "Last-Event-ID: {last}\r\n\r\n"
)
NAMES = (
    "resident kB",
    "asyncio tasks",
    "threads",
    "file descriptors",
    "Redis connections",
    "open streams",
)


@dataclass
class Result:
    """What a server held, and what its clients did."""

    server: str
    before: tuple[int, ...]
    peak: tuple[int, ...]
    after: tuple[int, ...]
    connected: int = 0
    received: int = 0
    published: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return the numbers, for people."""
        done = (
            f"{self.connected:,} connections, {self.received:,} bytes received, "
            f"{self.published:,} events published, {self.refused} refused, "
            f"{len(self.faults)} faults in the log"
        )
        lines = [f"{self.server}: {done}"]
        lines.append(f"{'':20}{'before':>10}{'peak':>10}{'after':>10}")
        for name, *numbers in zip(NAMES, self.before, self.peak, self.after, strict=True):
            lines.append(f"{name:20}" + "".join(f"{number:>10,}" for number in numbers))
        return "\n".join(lines)


class Crowd:
    """Clients of one server in one selector loop, each with a life span of its own."""

    def __init__(self, target: Target, count: int, rng: random.Random) -> None:
        self._target, self._count, self._rng = target, count, rng
        self._selector = selectors.DefaultSelector()
        self._leaving: dict[socket.socket, float] = {}
        self.connected = self.received = self.refused = 0

    def run(self, seconds: float) -> None:
        """Come and go for so long; then all leave."""
        begin = time.monotonic()
        # So fast that the crowd is complete after a sixth of the time. All that a server can take
        # would be a test of its queue: newcomers would wait longer than they stay.
        rate = self._count / (seconds / 6)
        while (now := time.monotonic()) < begin + seconds:
            for client in [it for it, when in self._leaving.items() if when < now]:
                self._leave(client)
            while self.connected + self.refused < (now - begin) * rate:
                if len(self._leaving) >= self._count:
                    rate = (self.connected + self.refused) / (now - begin)
                    break
                self._come(now, seconds)
            for key, _ in self._selector.select(0.02):
                self._read(key.fileobj)
        for client in list(self._leaving):
            self._leave(client)
        self._selector.close()

    def _come(self, now: float, seconds: float) -> None:
        rng = self._rng
        topic = f"topic-{rng.randrange(TOPICS)}"
        path = rng.choice([f"/topics/{topic}/"] * 6 + [f"/hesitant/{topic}/", "/echo/", "/chat/"])
        last = rng.choice(["", "", "1-1", f"{int(time.time() * 1000) - 2000}-0"])
        client = socket.socket()
        client.settimeout(5)
        try:
            client.connect(self._target.address)
            client.sendall(REQUEST.format(path=path, last=last).encode())
        except OSError:
            client.close()
            self.refused += 1
            return
        client.setblocking(False)
        self.connected += 1
        # Some leave at once, most after a while, none stays for long.
        stay = 0.0 if rng.random() < 0.1 else rng.expovariate(1 / (seconds / 5))
        self._leaving[client] = now + stay
        if rng.random() < 0.98:  # The others never read.
            self._selector.register(client, selectors.EVENT_READ)

    def _read(self, client: Any) -> None:
        try:
            data = client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.received += len(data)
        if not data:
            self._leave(client)

    def _leave(self, client: socket.socket) -> None:
        del self._leaving[client]
        with suppress(KeyError):
            self._selector.unregister(client)
        if self._rng.random() < 0.3:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()


def soak(
    name: str,
    directory: Path,
    database: Path,
    *,
    clients: int,
    seconds: float,
    redis: RedisServer | None = None,
    seed: int = 0,
) -> Result:
    """Run one server under a crowd, and return what it held."""
    settings: dict[str, Any] = {}
    if redis is not None:
        backend = "django_sse.brokers.redis.RedisBroker"
        settings["BROKER"] = {"BACKEND": backend, "LOCATION": redis.url()}
    with attackable(name, directory, database, **settings) as server:
        target = Target(server)

        def held(*, collect: bool = True) -> tuple[int, ...]:
            level = target.level(**{"collect": "yes"} if collect else {})
            connections = 0 if redis is None else sum(map(redis.connections, ("pubsub", "normal")))
            return (
                level.kilobytes,
                level.tasks,
                level.threads,
                level.files,
                connections,
                level.open,
            )

        # A first crowd, as large and for as long: what is grown once is not what is looked for.
        _visit(target, Crowd(target, clients, random.Random(seed)), seconds)
        _settle(held, (sys.maxsize,) * 5 + (0,))
        before, peaks, done = held(), [], threading.Event()

        def watch() -> None:
            while not done.wait(0.5):
                with suppress(OSError):
                    peaks.append(held(collect=False))

        watcher = threading.Thread(target=watch)
        watcher.start()
        crowd = Crowd(target, clients, random.Random(seed + 1))
        try:
            published = _visit(target, crowd, seconds)
        finally:
            done.set()
            watcher.join()
        after = _settle(held, before)
        peak = tuple(map(max, zip(*peaks, before, strict=True)))
        return Result(
            f"{name}, {'memory' if redis is None else 'Redis'}",
            before, peak, after,
            crowd.connected, crowd.received, published, crowd.refused, server.faults(),
        )  # fmt: skip


def _visit(target: Target, crowd: Crowd, seconds: float) -> int:
    """Let a crowd come and go while events flow; return how many were published."""
    with target.client() as flow:
        flow._socket.settimeout(seconds + COOL_DOWN)
        flow.send(f"/flow/?seconds={seconds}&topics={TOPICS}", headers={"Connection": "close"})
        crowd.run(seconds)
        flow.read_head()
        return int(flow.body())


def _settle(held: Callable[[], tuple[int, ...]], before: tuple[int, ...]) -> tuple[int, ...]:
    """Return what is held once all but the memory is no more than before, or after a while."""
    deadline = time.monotonic() + COOL_DOWN
    while True:
        now = held()
        if all(n <= b for n, b in zip(now[1:], before[1:], strict=True)):
            return now
        # Longer than a hub keeps its listener without followers.
        if time.monotonic() > deadline:
            return now
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Soak servers in clients that come and go.")
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--servers", nargs="+", default=["uvicorn", "daphne"])
    parser.add_argument("--redis", action="store_true", help="with Redis as the broker, too")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        directory = Path(temporary)
        database = make_database(directory / "shop.sqlite3")
        brokers: list[RedisServer | None] = [None]
        if given.redis:
            brokers.append(stack.enter_context(RedisServer(directory)))
        for name in given.servers:
            for redis in brokers:
                result = soak(
                    name,
                    directory,
                    database,
                    clients=given.clients,
                    seconds=given.seconds,
                    redis=redis,
                    seed=given.seed,
                )
                print(result.table(), "\n", *result.faults[:10], sep="\n", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
