"""``manage.py sse_publish``: publish an event from the command line."""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_sse.brokers import get_broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.exceptions import SSEError
from django_sse.topics.publishing import publish


class Command(BaseCommand):
    """Publishes one event to a topic of the configured broker."""

    help = (
        "Publish an event to a topic; prints its id. Without DATA, it is read from standard input."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return a parser that takes options between TOPIC and DATA too."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("topic", metavar="TOPIC")
        parser.add_argument("data", metavar="DATA", nargs="?", help="the text; - is standard input")
        parser.add_argument("--event", help="the event's type; clients see 'message' without it")
        parser.add_argument("--key", help="what the event is about, for overflow = 'latest'")
        parser.add_argument(
            "--json", action="store_true", help="refuse DATA that is no JSON, and send it compact"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Publish the event at once, and show its id."""
        data = options["data"]
        if data is None or data == "-":
            data = sys.stdin.read().removesuffix("\n")
        if options["json"]:
            try:
                json.loads(data, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                raise CommandError(f"DATA is no JSON: {error}") from error
            # Remove only the white space. To parse and write it again could change numbers with
            # many digits.
            data = _SPACE.sub(lambda found: found[1] or "", data)
        if isinstance(get_broker(), MemoryBroker):
            self.stderr.write(
                "The MemoryBroker belongs to one process: no server will see this event. "
                'Set DJANGO_SSE["BROKER"] to a DatabaseBroker or RedisBroker to publish from a command.'
            )
        try:
            event_id = publish(
                options["topic"],
                data,
                event=options["event"],
                key=options["key"],
                on_commit=False,
            )
        except SSEError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(str(event_id))


# A string of JSON, or white space outside of one.
_SPACE = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is none of its numbers")
