"""The record of a job, which the broker stores in a topic of its own."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypedDict

from django.core.exceptions import ImproperlyConfigured

from django_sse.brokers.base import FIRST, INTERNAL, LAST, EventId, Listener, Message
from django_sse.conf import conf
from django_sse.exceptions import BrokerError
from django_sse.topics.hub import get_hub
from django_sse.wire.events import EventDecoder, encode_head

#: The states of a job: it waits for its task, it is worked on, it is worked on and shall end, or it
#: has ended in one of three ways.
State = Literal["queued", "running", "cancelling", "done", "failed", "cancelled"]
#: The ends of a job.
Ending = Literal["done", "failed", "cancelled"]
ENDINGS: tuple[Ending, ...] = ("done", "failed", "cancelled")


class StartedJob(TypedDict):
    """The data of ``event: job``: the id with which clients come back."""

    id: str


class Progress(TypedDict):
    """The data of ``event: progress``; ``total`` is ``None`` where the work does not know it."""

    done: float
    total: float | None


class EndedJob(TypedDict):
    """The data of ``event: end``."""

    state: Ending


#: The events that a job sends by itself.
EVENTS: Mapping[str, type] = {"job": StartedJob, "progress": Progress, "end": EndedJob}

_ID = re.compile(r"[A-Za-z0-9_-]{16,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Job:
    """A job, as its newest record in the broker describes it.

    ``owner`` is the primary key of the user who started it, as text, or ``None``; ``view`` is the
    dotted path of its view's class; ``ended_at`` is in seconds since the epoch.
    """

    id: str
    view: str
    owner: str | None
    state: State
    #: The name and the number of the work. A task that runs again has another name and a higher
    #: number.
    run: str = ""
    attempt: int = 0
    #: Seconds after which the job counts as dead if it has no newer record.
    lease: float = 0.0
    #: The id after which its events come, and the id of its last event.
    start: EventId = FIRST
    end: EventId | None = None
    ended_at: float | None = None
    #: The last event of each end, as text and name, where the view has its own.
    endings: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    #: The id of this record; each renewal of the lease has a new one.
    record_id: EventId = FIRST

    @property
    def topic(self) -> str:
        """The topic with the job's events."""
        return job_topic(self.id)

    @property
    def ended(self) -> bool:
        """Whether it has ended, in any way."""
        return self.state in ENDINGS

    def is_kept(self, seconds: float) -> bool:
        """Return whether it ended less than so many seconds ago, or has not ended."""
        return self.ended_at is None or time.time() < self.ended_at + seconds

    def last_event(self, ending: Ending) -> bytes:
        """Return the job's last event, encoded up to its id."""
        text, event = self.endings.get(ending, (json.dumps({"state": ending}), "end"))
        return encode_head(text, event)

    def as_ended(self, ending: Ending, end: EventId) -> Job:
        """Return the record of its end, now."""
        return replace(self, state=ending, end=end, ended_at=time.time())

    def encode(self) -> bytes:
        """Return the record as the broker stores it."""
        values = asdict(self)
        del values["record_id"]
        return encode_head(json.dumps(values), None)


_FIELDS = frozenset(it.name for it in fields(Job)) - {"record_id"}


def job_topic(job_id: str) -> str:
    """Return the topic with a job's events, which other views may follow, too."""
    return f"job:{job_id}"


def record_topic(job_id: str) -> str:
    """Return the topic with a job's records."""
    return f"{INTERNAL}job:{job_id}"


def is_job_id(text: str) -> bool:
    """Return whether a text may be a job's id."""
    return _ID.fullmatch(text) is not None


def progress_head(done: float, total: float | None) -> bytes:
    """Return the event of a progress, encoded up to its id."""
    # NaN and infinity are no JSON, and a page could not read them.
    return encode_head(json.dumps({"done": done, "total": total}, allow_nan=False), "progress")


def decode(message: Message) -> Job:
    """Return the record in a message."""
    [event] = EventDecoder().feed(message.encode())
    values: dict[str, Any] = json.loads(event.data or "")
    values["start"] = EventId(*values["start"])
    values["end"] = None if values["end"] is None else EventId(*values["end"])
    if values["start"] == FIRST:
        # The first record does not know its own id yet. All events of the job come after it.
        values["start"] = message.id
    # A newer version of this package, in another process, may know more.
    return Job(**{name: values[name] for name in _FIELDS & values.keys()}, record_id=message.id)


async def find(job_id: str) -> Job | None:
    """Return a job, or ``None`` where the broker has no record of it.

    Raises ``BrokerError`` where the broker does not answer within ``PUBLISH_TIMEOUT`` seconds, and
    ``ImproperlyConfigured`` for one that cannot look backwards.
    """
    found = await newest_message(record_topic(job_id))
    return None if found is None else decode(found)


async def find_last_event(job: Job) -> tuple[EventId, bytes] | None:
    """Return the id and the bytes of a job's last event, or ``None`` where it has not ended.

    The event itself counts: the record tells of the end a moment later. Raises what ``find()`` does.
    """
    newest = await newest_message(job.topic)
    if newest is not None:
        return (newest.id, newest.encode()) if newest.key == LAST else None
    # The broker keeps no event of the job any more.
    found = await find(job.id)
    if found is None or found.end is None:
        return None
    ending: Any = found.state
    return found.end, b"%bid: %d-%d\n\n" % (found.last_event(ending), *found.end)


async def newest_message(topic: str) -> Message | None:
    """Return the newest message of a topic; raises what ``find()`` does."""
    found = await newest_messages(topic, 1)
    return found[0] if found else None


async def newest_messages(topic: str, count: int) -> list[Message]:
    """Return the newest messages of a topic, in their order; raises what ``find()`` does."""
    hub = get_hub()
    if type(hub.listener).newest is Listener.newest:
        raise ImproperlyConfigured(
            f"{type(hub.broker).__qualname__} cannot find jobs: its listener has no newest(). Use "
            "MemoryBroker, RedisBroker or DatabaseBroker, or define it."
        )
    try:
        with hub.kept_open():
            async with asyncio.timeout(conf.publish_timeout):
                return await hub.listener.newest([topic], count)
    except TimeoutError as error:
        raise BrokerError(
            f"{hub.broker} did not say within {conf.publish_timeout:g} s what it knows of a job."
        ) from error
