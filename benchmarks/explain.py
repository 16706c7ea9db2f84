"""What the memory of an idle stream is: by the line that allocated it, and by type of object."""

from __future__ import annotations

from .clients import Swarm, settle
from .context import Context

COUNT = 200
WARM_UP = 100
LINES = 40


def explain(context: Context, kind: str, path: str, headers: dict[str, str] | None = None) -> str:
    """Return a report on the streams of ``path``, measured in a server that traces its memory."""
    with context.project(kind) as server, Swarm() as swarm:
        swarm.open(server.port, path, WARM_UP, headers=headers)
        server.ask("/trace/mark/")
        settle(server.cpu)
        swarm.open(server.port, path, COUNT, headers=headers)
        settle(server.cpu)
        found = server.ask("/trace/report/")
    lines = [
        f"{path} on {kind}: {found['traced'] / COUNT:,.0f} bytes of Python objects a stream",
        "  bytes  blocks  line",
    ]
    for place, size, blocks in found["lines"][:LINES]:
        lines.append(f"{size / COUNT:7.0f}  {blocks / COUNT:6.1f}  {place}")
    lines.append(" number  type (of those the garbage collector knows)")
    for name, number in found["types"]:
        if number > COUNT / 2:
            lines.append(f"{number / COUNT:7.1f}  {name}")
    return "\n".join(lines)
