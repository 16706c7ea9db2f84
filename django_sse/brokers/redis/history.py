"""Reads the stored events from Redis, on an event loop, for as long as Redis is away."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from django_sse.brokers.base import FIRST, EventId, Message, newest_of
from django_sse.exceptions import BrokerError

from .attempts import AWAY, Attempt, in_words, pauses
from .connections import Connections
from .script import LATEST, NEW_AGE, NEWEST, READ, Names, Script, event_id, unpack

logger = logging.getLogger("django_sse")

#: Seconds after which an attempt to read is given up and another one begins.
ATTEMPT_SECONDS = 5.0
#: The most topics and events of one read. Redis serves no other client while it runs a script, so
#: no read is large.
TOPICS_PER_READ = 100
EVENTS_PER_READ = 500

# Redis counts with 64 bits. No real id comes near this number.
_HIGHEST = 2**63


class Known:
    """The newest id that this process has seen in any message or reply.

    Every command passes it on. A server whose newest id is lower was emptied, or has lost its last
    writes in a crash or a failover; it then begins a new age.
    """

    def __init__(self) -> None:
        """Begin without a known id."""
        self.id = FIRST

    def note(self, id: EventId) -> None:
        """Note an id. Two threads may overwrite each other's; the next id corrects that."""
        if id > self.id:
            self.id = id


class Reading(NamedTuple):
    """The result of ``History.read()``.

    ``messages`` are in order, each once, up to and including the id ``upto``. Messages of the
    topics in ``lost`` are missing. ``fell_back`` says that Redis has lost events that it published
    before.
    """

    messages: list[Message]
    lost: set[str]
    upto: EventId
    fell_back: bool = False


class History:
    """Reads from the streams in Redis; waits for as long as Redis is away."""

    def __init__(
        self, connections: Callable[[], Connections], names: Names, known: Known, memory: int
    ) -> None:
        """Take ``memory``: milliseconds for which a topic's newest id is remembered."""
        self._connections = connections
        self._names = names
        self._known = known
        self._memory = memory

    async def latest(self) -> EventId:
        """Return the newest id over all topics."""
        reply = await self._run(LATEST, [self._names.ids], [str(self._known.id)])
        newest = event_id(reply)
        self._known.note(newest)
        return newest

    async def begin_age(self) -> EventId:
        """Begin a new age, and return its first id.

        Resuming from an older id then raises ``HistoryLost``, because it is not known what is
        missing since.
        """
        birth = event_id(await self._run(NEW_AGE, [self._names.ids], [str(self._known.id)]))
        self._known.note(birth)
        return birth

    async def read(
        self,
        after: Mapping[str, EventId],
        limit: int | None = None,
        heard: Mapping[str, EventId] | None = None,
    ) -> Reading:
        """Return the messages of each topic above its id in ``after``, as of one moment.

        With a ``limit``, return the first ``limit`` messages of all topics together. ``heard`` has
        the newest ids of topics that this process has heard. Redis may have come back with less,
        and another process may have published since: then the topic's next event follows one that
        is older than the id heard.

        Long histories are read in pieces. All pieces end at the id that was the newest when the
        first one was read. Otherwise, a message could be missing whose topic was read before it
        came, while a newer message of another topic is there.
        """
        positions = dict(after)
        found: dict[EventId, Message] = {}
        lost: set[str] = set()
        upto: EventId | None = None
        unsure = dict(heard or {})
        fell_back = False
        taken = Counter[str]()
        while positions or upto is None:
            piece = dict(islice(positions.items(), TOPICS_PER_READ))
            count = EVENTS_PER_READ // max(len(piece), 1)
            if limit is not None:
                count = min(count, limit)
            now, last, birth, pages = await self._read_pages(piece, upto, count)
            if upto is None:
                upto = last
            for (topic, position), (trimmed, newest, page) in zip(
                piece.items(), pages, strict=True
            ):
                if (before := unsure.pop(topic, None)) is not None:
                    # The id before the topic's first entry above the position; without such an
                    # entry, its newest.
                    found_before = event_id(page[0][1][1] if page else newest)
                    forgotten = found_before == FIRST and before.milliseconds <= now - self._memory
                    # Where a new age has begun, the check of the position below finds the loss.
                    if found_before < before and birth <= before and not forgotten:
                        fell_back = True
                        lost.add(topic)
                if (
                    not birth <= position <= last
                    or event_id(trimmed) > position
                    # The topic may have expired so long ago that its newest id is forgotten, too.
                    or (position < last and position.milliseconds <= now - self._memory)
                ):
                    lost.add(topic)
                for text, (_, _, _, event) in page:
                    positions[topic] = event_id(text)
                    found[positions[topic]] = unpack(positions[topic], event)
                taken[topic] += len(page)
                if len(page) < count or (limit is not None and taken[topic] >= limit):
                    del positions[topic]
        messages = [found[position] for position in sorted(found)[:limit]]
        return Reading(messages, lost, upto, fell_back)

    async def newest(
        self, topics: Collection[str], count: int, *, per_key: bool = False
    ) -> list[Message]:
        """Return the newest messages, as ``Listener.newest()`` promises."""
        ends = dict.fromkeys(topics, "+")
        found: dict[EventId, Message] = {}
        while ends:
            # Of keys, the whole history may be needed. Of others, not more than ``count`` is.
            size = EVENTS_PER_READ if per_key else min(count, EVENTS_PER_READ)
            args = [size, *ends.values()]
            pages = await self._run(NEWEST, self._names.streams(list(ends)), args)
            for topic, page in zip(list(ends), pages, strict=True):
                for text, (_, _, _, event) in page:
                    id = event_id(text)
                    found[id] = unpack(id, event)
                    ends[topic] = f"({id}"
                if len(page) < size or (not per_key and len(found) >= count):
                    del ends[topic]
        newest_first = (found[id] for id in sorted(found, reverse=True))
        return newest_of(newest_first, count, per_key=per_key)

    async def _read_pages(
        self, after: Mapping[str, EventId], upto: EventId | None, count: int
    ) -> tuple[int, EventId, EventId, list[Any]]:
        known = str(self._known.id)
        starts = [
            f"{min(ms, _HIGHEST)}-{min(sequence, _HIGHEST)}" for ms, sequence in after.values()
        ]
        args = [known, "" if upto is None else str(upto), count, *starts]
        now, last, birth, pages = await self._run(READ, self._names.keys(list(after)), args)
        self._known.note(event_id(last))
        return int(now), event_id(last), event_id(birth), pages

    async def _run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        waits = pauses()
        while True:
            try:
                async with asyncio.timeout(ATTEMPT_SECONDS):
                    return (
                        await self._connections()
                        .for_running_loop()
                        .run(script, keys, args, Attempt())
                    )
            except AWAY as error:
                logger.debug("Redis is away, trying again: %s", in_words(error))
            except RedisError as error:
                raise BrokerError(f"Redis refused to read: {error}") from error
            await asyncio.sleep(next(waits))
