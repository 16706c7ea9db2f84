"""``manage.py sse_tail``: show the events of topics in the terminal."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Collection
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_sse.brokers import get_broker
from django_sse.brokers.base import EventId, Message
from django_sse.brokers.memory import MemoryBroker
from django_sse.exceptions import HistoryLost, InvalidTopic
from django_sse.management.terminal import harmless, harmless_json
from django_sse.topics.publishing import check_topics
from django_sse.wire.events import EventDecoder, split_lines


class Command(BaseCommand):
    """Follows topics of the configured broker until it is interrupted."""

    help = "Show what is published to topics, as it comes. Ctrl+C ends it."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return a parser that takes options between topics too."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("topics", metavar="TOPIC", nargs="+")
        parser.add_argument("--since", metavar="ID", help="begin with what came after this event")
        parser.add_argument(
            "--json", action="store_true", help="one JSON object a line: id, event, data, topics"
        )
        parser.add_argument(
            "--count", type=int, default=0, metavar="N", help="end after N events (0: never)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Show events until ``--count`` is reached, or Ctrl+C."""
        try:
            topics = check_topics(options["topics"])
        except InvalidTopic as error:
            raise CommandError(str(error)) from error
        if options["count"] < 0:
            raise CommandError(f"--count takes a number from 0 on, got {options['count']}.")
        since = None
        if options["since"] is not None:
            since = EventId.parse(options["since"])
            if since is None:
                raise CommandError(
                    f"--since takes an event's id, <milliseconds>-<sequence>, got "
                    f"{options['since']!r}."
                )
        if isinstance(get_broker(), MemoryBroker):
            self.stderr.write(
                "The MemoryBroker belongs to one process: what servers publish is not seen here. "
                'Set DJANGO_SSE["BROKER"] to a DatabaseBroker or RedisBroker to follow it.'
            )
        try:
            asyncio.run(self._follow(topics, since, options["count"], as_json=options["json"]))
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:
            # The reader of the pipe has ended (`| head`). Replace the output, or Python would fail
            # again when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    async def _follow(
        self, topics: Collection[str], since: EventId | None, count: int, *, as_json: bool
    ) -> None:
        # Only the terminal slows this down, so the queue needs no bound.
        arrived: asyncio.Queue[Message | None] = asyncio.Queue()
        listener = get_broker().listen(arrived.put_nowait, lambda _: arrived.put_nowait(None))
        try:
            await listener.subscribe(topics)
            shown = since
            if since is not None:
                try:
                    replayed = await listener.replay(topics, since)
                except HistoryLost as error:
                    raise CommandError(
                        f"The broker does not hold everything since {since}: {error}"
                    ) from error
                for message in replayed:
                    self._show(message, as_json=as_json)
                    shown = message.id
                    count -= 1
                    if count == 0:
                        return
            while True:
                live = await arrived.get()
                if live is None:
                    self.stderr.write("Events were lost: the broker does not hold them any more.")
                elif shown is None or live.id > shown:
                    self._show(live, as_json=as_json)
                    count -= 1
                    if count == 0:
                        return
        finally:
            await listener.close()

    def _show(self, message: Message, *, as_json: bool) -> None:
        [event] = EventDecoder().feed(message.encode())
        if as_json:
            line = {
                "id": str(message.id),
                "event": event.event,
                "data": event.data,
                "topics": list(message.topics),
            }
            self.stdout.write(harmless_json(json.dumps(line, ensure_ascii=False)))
        else:
            name = self.style.SUCCESS(harmless(event.event or "message"))
            where = self.style.WARNING(harmless(", ".join(message.topics)))
            data = "\n    ".join(map(harmless, split_lines(event.data or "")))
            self.stdout.write(f"{message.id}  {where}  {name}\n    {data}")
        self.stdout.flush()
