"""``manage.py sse_schema``: the streams of a project, their events, and what is in them, as JSON."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from django_sse.contracts.streams import document
from django_sse.management.files import add_output, write


class Command(BaseCommand):
    """Write one document of all streams."""

    help = (
        "Write the streams of the project as JSON: paths, methods, topics, declared events, and "
        "JSON Schemas of their data."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take where to write."""
        add_output(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the document; raise ``CommandError`` where the file cannot be written."""
        write(self, json.dumps(document(), indent=2, ensure_ascii=False), options["output"])
