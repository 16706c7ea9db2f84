"""``publish_and_die``: change a table and publish it, in processes that are killed at random moments."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection, connections, transaction

from django_sse import publish


class Command(BaseCommand):
    """Each child writes ``<life>:<number>`` to the table ``changes``, and publishes the same."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("lives", type=int)
        parser.add_argument("seed", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        rng = random.Random(options["seed"])
        connections.close_all()
        for life in range(options["lives"]):
            ready, child_ready = os.pipe()
            child = os.fork()
            if child == 0:
                self._live(life, child_ready)
            os.close(child_ready)
            # From its first change on, so that every moment of a change is met.
            os.read(ready, 1)
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(ready)

    def _live(self, life: int, ready: int) -> None:
        connection.ensure_connection()
        os.write(ready, b"\0")
        for number in itertools.count():
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("INSERT INTO changes VALUES (%s)", [f"{life}:{number}"])
                publish("changes", f"{life}:{number}")
        sys.exit()
