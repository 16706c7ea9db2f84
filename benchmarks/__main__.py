"""``python -m benchmarks [name …] [--quick] [--explain]``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from . import (
    brokers,
    burst,
    fanout,
    machine,
    memory,
    models,
    publishing,
    resume,
    secure,
    setup,
    triggers,
    typed,
)
from .context import Context, prepared
from .report import Result, row, table

MEASUREMENTS: dict[str, Callable[[Context], Iterator[Result]]] = {
    "burst": burst.measure,
    "memory": memory.measure,
    "heartbeat": memory.measure_heartbeats,
    "setup": setup.measure,
    "open": setup.measure_open,
    "resume": resume.measure,
    "fanout": fanout.measure,
    "eventstream": fanout.measure_eventstream,
    "latency": fanout.measure_latency,
    "rush": fanout.measure_rush,
    "publish": publishing.measure_nobody,
    "secure": secure.measure,
    "typed": typed.measure,
    "models": models.measure,
    "triggers": triggers.measure,
    "redis": publishing.measure_redis,
    "brokers": brokers.measure,
}


def main() -> int:
    """Run the measurements that were named, or all, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(MEASUREMENTS))
    parser.add_argument("--quick", action="store_true", help="less of everything: under a minute")
    parser.add_argument("--explain", action="store_true", help="say also what the memory is")
    options = parser.parse_args()
    unknown = set(options.names) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"no measurement is named {', '.join(sorted(unknown))}")
    machine.allow_many_connections()
    machine.pin(machine.cores()[1])
    results: list[Result] = []
    with prepared(quick=options.quick, explain=options.explain) as context:
        for name in options.names or MEASUREMENTS:
            begun = time.monotonic()
            for result in MEASUREMENTS[name](context):
                results.append(result)
                print(row(result), file=sys.stderr, flush=True)
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
