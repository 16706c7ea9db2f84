"""A model as a live stream: what do followers of one queryset cost, of a few, and of one each?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from .clients import Swarm, settle
from .context import SERVERS, Context
from .report import Result
from .servers import Server

#: Changes a second. Each is checked by itself.
RATE = 20


def measure(context: Context) -> Iterator[Result]:
    """Compare followers of rows with those of a topic to which the same rows are published.

    Both sides save the row, which is in the figures. Where each follower has a queryset, less is
    measured, since it takes longer than there is between two changes.
    """
    clients, count, turns = context.size(1000, 100), context.size(100, 20), context.size(3, 1)
    ways: list[tuple[str, Callable[[int], str], int, float | None]] = [
        ("one queryset", lambda number: "/rows/", 1, 1.1),
        ("10 querysets, all have the row", lambda number: f"/rows/?above={number % 10}", 1, None),
        ("10 querysets, one has the row", lambda number: f"/rows/?part={number % 10}", 1, None),
        ("a queryset each, all have the row", lambda number: f"/rows/?above={number}", 5, None),
        ("a queryset each, one has the row", lambda number: f"/rows/?part={number}", 5, None),
    ]
    for kind, name in SERVERS.items():
        with context.project(kind, BENCHMARK_PLAIN="1") as server:
            path = lambda number: "/rows/topic/"  # noqa: E731
            beside = min(cost(server, clients, count, path)[0] for _ in range(turns))
        for what, path, less, limit in ways:
            with context.project(kind, BENCHMARK_PLAIN="1", BENCHMARK_ROWS="1") as server:
                changes = count // less
                found = min(cost(server, clients, changes, path) for _ in range(turns // less or 1))
            note = f"{found[1] / changes:.4g} queries to check a change"
            label = f"{clients} followers: {what}"
            yield Result(label, name, found[0], beside, "ms/change", limit, note=note)
        yield from _stampede(context, kind, name)


def _stampede(context: Context, kind: str, name: str) -> Iterator[Result]:
    """Open followers of one queryset all at once, with pages of the snapshot shared and unshared."""
    clients, users = context.size(500, 50), context.size(1000, 400)
    found = []
    for environment in {}, {"BENCHMARK_UNSHARED": "1"}:
        with (
            context.project(kind, BENCHMARK_PLAIN="1", BENCHMARK_ROWS="1", **environment) as server,
            Swarm() as swarm,
        ):
            before = server.ask(f"/rows/pages/?users={users}", timeout=60)
            begun, started = server.cpu(), time.monotonic()
            swarm.open(server.port, "/rows/", clients, at_once=clients)
            swarm.wait_for(users + 2, nap=0.002)
            taken = time.monotonic() - started
            cost = (server.cpu() - begun) / clients * 1e3
            found.append((cost, server.ask("/rows/pages/", timeout=60) - before, taken))
    (ours, pages, taken), (beside, all_pages, longer) = found
    note = f"{pages} pages read in {taken:.2f} s; unshared {all_pages} in {longer:.2f} s"
    label = f"{clients} followers at once, snapshots of {users} rows"
    yield Result(label, name, ours, beside, "ms/client", 1, note=note)


def cost(server: Server, clients: int, count: int, path: Callable[[int], str]) -> tuple[float, int]:
    """Return the server's ms for each change, and how many queries checked all of them."""
    with Swarm() as swarm:
        paths = [path(number) for number in range(clients)]
        for each, number in Counter(paths).items():
            swarm.open(server.port, each, number)
        swarm.listen(0.2)
        settle(server.cpu)
        events, begun = swarm.events, server.cpu()
        # The clients read at the end: on one machine, the server would pay for waking them.
        queries = server.ask(f"/rows/change/?count={count}&rate={RATE}", timeout=600)
        settle(server.cpu, limit=300)
        swarm.listen(0.5)
        assert swarm.events > events
        return (server.cpu() - begun) / count * 1e3, queries
