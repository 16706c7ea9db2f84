"""The command behind ``make demo``."""

from __future__ import annotations

import os
import socket
import sys
from argparse import ArgumentParser
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from testproject.shop.processes import Processes

PORTS_TRIED = 100


class Command(BaseCommand):
    """Prepare the database, say where to look, and serve."""

    help = "Migrate, add the sample data, and serve the shop with several processes of Daphne."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the port; the next free one is used where it is taken."""
        parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
        parser.add_argument(
            "--workers", type=int, default=2, help="processes that serve (default: %(default)s)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until Ctrl+C."""
        if not settings.HAS_DEMO_PAGES:
            # Several processes serve, and so events have to go by a broker that they share. The
            # settings are read already: begin again, with others.
            os.environ["DJANGO_SSE_SHARED"] = "1"
            os.execv(sys.executable, [sys.executable, *sys.argv])
        call_command("migrate", interactive=False, verbosity=0)
        call_command("sampledata", stdout=self.stdout)
        wanted = options["port"]
        port = free_port(wanted)
        if port != wanted:
            self.stdout.write(f"Port {wanted} is taken, so this is port {port}.")
        has_openapi = apps.is_installed("drf_spectacular")
        self.stdout.write(
            self.style.SUCCESS(f"\n  The shop:  http://127.0.0.1:{port}/\n")
            + f"  The admin: http://127.0.0.1:{port}/admin/\n"
            + (f"  Its API:   http://127.0.0.1:{port}/api/docs/\n" if has_openapi else "")
            + "  Log in as: demo, password demo (or ada, password ada)\n"
            + "  First:     log in, place an order, and watch it arrive in a second window.\n"
            + "             Then open Market, Work and Team, and press what breaks things.\n"
            + "  Try also:  "
            + f"curl -N http://127.0.0.1:{port}/clock/\n"
            + f"             curl -N http://127.0.0.1:{port}/serialization/\n"
            + "             curl -N -H 'Content-Type: application/json' "
            + f'-d \'{{"prompt": "to be or not to be"}}\' http://127.0.0.1:{port}/generate/\n'
        )
        self.stdout.flush()
        with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
            # The kernel holds little for each client, so that a slow one is soon noticed.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
            server = ["demo_worker", "--fd", str(listener.fileno())]
            commands = [server] * max(1, options["workers"]) + [["backstage"]]
            Processes(commands, [listener.fileno()]).run(self._tell)

    def _tell(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def free_port(wanted: int) -> int:
    """Return the first port from ``wanted`` on that nobody listens on."""
    if not 0 < wanted < 65536:
        raise CommandError(f"--port must be a number from 1 to 65535, got {wanted!r}.")
    for port in range(wanted, min(wanted + PORTS_TRIED, 65536)):
        with socket.socket() as probe:
            # As the server does: a port that was just closed can be opened again.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise CommandError(
        f"No free port between {wanted} and {port}. Name another: make demo PORT=9000."
    )
