"""Idle streams: how much memory does each of them take?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from statistics import median

from . import machine
from .clients import Swarm, settle
from .context import SERVERS, Context
from .explain import explain
from .report import Result
from .servers import Server

WARM_UP = 50
STEPS = 5
#: Seconds between two heartbeats: the setting's default.
PERIOD = 15
#: What Chromium sends, and a proxy adds.
BROWSER = {
    "Accept": "text/event-stream",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-US,en;q=0.9,de;q=0.8",
    "Cache-Control": "no-cache",
    "Pragma": "no-cache",
    "Referer": "https://shop.example.com/orders/",
    "Sec-Ch-Ua": '"Chromium";v="131", "Not_A Brand";v="24"',
    "Sec-Ch-Ua-Mobile": "?0",
    "Sec-Ch-Ua-Platform": '"Linux"',
    "Sec-Fetch-Dest": "empty",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Site": "same-origin",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/131.0.0.0 Safari/537.36",
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Real-Ip": "203.0.113.7",
}


def measure(context: Context) -> Iterator[Result]:
    """Compare 1,000 idle streams, heartbeats on, with the bare application waiting in ``receive()``.

    And followers of a topic with streams that follow none.
    """
    count = context.size(950, 100)
    with context.bare("uvicorn") as server:
        kernel = kernel_kb(server, "/idle/", count)
    yield Result("idle stream: the kernel, both ends of the connection", "", kernel, None, "kB")
    for kind, name in SERVERS.items():
        with context.bare(kind) as server:
            bare = private_kb(server, "/idle/", count)
        with context.project(kind) as server:
            idle = private_kb(server, "/idle/", count)
        with context.project(kind) as server:
            private = private_kb(server, "/idle/private/", count, context.login)
        with context.project(kind) as server:
            follower = private_kb(server, "/follow/", count)
        with context.project(kind, BENCHMARK_PLAIN="1") as server:
            plain = private_kb(server, "/follow/open/", count)
        with (
            context.project(kind, BENCHMARK_PLAIN="1") as server,
            context.bare(kind) as beside,
        ):
            browsers = private_kb(server, "/follow/open/", count, BROWSER)
            bare_browsers = private_kb(beside, "/idle/", count, BROWSER)
        what = "idle follower, no middleware, nobody asked"
        yield Result(what, name, plain, bare, "kB", 1.5)
        yield Result("the same, with a browser's headers", name, browsers, bare_browsers, "kB", 1.5)
        yield Result("idle stream", name, idle, bare, "kB", 2.5, 2)
        yield Result("idle stream, session login", name, private, bare, "kB", 2.5, 2)
        yield Result("idle follower", name, follower, idle, "kB", 1.2, note="beside an idle stream")
        if context.explain:
            for path in ("/idle/private/", "/follow/"):
                print(explain(context, kind, path, context.login), file=sys.stderr)


def measure_heartbeats(context: Context) -> Iterator[Result]:
    """Compare what the heartbeats of 1,000 idle streams cost with the bare application's.

    Whatever else wakes up for a stream in that time is counted, too.
    """
    count, seconds = context.size(950, 200), context.size(30.0, 15.0)
    for kind, name in SERVERS.items():
        with context.project(kind) as ours, context.bare(kind) as bare:
            sides = [(ours, "/idle/"), (bare, f"/beat/?period={PERIOD}")]
            cost, beside = (beats(server, path, count, seconds) for server, path in sides)
        what = f"heartbeat, {count} idle streams"
        yield Result(what, name, cost, beside, "µs/heartbeat", 1)


def beats(server: Server, path: str, count: int, seconds: float) -> float:
    """Return the server's µs for each heartbeat of ``count`` streams within some seconds."""
    with Swarm() as swarm:
        swarm.open(server.port, path, count)
        settle(server.cpu)
        begun = server.cpu()
        swarm.listen(seconds)
        used = server.cpu() - begun
    return used / (count * seconds / PERIOD) * 1e6


def private_kb(
    server: Server, path: str, count: int, headers: dict[str, str] | None = None
) -> float:
    """Return the private memory that each of ``count`` streams adds, in kB.

    They are opened in steps, and the median of the steps is taken: what a server keeps of a moment
    with much to do, in one of them, is no stream's.
    """
    found = []
    with Swarm() as swarm:
        swarm.open(server.port, path, WARM_UP, headers=headers)
        before = settled_kb(server)
        for _ in range(STEPS):
            swarm.open(server.port, path, count // STEPS, headers=headers)
            after = settled_kb(server)
            found.append((after - before) / (count // STEPS))
            before = after
    return median(found)


def kernel_kb(server: Server, path: str, count: int) -> float:
    """Return the kernel's memory that each of ``count`` streams adds with its client, in kB.

    It keeps what it had for sockets that are closed, so only the first of such measurements counts.
    """
    before = machine.kernel_kb()
    with Swarm() as swarm:
        swarm.open(server.port, path, count)
        return (machine.kernel_kb() - before) / count


def settled_kb(server: Server) -> int:
    """Return the private memory of a server that has nothing to do, in kB."""
    settle(server.cpu)
    private, _ = server.memory()
    return private
