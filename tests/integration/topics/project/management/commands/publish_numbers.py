"""``publish_numbers``: run a job of numbered events, and print what became of each."""

from __future__ import annotations

import asyncio
import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from tests.integration.topics.project.publishers import (
    Job,
    apublish_all,
    as_dicts,
    publish_all,
    publish_in_threads,
)


class Command(BaseCommand):
    """Publishes from a process of its own."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("how", choices=["plain", "threads", "async"])
        parser.add_argument("job", help="JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        job = Job(**json.loads(options["job"]))
        if options["how"] == "plain":
            notes = publish_all(job)
        elif options["how"] == "threads":
            notes = publish_in_threads(job)
        else:
            notes = asyncio.run(apublish_all(job))
        self.stdout.write(json.dumps(as_dicts(notes)))
