"""The command behind ``make demo``."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from django_sse.exceptions import PublishFailed
from testproject.shop.processes import Processes

DATABASE = Path(settings.DATABASES["default"]["NAME"]).absolute()
PORTS_TRIED = 100


class Command(BaseCommand):
    """Prepare the database, say where to look, and serve."""

    help = "Migrate, add the sample data, and serve the shop with several processes of Daphne."

    # Django 6.1 opens the database for its checks, before this command can say what is wrong with it.
    requires_system_checks: ClassVar[list[str]] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the port; the next free one is used where it is taken."""
        parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
        parser.add_argument(
            "--workers", type=int, default=2, help="processes that serve (default: %(default)s)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until Ctrl+C."""
        if not settings.HAS_DEMO_PAGES:
            # Several processes serve, so they need a broker that they share. The settings are loaded
            # already, so start this command again with others.
            os.environ["DJANGO_SSE_SHARED"] = "1"
            os.execv(sys.executable, [sys.executable, *sys.argv])
        wanted = options["port"]
        port = free_port(wanted)
        try:
            with only_demo(f"http://127.0.0.1:{port}/"):
                self._prepare()
                if port != wanted:
                    self.stdout.write(f"Port {wanted} is taken, so this is port {port}.")
                self._serve(port, options["workers"])
        except KeyboardInterrupt:
            self._tell("Stopped.")

    def _prepare(self) -> None:
        try:
            call_command("migrate", interactive=False, verbosity=0)
            call_command("sampledata", stdout=StringIO())
        except DatabaseError as error:
            raise CommandError(
                f"The database {DATABASE} cannot be used: {error}. Move it away, or name another: "
                "DJANGO_SSE_DB=other.sqlite3 make demo"
            ) from error
        except PublishFailed as error:
            raise CommandError(str(error)) from error

    def _serve(self, port: int, workers: int) -> None:
        address = f"http://127.0.0.1:{port}/"
        pages = ["admin/", *(["api/docs/"] if apps.is_installed("drf_spectacular") else [])]
        self._tell(
            self.style.SUCCESS(f"\n  The shop:   {address}\n")
            + "  Log in as:  demo, password demo (in another browser: ada, password ada)\n"
            + "  Try first:  1. Log in, place an order, and watch it arrive in a second window.\n"
            + "              2. Market: slow your client down, and watch the timeline.\n"
            + "              3. Work: start an import, and kill a worker.\n"
            + "              4. HTML: place an order, and watch htmx, Turbo and Datastar.\n"
            + f"  See also:   {' '.join(address + it for it in pages)}\n"
            + f"              curl -N {address}clock/\n"
            + "  To stop:    press Ctrl+C\n"
        )
        with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
            server = ["demo_worker", "--fd", str(listener.fileno())]
            commands = [server] * max(1, workers) + [["backstage"]]
            if not Processes(commands, [listener.fileno()]).run(self._tell):
                raise CommandError("A process ends each time it is started. See its error above.")
        self._tell("Stopped.")

    def _tell(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


@contextmanager
def only_demo(address: str) -> Iterator[None]:
    """Raise ``CommandError`` where another demo uses the same database: jobs would be done twice."""
    name = hashlib.sha256(f"{os.getuid()} {DATABASE}".encode()).hexdigest()[:16]
    # The lock ends with this process, and the file stays. Processes that it starts do not have it.
    with (Path(tempfile.gettempdir()) / f"django-sse-demo-{name}.lock").open("a+") as lock:
        lock.seek(0)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"The demo runs already: {lock.read()}. Stop it first, or name another database "
                "for this one: DJANGO_SSE_DB=other.sqlite3 make demo"
            ) from None
        lock.truncate()
        lock.write(address)
        lock.flush()
        yield


def free_port(wanted: int) -> int:
    """Return the first free port from ``wanted`` on."""
    if not 0 < wanted < 65536:
        raise CommandError(f"--port must be a number from 1 to 65535, got {wanted!r}.")
    for port in range(wanted, min(wanted + PORTS_TRIED, 65536)):
        with socket.socket() as probe:
            # The server sets this option, too: with it, a port that was just closed counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise CommandError(
        f"No free port between {wanted} and {port}. Name another: make demo PORT=9000."
    )
