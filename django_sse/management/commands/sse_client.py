"""``manage.py sse_client``: a client for the project's streams, typed by their declared events."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_sse.contracts.typescript import javascript, typescript
from django_sse.management.files import add_output, write


class Command(BaseCommand):
    """Write one file, which needs no other."""

    help = (
        "Write a client for the project's streams: one file without dependencies, which has the "
        "types of all declared events and reconnects and resumes by itself."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the language, and where to write."""
        kind = parser.add_mutually_exclusive_group()
        kind.add_argument(
            "--typescript", action="store_true", help="a module in TypeScript (the default)"
        )
        kind.add_argument(
            "--javascript", action="store_true", help="an ES module for pages without a build"
        )
        kind.add_argument(
            "--script",
            nargs="?",
            const="djangoSSE",
            metavar="NAME",
            help="a plain script that sets the global NAME (default: djangoSSE)",
        )
        add_output(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the client; raise ``CommandError`` where the file cannot be written."""
        name = options["script"]
        if name is not None and not re.fullmatch(r"[A-Za-z_$][\w$]*", name, re.ASCII):
            raise CommandError(f"--script must be a name in JavaScript, got {name!r}.")
        if name is not None or options["javascript"]:
            write(self, javascript(script_global=name), options["output"])
        else:
            write(self, typescript(), options["output"])
