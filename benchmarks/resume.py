"""Clients that all come back after a restart: what does each cost, and do pages wait meanwhile?"""

from __future__ import annotations

import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import quantiles
from typing import NamedTuple

from tests.support.postgres_server import program

from .brokers import Process, postgres
from .clients import Swarm, request, settle
from .context import SERVERS, Context
from .fanout import SIZE
from .publishing import redis
from .report import Result
from .servers import ROOT, Server
from .setup import coming_and_going

#: Events that each client has missed.
MISSED = 100
#: Seconds within which all of them come back.
SECONDS = 10
#: The most clients at once: each has a port of its own.
CLIENTS = 10_000

PATH = "/follow/open/"


class Return(NamedTuple):
    """µs of the server for a client, the 99th percentile of a page's ms, kB of memory at most."""

    cost: float
    page: float
    memory: float


def measure(context: Context) -> Iterator[Result]:
    """Compare clients that come back, each with 100 missed events, with clients that are new.

    The garbage collector is set as the documentation recommends it for many streams.
    """
    count = context.size(CLIENTS, 300)
    for kind, name in SERVERS.items():
        for broker in "memory", "sqlite", "redis", "postgresql":
            with ExitStack() as stack:
                environment = stack.enter_context(_broker(context, broker))
                if environment is None:
                    print(f"resume: {broker} is left out, it is not installed.", file=sys.stderr)
                    continue
                environment |= {"BENCHMARK_PLAIN": "1", "BENCHMARK_GC": "1"}
                with context.project(kind, **environment) as server:
                    coming_and_going(server, PATH, 60, {})
                    new = coming_and_going(server, PATH, min(count, 1000), {})
                    # Without CommonMiddleware the body comes in chunks.
                    since = re.findall(r"[0-9]+-[0-9]+", server.get("/cursor/"))[0]
                    server.get(f"/publish/?size={SIZE}&count={MISSED}")
                    if broker == "memory":
                        back = coming_back(server, count, since)
                if broker != "memory":
                    with context.project(kind, **environment) as server:
                        coming_and_going(server, PATH, 60, {})
                        back = coming_back(server, count, since)
            what = f"{count} clients resume, {MISSED} missed events each, {broker}"
            note = f"beside a set-up; {back.memory:.0f} kB each at the most"
            yield Result(what, name, back.cost, new, "µs", 2, note=note)
            yield Result("a page meanwhile, 99th percentile", name, back.page, 250, "ms", 1)


@contextmanager
def _broker(context: Context, name: str) -> Iterator[dict[str, str] | None]:
    """Run what a broker needs; yield the environment that chooses it."""
    with ExitStack() as stack:
        if name == "memory":
            yield {}
        elif name == "sqlite":
            environment = {"BENCHMARK_HISTORY": "1000"}
            Process(context, **environment).run("prepare")
            yield environment
        elif name == "redis" and shutil.which("redis-server"):
            _, url = stack.enter_context(redis())
            yield {"BENCHMARK_REDIS": url}
        elif name == "postgresql" and program("initdb"):
            server = stack.enter_context(postgres())
            environment = {"BENCHMARK_HISTORY": "1000", "BENCHMARK_POSTGRES": str(server.port)}
            Process(context, **environment).run("prepare")
            yield environment
        else:
            yield None


def coming_back(server: Server, count: int, since: str) -> Return:
    """Let clients resume within ``SECONDS``, and ask for pages meanwhile, whose cost is counted too."""
    begun, (private, _) = server.cpu(), server.memory()
    pages = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.resume", str(server.port)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with Swarm() as swarm:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": since}
        swarm.open(server.port, PATH, count, headers=headers, at_once=count, rate=count / SECONDS)
        swarm.wait_for(MISSED)
        memory = (server.memory()[0] - private) / count
        printed, _ = pages.communicate("", timeout=60)
    settle(server.cpu)
    return Return((server.cpu() - begun) / count * 1e6, float(printed), memory)


def ask_for_pages(port: int) -> None:
    """Ask for a page 20 times a second until ``stdin`` ends; print the 99th percentile, in ms."""
    took = []
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        begun = time.monotonic()
        request(port, "/warm-up/", {}, 60)
        took.append((time.monotonic() - begun) * 1000)
    print(quantiles(took, n=100)[98])


if __name__ == "__main__":
    ask_for_pages(int(sys.argv[1]))
