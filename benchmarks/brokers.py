"""What the brokers cost beside each other, and beside an ``INSERT`` and ``COMMIT`` by psycopg."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from tests.support.postgres_server import PostgresServer, program

from . import machine
from .clients import Swarm
from .context import Context, best
from .publishing import redis
from .report import Result
from .servers import ROOT

#: Events of which the history of the large database consists.
MANY = 1_000_000


def measure(context: Context) -> Iterator[Result]:
    """Compare DatabaseBroker with RedisBroker, and with the floor, in one run."""
    if shutil.which("redis-server") is None or program("initdb") is None:
        print("brokers: left out, since they need redis-server and PostgreSQL.", file=sys.stderr)
        return
    with ExitStack() as stack:
        with machine.on(machine.cores()[0]):
            _, url = stack.enter_context(redis())
        sqlite = Process(context, BENCHMARK_HISTORY="1000")
        memory = Process(context, BENCHMARK_REDIS=url)
        sqlite.run("prepare")
        for setting, value in ("synchronous_commit", "on"), ("synchronous_commit", "off"):
            with postgres(**{setting: value}) as server:
                ours = Process(
                    context, BENCHMARK_HISTORY="1000", BENCHMARK_POSTGRES=str(server.port)
                )
                ours.run("prepare")
                yield from _publishing(context, ours, memory, f"{setting}={value}")
                if value == "on":
                    yield from _arrival(context, ours, memory, sqlite)
                    yield from _idle(context)
                    yield from _history(context, ours)
        [found] = best(
            context.size(3, 1),
            [lambda: sqlite.figure("publish", "direct", 1, context.size(1500, 300))],
        )
        yield Result("SQLite: publish(), one publisher", "", found, None, "µs/event")


def _publishing(context: Context, ours: Process, redis: Process, setting: str) -> Iterator[Result]:
    for threads, limit in ((1, 1.3), (16, 1.0)):
        count = context.size(3200, 480)
        floor, direct, change, told, beside = best(
            context.size(4, 1),
            [
                *(
                    partial(ours.figure, "publish", how, threads, count)
                    for how in ("floor", "direct", "change", "told")
                ),
                partial(redis.figure, "publish", "direct", threads, count),
            ],
        )
        what = f"PostgreSQL ({setting}), {threads} at once:"
        note = f"Redis {beside:.0f} µs"
        yield Result(
            f"{what} publish() beside the floor", "", direct, floor, "µs/event", limit, note=note
        )
        note = "beside the change without its event"
        yield Result(f"{what} a change and its event", "", told, change, "µs", note=note)


def _arrival(context: Context, ours: Process, redis: Process, sqlite: Process) -> Iterator[Result]:
    count = context.size(200, 50)
    postgres_ms, redis_ms, sqlite_ms, floor_ms = best(
        context.size(3, 1),
        [
            *(lambda it=it: it.arrival(count) * 1000 for it in (ours, redis, sqlite)),
            lambda: ours.arrival(count, "_floor") * 1000,
        ],
    )
    what = "from publish() to another process, median:"
    yield Result(f"{what} PostgreSQL beside Redis", "", postgres_ms, redis_ms, "ms", 1.5)
    its = f"{what} PostgreSQL beside INSERT, NOTIFY, COMMIT and a query by psycopg"
    yield Result(its, "", postgres_ms, floor_ms, "ms")
    yield Result(f"{what} SQLite beside 150 ms", "", sqlite_ms, 150, "ms", 1)


def _idle(context: Context) -> Iterator[Result]:
    clients, seconds = context.size(1000, 100), context.size(30, 10)
    # The server's own housekeeping would be counted too.
    with postgres(autovacuum="off") as server:
        environment = {"BENCHMARK_HISTORY": "1000", "BENCHMARK_POSTGRES": str(server.port)}
        Process(context, **environment).run("prepare")
        with context.project("uvicorn", **environment) as process, Swarm() as swarm:
            swarm.open(process.port, "/follow/", clients)
            time.sleep(12)  # The connections that the set-up needed are closed by then.
            before = _statements(server)
            time.sleep(seconds)
            asked = (_statements(server) - before - 1) / seconds * 5
    what = f"PostgreSQL: statements in 5 s for {clients} idle followers"
    yield Result(what, "Uvicorn", asked, 1, "", 1)
    shares = []
    for environment in {"BENCHMARK_HISTORY": "1000"}, {}:
        with context.project("uvicorn", **environment) as process, Swarm() as swarm:
            swarm.open(process.port, "/follow/", clients)
            time.sleep(3)
            begun = process.cpu()
            time.sleep(seconds)
            shares.append((process.cpu() - begun) / seconds * 100)
    note = f"{shares[1]:.2f} % with MemoryBroker, for the heartbeats"
    what = f"SQLite: what {clients} idle followers cost more"
    yield Result(what, "Uvicorn", shares[0] - shares[1], 1, "% of a core", 1, note=note)


def _statements(server: PostgresServer) -> int:
    """Return how many transactions the database has committed: each statement alone is one."""
    time.sleep(1.5)  # Backends report once a second.
    return int(
        server.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'")
    )


def _history(context: Context, ours: Process) -> Iterator[Result]:
    rows = context.size(MANY, 50_000)
    ours = ours.with_history(2 * MANY)

    def figures() -> list[float]:
        return best(
            context.size(3, 1),
            [
                lambda: ours.figure("publish", "direct", 1, context.size(2000, 300)),
                lambda: ours.figure("replay", 200) * 1000,
                lambda: ours.figure("trim", 2 * MANY) * 1000,
            ],
        )

    few = figures()
    ours.run("fill", rows)
    many = figures()
    names = ("publish()", "replay of 200 events", "a look for what is too old")
    for what, ours_now, before, unit in zip(
        names, many, few, ("µs/event", "ms", "ms"), strict=True
    ):
        yield Result(
            f"PostgreSQL, {rows:,} events stored: {what}",
            "",
            ours_now,
            before,
            unit,
            note="beside a few thousand",
        )


class Process:
    """Runs ``benchmarks.broker`` in processes of the clients' core, with one broker."""

    def __init__(self, context: Context, **environment: str) -> None:
        self._context = context
        self._environment = environment

    def with_history(self, events: int) -> Process:
        """Return the same with another ``HISTORY``."""
        return Process(self._context, **{**self._environment, "BENCHMARK_HISTORY": str(events)})

    def run(self, *arguments: object) -> str:
        """Run it, and return what it prints."""
        with self._begin(*arguments) as process:
            printed, _ = process.communicate(timeout=300)
        if process.returncode:
            raise RuntimeError(f"benchmarks.broker {arguments} ended with {process.returncode}")
        return printed

    def figure(self, *arguments: object) -> float:
        """Run it, and return the figure that it prints."""
        return float(self.run(*arguments))

    def arrival(self, count: int, of: str = "") -> float:
        """Return the seconds from one process's ``publish()`` to another's delivery: the median."""
        with self._begin(f"listen{of}", count) as listening:
            assert listening.stdout is not None
            listening.stdout.readline()
            self.run(f"tick{of}", count)
            printed, _ = listening.communicate(timeout=60)
        return float(printed)

    def _begin(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.broker", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **self._context.environment, **self._environment},
            stdout=subprocess.PIPE,
            text=True,
        )


@contextmanager
def postgres(**options: str) -> Iterator[PostgresServer]:
    """Run PostgreSQL on the servers' core."""
    with ExitStack() as stack:
        with machine.on(machine.cores()[0]):
            server = stack.enter_context(PostgresServer(fsync="on", **options))
        yield server
