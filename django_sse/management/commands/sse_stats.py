"""``manage.py sse_stats``: show the numbers of all processes that serve streams."""

from __future__ import annotations

import contextlib
import json
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_sse.brokers import get_broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.exceptions import BrokerError
from django_sse.management.terminal import harmless
from django_sse.topics.orders import reports

#: The columns of the table, by their names in ``django_sse.stats()``.
COLUMNS = (
    "open",
    "opened",
    "closed",
    "refused",
    "sent",
    "dropped",
    "published",
    "overflowed",
    "stalled",
    "errors",
)


class Command(BaseCommand):
    """Asks all processes through the broker, and shows their answers and the sum."""

    help = "Show how many streams the processes have, and what they have sent."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument(
            "--json", action="store_true", help="one JSON object a round: processes, total"
        )
        parser.add_argument(
            "--watch",
            type=_seconds,
            nargs="?",
            const=2.0,
            metavar="SECONDS",
            help="ask again every SECONDS (2) until Ctrl+C",
        )
        parser.add_argument(
            "--wait", type=_seconds, default=1.0, metavar="SECONDS", help="wait for answers (1)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Ask once, or repeatedly with ``--watch``."""
        if isinstance(get_broker(), MemoryBroker):
            raise CommandError(
                "The MemoryBroker belongs to one process: no server can be asked from here. Set "
                'DJANGO_SSE["BROKER"] to a DatabaseBroker or RedisBroker, or look at the admin\'s page "Open streams".'
            )
        if options["watch"] is None:
            self._show(_ask(options["wait"]), as_json=options["json"])
            return
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                try:
                    self._show(_ask(options["wait"]), as_json=options["json"])
                except CommandError as error:
                    self.stderr.write(str(error))  # Go on: the broker may come back.
                time.sleep(options["watch"])

    def _show(self, processes: Mapping[str, Mapping[str, int]], *, as_json: bool) -> None:
        total: Counter[str] = Counter()
        for numbers in processes.values():
            total.update(numbers)
        if as_json:
            self.stdout.write(json.dumps({"processes": processes, "total": total}))
        else:
            rows = [["process", *COLUMNS]]
            for name, numbers in [*sorted(processes.items()), ("all", total)]:
                rows.append(
                    [harmless(name), *(f"{numbers.get(column, 0):,}" for column in COLUMNS)]
                )
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for first, *rest in rows:
                cells = [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
                self.stdout.write("  ".join([first.ljust(widths[0]), *cells]))
        self.stdout.flush()


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 86_400:
        raise ValueError("Seconds above 0 are needed.")
    return number


def _ask(wait: float) -> dict[str, dict[str, int]]:
    try:
        found = reports(wait=wait)
    except BrokerError as error:
        raise CommandError(f"The broker is away: {error}") from error
    if not found:
        raise CommandError(
            f"No process answered within {wait:g} s. Those that have no stream don't listen; one "
            "that is very busy may need a longer --wait."
        )
    # A process with several event loops answers once for each of them, with the same numbers.
    processes = {report["id"]: report for report in found}
    names = Counter(report["process"] for report in processes.values())
    return {
        report["process"]
        if names[report["process"]] == 1
        else f"{report['process']}:{id[:6]}": report["stats"]
        for id, report in processes.items()
    }
