"""``manage.py sse_schema``: the streams of a project, their events, and what is in them, as JSON."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_sse.contracts.streams import document


class Command(BaseCommand):
    """Write one document of all streams."""

    help = (
        "Write the streams of the project as JSON: paths, methods, topics, declared events, and "
        "JSON Schemas of their data."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take where to write."""
        parser.add_argument("--output", "-o", metavar="FILE", help="a file instead of the output")

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the document; raise ``CommandError`` where the file cannot be written."""
        text = json.dumps(document(), indent=2, ensure_ascii=False)
        if options["output"] is None:
            self.stdout.write(text)
            return
        try:
            Path(options["output"]).write_text(f"{text}\n", encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{options['output']} cannot be written: {error}") from error
