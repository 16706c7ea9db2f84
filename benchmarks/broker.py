"""``python -m benchmarks.broker <what> …``: one process that publishes or listens, and prints figures."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import django
import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction

import django_sse
from django_sse.brokers import get_broker
from django_sse.brokers.database import store, trimming

from .fanout import SIZE

DATA = "x" * SIZE
TOPIC = "benchmark"


def prepare() -> None:
    """Make the tables of the project and of the broker, and of the floor."""
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS floor (id bigint, head bytea, tail bytea)")
        cursor.execute("CREATE TABLE IF NOT EXISTS change (id bigint)")


def connected() -> psycopg.Connection:
    """Return a connection to the project's database, by psycopg itself."""
    its = settings.DATABASES["default"]
    return psycopg.connect(host=its["HOST"], port=its["PORT"], user=its["USER"], dbname=its["NAME"])


def floor() -> Callable[[int], None]:
    """Return what inserts a row and commits, by psycopg itself."""
    raw = connected()
    head, tail = b"event: message\n", f"data: {DATA}\n\n".encode()

    def insert(number: int) -> None:
        raw.execute("INSERT INTO floor VALUES (%s, %s, %s)", [number, head, tail])
        raw.commit()

    return insert


def direct() -> Callable[[int], None]:
    """Return what publishes an event outside of a transaction."""
    return lambda number: void(django_sse.publish(TOPIC, DATA))


def change() -> Callable[[int], None]:
    """Return what inserts a row and commits, by Django."""

    def insert(number: int) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("INSERT INTO change VALUES (%s)", [number])

    return insert


def told() -> Callable[[int], None]:
    """Return what inserts a row, publishes that, and commits."""

    def insert(number: int) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("INSERT INTO change VALUES (%s)", [number])
            django_sse.publish(TOPIC, DATA)

    return insert


def publish(how: str, threads: int, count: int) -> None:
    """Print the µs for each event of ``count``, of several threads together."""
    make = {"floor": floor, "direct": direct, "change": change, "told": told}[how]
    ready = threading.Barrier(threads + 1)

    def work() -> None:
        act = make()
        for number in range(30):
            act(number)
        ready.wait()
        for number in range(count // threads):
            act(number)
        ready.wait()

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    ready.wait()
    began = time.perf_counter()
    ready.wait()
    print((time.perf_counter() - began) / count * 1e6)


async def listen(count: int) -> None:
    """Print the seconds from publishing to arrival of ``count`` events: the median."""
    took: list[float] = []
    done = asyncio.Event()

    def deliver(message: Any) -> None:
        *_, data = (message.head + message.tail).split(b"data: ")
        took.append(time.monotonic() - float(data))
        if len(took) >= count:
            done.set()

    listener = get_broker().listen(deliver, void)
    await listener.subscribe([TOPIC])
    print("ready", flush=True)
    async with asyncio.timeout(60):
        await done.wait()
    await listener.close()
    print(median(took))


def tick(count: int) -> None:
    """Publish the time, 50 times a second."""
    for _ in range(count):
        django_sse.publish(TOPIC, str(time.monotonic()))
        time.sleep(0.02)


def listen_floor(count: int) -> None:
    """Print what ``listen()`` prints, of rows that are notified of and read by psycopg itself."""
    took: list[float] = []
    raw = connected()
    raw.autocommit = True
    raw.execute("LISTEN floor")
    print("ready", flush=True)
    at = -1
    while len(took) < count:
        # At most one, for none waits longer than the next one takes.
        for _ in raw.notifies(timeout=60, stop_after=1):
            pass
        for number, tail in raw.execute(
            "SELECT id, tail FROM floor WHERE id > %s ORDER BY id", [at]
        ):
            at = number
            took.append(time.monotonic() - float(tail))
    print(median(took))


def tick_floor(count: int) -> None:
    """Insert the time, notify and commit, 50 times a second."""
    raw = connected()
    raw.execute("DELETE FROM floor")
    raw.commit()
    for number in range(count):
        now = str(time.monotonic()).encode()
        raw.execute("INSERT INTO floor VALUES (%s, %s, %s)", [number, b"", now])
        raw.execute("NOTIFY floor")
        raw.commit()
        time.sleep(0.02)


def fill(rows: int) -> None:
    """Write a history of so many events into the database at once."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT epoch FROM django_sse_state")
        epoch = cursor.fetchone()[0]
        # Below the newest number, above the epoch.
        cursor.execute("UPDATE django_sse_state SET epoch = %s", [epoch - rows - 1])
        cursor.execute(
            "INSERT INTO django_sse_event SELECT %s + n, %s, %s, %s FROM generate_series(1, %s) n",
            [epoch - rows - 1, json.dumps([[TOPIC], None, None]), b"", DATA.encode(), rows],
        )
        cursor.execute(
            "INSERT INTO django_sse_entry SELECT %s, %s + n FROM generate_series(1, %s) n",
            [TOPIC, epoch - rows - 1, rows],
        )
        cursor.execute("ANALYZE django_sse_event, django_sse_entry")


async def replay(events: int) -> None:
    """Print the seconds in which a client that missed the newest events gets them."""
    listener = get_broker().listen(void, void)
    await listener.subscribe([TOPIC])
    newest = await listener.newest([TOPIC], events + 1)
    took = []
    for _ in range(20):
        began = time.perf_counter()
        page = await listener.replay([TOPIC], newest[0].id, events)
        took.append(time.perf_counter() - began)
        assert len(page) == events
    await listener.close()
    print(median(took))


def trim(history: int) -> None:
    """Print the seconds of a look for events that are too old."""
    took = []
    for _ in range(20):
        began = time.perf_counter()
        trimming.trim_old(connection, store.Limits(history, 86_400_000))
        took.append(time.perf_counter() - began)
    print(median(took))


def void(anything: Any) -> None:
    """Do nothing with it."""


def main() -> int:
    """Do what the arguments name."""
    django.setup()
    what, *rest = sys.argv[1:]
    if what == "publish":
        publish(rest[0], *map(int, rest[1:]))
        return 0
    act = {
        "prepare": prepare,
        "listen": listen,
        "tick": tick,
        "listen_floor": listen_floor,
        "tick_floor": tick_floor,
        "fill": fill,
        "replay": replay,
        "trim": trim,
    }[what]
    result: Any = act(*map(int, rest))
    if asyncio.iscoroutine(result):
        asyncio.run(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
