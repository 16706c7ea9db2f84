"""The command of one server process of the demo."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from daphne.cli import CommandLineInterface
from django.core.management.base import BaseCommand

from testproject.shop.processes import end_with_parent


class Command(BaseCommand):
    """Serve with Daphne on a socket that `manage.py demo` has opened for all its workers."""

    help = "Used by `manage.py demo`: serve on a socket that is open already."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the socket."""
        parser.add_argument("--fd", type=int, required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until SIGTERM."""
        end_with_parent()
        CommandLineInterface().run(
            ["--fd", str(options["fd"]), "-v", "0", "testproject.demo_asgi:application"]
        )
