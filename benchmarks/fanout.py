"""One topic, many clients: what does a delivery cost the server, and how long does it take?"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from statistics import median as middle
from statistics import quantiles

from . import nchan
from .clients import Swarm
from .context import ALL_SERVERS, SERVERS, Context, best
from .report import Result
from .servers import Server

#: Bytes of an event's data.
SIZE = 200
LIMITS = {"uvicorn": (0.75, None), "daphne": (0.9, 0.3)}
#: What a delivery of an event by itself may cost beside nchan's.
ONE_BY_ONE = {"uvicorn": 1.1, "daphne": 1.5, "granian": 1.5}
#: Events a second, in the measurement of latency.
RATE = 20


def measure(context: Context) -> Iterator[Result]:
    """Compare a topic with the bare application's queue for each client, at full speed."""
    for kind, name in SERVERS.items():
        limit, aim = LIMITS[kind]
        for clients in (100, context.size(1000, 300)):
            with context.project(kind) as ours, context.bare(kind) as bare:
                sides = [(ours, "/follow/", "apublish"), (bare, "/follow/", "")]
                events = context.size(60_000, 12_000) // clients
                delivery, beside = compare(context, sides, clients, events)
            what = f"fan-out, {clients} clients"
            yield Result(what, name, delivery, beside, "µs/delivery", limit, aim)


def measure_eventstream(context: Context) -> Iterator[Result]:
    """Compare with django-eventstream, where it is installed: 100 clients."""
    if find_spec("django_eventstream") is None:
        print("eventstream: left out, since it is not installed.", file=sys.stderr)
        return
    with context.project("uvicorn", BENCHMARK_EVENTSTREAM="1") as server:
        sides = [(server, "/follow/", "apublish"), (server, "/eventstream/", "eventstream")]
        ours, theirs = compare(context, sides, 100, context.size(200, 50))
    note = "beside django-eventstream"
    yield Result("fan-out, 100 clients", "Uvicorn", ours, theirs, "µs/delivery", note=note)


def compare(
    context: Context, sides: Sequence[tuple[Server, str, str]], clients: int, events: int
) -> list[float]:
    """Return the µs for each delivery of each side: a server, what is followed, who publishes."""
    with ExitStack() as stack:
        measures = []
        for server, path, by in sides:
            swarm = stack.enter_context(Swarm())
            swarm.open(server.port, path, clients)
            measures.append(partial(full_speed, server, swarm, events, by))
        return best(context.size(3, 2), measures)


def measure_latency(context: Context) -> Iterator[Result]:
    """Compare the time from publishing to arrival: 500 clients, 20 events a second.

    And what a delivery costs there: of events that come one by one, so that nothing is joined. Where
    nginx has nchan, the limits are its figures.
    """
    clients, seconds = context.size(500, 100), context.size(4, 1)
    beside = nchan.is_installed()
    if not beside:
        print("latency: without nchan; apt-get install libnginx-mod-nchan", file=sys.stderr)
    for kind, name in ALL_SERVERS.items():
        with ExitStack() as stack:
            sides: list[Server] = [
                stack.enter_context(context.project(kind)),
                stack.enter_context(context.bare(kind)),
            ]
            if beside:
                sides.append(stack.enter_context(nchan.nchan()))
            found = [
                [latency(server, clients, seconds) for server in sides]
                for _ in range(context.size(5, 1))
            ]
        # The middle one: of two servers that cost nearly the same, the least figure is luck.
        median, late, cost = (
            [middle(turn[which][figure] for turn in found) for which in range(len(sides))]
            for figure in (0, 1, 2)
        )
        what = f"latency, {clients} clients"
        for which, limits in ("bare", (None, 1, None)), ("nchan", (None, 1, ONE_BY_ONE.get(kind))):
            at = 1 if which == "bare" else 2
            if at == len(sides):
                continue
            note = f"beside {which}"
            for figure, label, unit, limit in (
                (median, f"{what}, median", "ms", limits[0]),
                (late, f"{what}, 99th percentile", "ms", limits[1]),
                (cost, f"one by one, {clients} clients", "µs/delivery", limits[2]),
            ):
                yield Result(label, name, figure[0], figure[at], unit, limit, note=note)


def measure_rush(context: Context) -> Iterator[Result]:
    """Compare the time to arrival at the rate that the bare application just keeps up with.

    1,000 clients; of each piece that arrives, its oldest event counts. The note has the same at our
    own full speed, which is another rate.
    """
    clients, events = context.size(1000, 200), context.size(200, 60)
    for kind, name in ALL_SERVERS.items():
        turns = []
        with context.project(kind) as ours, context.bare(kind) as bare:
            for _ in range(context.size(3, 1)):
                rate, beside = rush(bare, clients, events)
                _, late = rush(ours, clients, events, rate)
                turns.append((late, beside, rate, *rush(ours, clients, events)))
        late, beside = (min(turn[which] for turn in turns) for which in (0, 1))
        _, _, rate, own_rate, own = min(turns)
        what = f"{rate:.0f} events a second, {clients} clients, 99th percentile"
        note = f"at {own_rate:.0f} events a second: {own:.0f} ms"
        yield Result(what, name, late, beside, "ms", 1, note=note)


def rush(server: Server, clients: int, events: int, rate: float = 0) -> tuple[float, float]:
    """Publish at a rate, or as fast as may be; return the rate, and the 99th percentile in ms."""
    with Swarm() as swarm:
        for connection in swarm.open(server.port, "/follow/", clients):
            connection.latencies = []
        begun = time.monotonic()
        page = server.begin(f"/publish/?size={SIZE}&count={events}&rate={rate}")
        swarm.wait_for(events, nap=0)
        rate = events / (time.monotonic() - begun)
        server.end(page)
        taken = [each for connection in swarm.connections for each in connection.latencies or ()]
    return rate, quantiles(taken, n=100)[98] / 1e6


def full_speed(server: Server, swarm: Swarm, events: int, by: str) -> float:
    """Publish as fast as may be; return the server's µs for each delivery."""
    already = swarm.connections[0].events
    begun = server.cpu()
    page = server.begin(f"/publish/?size={SIZE}&count={events}&by={by}")
    each = swarm.connections[0].streams
    swarm.wait_for(already + events * each)
    server.end(page)
    return (server.cpu() - begun) / events / each / len(swarm.connections) * 1e6


def latency(server: Server, clients: int, seconds: int) -> tuple[float, float, float]:
    """Return median and 99th percentile of the time to arrival, in ms, and µs for each delivery."""
    with Swarm() as swarm:
        headers = {"Accept": "text/event-stream"}
        for connection in swarm.open(server.port, "/follow/", clients, headers=headers):
            connection.latencies = []
        begun = server.cpu()
        page = server.begin(f"/publish/?size={SIZE}&count={seconds * RATE}&rate={RATE}")
        swarm.wait_for(seconds * RATE, nap=0)
        server.end(page)
        cost = (server.cpu() - begun) / (seconds * RATE * clients) * 1e6
        taken = [each for connection in swarm.connections for each in connection.latencies or ()]
    cut = quantiles(taken, n=100)
    return cut[49] / 1e6, cut[98] / 1e6, cost
