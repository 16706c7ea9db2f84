"""Publishers of numbered events, each of which notes what became of its events."""

from __future__ import annotations

import asyncio
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from django_sse import apublish, publish
from django_sse.exceptions import PublishFailed


@dataclass
class Note:
    """One event: its id, or that it failed, and whether it may be stored nevertheless."""

    data: str
    topics: list[str]
    id: str | None
    may_be_stored: bool
    seconds: float


@dataclass
class Job:
    """``count`` events named ``<name>:<number>``, in turn to each of ``targets`` (lists of topics).

    ``rate`` is in events a second, 0 for as many as possible.
    """

    name: str
    count: int
    targets: list[list[str]]
    rate: float = 0

    def pauses(self) -> itertools.chain[float]:
        """Yield for each event how many seconds to wait before it."""
        began = time.monotonic()

        def until(number: int) -> float:
            return max(began + number / self.rate - time.monotonic(), 0) if self.rate else 0

        return itertools.chain(until(number) for number in range(self.count))

    def target(self, number: int) -> list[str]:
        return self.targets[number % len(self.targets)]


def publish_all(job: Job) -> list[Note]:
    """Publish in this thread."""
    notes = []
    for number, pause in enumerate(job.pauses()):
        time.sleep(pause)
        notes.append(_publish(f"{job.name}:{number}", job.target(number)))
    return notes


def publish_in_threads(job: Job, threads: int = 4) -> list[Note]:
    """Publish in several threads, each with numbers and a name of its own."""
    jobs = [
        Job(f"{job.name}.{thread}", job.count // threads, job.targets, job.rate / threads)
        for thread in range(threads)
    ]
    with ThreadPoolExecutor(threads) as pool:
        return list(itertools.chain.from_iterable(pool.map(publish_all, jobs)))


async def apublish_all(job: Job) -> list[Note]:
    """Publish on an event loop, which goes on with its other work meanwhile."""
    notes = []
    for number, pause in enumerate(job.pauses()):
        await asyncio.sleep(pause)
        data, topics = f"{job.name}:{number}", job.target(number)
        began = time.monotonic()
        try:
            event_id, maybe = await apublish(topics, data), False
        except PublishFailed as error:
            event_id, maybe = None, error.may_be_stored
        notes.append(Note(data, topics, event_id, maybe, time.monotonic() - began))
    return notes


def _publish(data: str, topics: list[str]) -> Note:
    began = time.monotonic()
    try:
        event_id, maybe = publish(topics, data), False
    except PublishFailed as error:
        event_id, maybe = None, error.may_be_stored
    return Note(data, topics, event_id, maybe, time.monotonic() - began)


def as_dicts(notes: list[Note]) -> list[dict[str, object]]:
    """Return notes as JSON takes them."""
    return [asdict(note) for note in notes]
