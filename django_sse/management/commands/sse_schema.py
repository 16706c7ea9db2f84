"""``manage.py sse_schema``: the streams of a project, their events, and what is in them, as JSON.

``--asyncapi`` writes the same as an AsyncAPI 3.0 document.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_sse.contracts.asyncapi import asyncapi_document
from django_sse.contracts.streams import document
from django_sse.management.files import add_output, write


class Command(BaseCommand):
    """Write one document of all streams."""

    help = (
        "Write the streams of the project as JSON: paths, methods, topics, declared events, and "
        "JSON Schemas of their data."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take where to write, and as what."""
        add_output(parser)
        parser.add_argument(
            "--asyncapi", action="store_true", help="write an AsyncAPI 3.0 document"
        )
        parser.add_argument(
            "--title", help="with --asyncapi: the document's title (default: Event streams)"
        )
        parser.add_argument(
            "--api-version",
            metavar="VERSION",
            help="with --asyncapi: your version (default: 1.0.0)",
        )
        parser.add_argument(
            "--server",
            metavar="URL",
            help="with --asyncapi: where the project is deployed (default: no server is named)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the document; raise ``CommandError`` for an option or a file that is of no use."""
        write(self, json.dumps(_document(options), indent=2, ensure_ascii=False), options["output"])


def _document(options: dict[str, Any]) -> dict[str, Any]:
    title, version, server = options["title"], options["api_version"], options["server"]
    if not options["asyncapi"]:
        if title or version or server:
            raise CommandError("--title, --api-version and --server need --asyncapi.")
        return document()
    try:
        return asyncapi_document(
            title=title or "Event streams", version=version or "1.0.0", server=server
        )
    except ValueError as error:
        raise CommandError(f"--server: {error}") from error
