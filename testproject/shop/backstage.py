"""The background process of the demo: it changes prices, and works on long jobs."""

from __future__ import annotations

import asyncio
import random
import signal
from datetime import UTC, datetime

from django_sse import apresence, apublish

from .models import Import
from .pages import PRICES

NAMES = (
    *("Arabica", "Robusta", "Cocoa", "Sugar", "Milk", "Tea", "Honey", "Oats", "Almonds", "Vanilla"),
    *("Cinnamon", "Lemons"),
)
#: Changes a second, and seconds between two bursts of them.
CHANGES = 2000
PAUSE = 0.02

#: Seconds that one row of an import takes.
ROW = 0.08


async def run() -> None:
    """Work until SIGTERM or SIGINT."""
    tasks = [asyncio.create_task(trade()), asyncio.create_task(work())]
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    waiting = asyncio.create_task(stopped.wait())
    done, _ = await asyncio.wait([*tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
    for task in (*tasks, waiting):
        task.cancel()
    await asyncio.gather(*tasks, waiting, return_exceptions=True)
    for task in done - {waiting}:
        task.result()  # Raise its exception. ``make demo`` then starts this process again.


async def trade() -> None:
    """Change prices while a stream of them is open."""
    prices = {name: random.uniform(2, 20) for name in NAMES}
    number = 0
    while True:
        here = await apresence(PRICES)
        if not here.users and not here.anonymous:
            await asyncio.sleep(0.5)
            continue
        loop = asyncio.get_running_loop()
        until, due = loop.time() + 1, loop.time()
        while due < until:
            changes = []
            for _ in range(int(CHANGES * PAUSE)):
                name = random.choice(NAMES)
                number += 1
                price = prices[name] = max(0.5, prices[name] * random.gauss(1, 0.002))
                data = {
                    "name": name,
                    "price": round(price, 3),
                    "bid": round(price * 0.998, 3),
                    "ask": round(price * 1.002, 3),
                    "volume": random.randint(1, 5000),
                    "time": datetime.now(UTC).isoformat(),
                    "number": number,
                }
                changes.append(apublish(PRICES, data, event="price", key=name))
            await asyncio.gather(*changes)
            due = max(due + PAUSE, loop.time() - 0.2)
            await asyncio.sleep(due - loop.time())


async def work() -> None:
    """Work on the imports, the oldest first. An interrupted import continues where it stopped."""
    while True:
        jobs = [job async for job in Import.objects.order_by("pk") if not job.is_over]
        for job in jobs:
            await import_rows(job)
        if not jobs:
            await asyncio.sleep(0.5)


async def import_rows(job: Import) -> None:
    """Import the rows that are left, until the import is cancelled."""
    while not job.is_over:
        await asyncio.sleep(ROW)
        job.done += 1
        await job.asave(update_fields=["done"])
        await job.arefresh_from_db(fields=["cancelled"])
        await apublish("imports", job, event="progress", key=str(job.pk))
