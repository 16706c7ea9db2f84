"""One connection, one typed event after another: what does an event cost the server?"""

from __future__ import annotations

from collections.abc import Iterator

from .clients import Swarm
from .context import SERVERS, Context, best
from .report import Result
from .servers import Server


def measure(context: Context) -> Iterator[Result]:
    """Compare with DRF's serialization alone plus the bare application's sending of the same bytes."""
    for kind, name in SERVERS.items():
        with context.project(kind) as ours, context.bare(kind) as bare:
            yield from compare(context, name, ours, bare)


def compare(context: Context, name: str, ours: Server, bare: Server) -> Iterator[Result]:
    count, size = context.size(50_000, 10_000), event_size(ours)
    typed, generator, text, serialized, sent = best(
        context.size(3, 2),
        [
            lambda: stream(ours, f"/burst/?count={count}", count),
            lambda: stream(ours, f"/burst/generator/?count={count}", count),
            lambda: stream(ours, f"/burst/text/?count={count}&size={size}", count),
            lambda: page(ours, f"/serialize/?count={count}", count),
            lambda: stream(bare, f"/burst/?count={count}&size={size}", count),
        ],
    )
    both = serialized + sent
    note = f"{serialized:.1f} µs DRF alone + {sent:.1f} µs sent bare"
    yield Result("burst, send(obj)", name, typed, both, "µs/event", 1.1, note=note)
    yield Result("burst, yield obj", name, generator, both, "µs/event", note="the same")
    yield Result("burst, send(text)", name, text, sent, "µs/event", note="beside sent bare")


def event_size(server: Server) -> int:
    """Return how many bytes a typed event has."""
    with Swarm() as swarm:
        few = swarm.open(server.port, "/burst/?count=1")[0]
        swarm.wait_for(1)
        many = swarm.open(server.port, "/burst/?count=2")[0]
        swarm.listen(0.5)
        return many.body - few.body


def stream(server: Server, path: str, count: int) -> float:
    """Return the server's µs for each of the events of a stream."""
    begun = server.cpu()
    with Swarm() as swarm:
        swarm.open(server.port, path)
        swarm.wait_for(count)
        return (server.cpu() - begun) / count * 1e6


def page(server: Server, path: str, count: int) -> float:
    """Return the server's µs for each of so many things that one page does."""
    begun = server.cpu()
    server.get(path)
    return (server.cpu() - begun) / count * 1e6
