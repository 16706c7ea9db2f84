"""Publishing itself: to nobody, and through Redis to two server processes."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from . import machine
from .burst import page
from .clients import Swarm, answer
from .context import Context, best
from .fanout import SIZE
from .report import Result
from .servers import stop, wait_for_port


def measure_nobody(context: Context) -> Iterator[Result]:
    """Publish to a topic that nobody follows, with the broker in memory."""
    count = context.size(20_000, 5_000)
    with context.project("uvicorn") as server:
        query = f"count={count}&size={SIZE}&topic=nobody-follows"
        from_coroutine, from_thread = best(
            context.size(3, 2),
            [
                lambda: page(server, f"/publish/?{query}", count),
                lambda: page(server, f"/publish/sync/?{query}", count),
            ],
        )
    yield Result("apublish() to nobody", "Uvicorn", from_coroutine, None, "µs/event")
    yield Result("publish() to nobody", "Uvicorn", from_thread, None, "µs/event")


def measure_redis(context: Context) -> Iterator[Result]:
    """Publish through Redis: two processes of 200 clients each, one of which publishes."""
    if shutil.which("redis-server") is None:
        print("redis: left out, since there is no redis-server.", file=sys.stderr)
        return
    clients, events = 200, context.size(600, 100)
    with (
        redis() as (redis_pid, url),
        context.project("uvicorn", BENCHMARK_REDIS=url) as publisher,
        context.project("uvicorn", BENCHMARK_REDIS=url) as other,
        Swarm() as swarm,
    ):
        for server in (publisher, other):
            swarm.open(server.port, "/follow/", clients)
        processes = [publisher.pid, other.pid, redis_pid]

        def publish() -> list[float]:
            already = swarm.connections[0].events
            begun = [machine.cpu_seconds(pid) for pid in processes]
            asked = publisher.begin(f"/publish/?size={SIZE}&count={events}")
            swarm.wait_for(already + events)
            answer(asked)
            ended = [machine.cpu_seconds(pid) for pid in processes]
            return [(b - a) / events * 1e6 for a, b in zip(begun, ended, strict=True)]

        turns = [publish() for _ in range(context.size(3, 1))]
    there, here, redis_itself = (min(column) for column in zip(*turns, strict=True))
    what = f"Redis, {clients} clients each:"
    note = f"{here / clients:.1f} µs/delivery"
    yield Result(f"{what} publishing process", "Uvicorn", there, None, "µs/event")
    yield Result(f"{what} the other process", "Uvicorn", here, None, "µs/event", note=note)
    yield Result(f"{what} Redis itself", "", redis_itself, None, "µs/event")


@contextmanager
def redis() -> Iterator[tuple[int, str]]:
    """Run a Redis of our own on a free port; yield its process id and address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory() as directory:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        process = subprocess.Popen(
            [*command, "--dir", directory, "--logfile", str(Path(directory) / "log")], text=True
        )
        try:
            wait_for_port(port)
            yield process.pid, f"redis://127.0.0.1:{port}/0"
        finally:
            stop(process)
