"""Reading of what is stored in Redis, by an event loop that has time to wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from django_sse.brokers.base import FIRST, EventId, Message
from django_sse.exceptions import BrokerError

from .connections import AWAY, Attempt, Connections, in_words, pauses
from .script import LATEST, NEW_AGE, READ, Names, Script, event_id, unpack

logger = logging.getLogger("django_sse")

#: Seconds after which an attempt to read is given up, for another one.
ATTEMPT_SECONDS = 5.0
#: Redis serves nobody else while it runs a script, so no single read is large.
TOPICS_PER_READ = 100
EVENTS_PER_READ = 500

# Redis counts with 64 bits; nothing that it gave comes near.
_HIGHEST = 2**63


class Known:
    """The newest id that this process has seen, from whatever came.

    It goes along with every command: a server that has given less was emptied, or lost its last
    writes in a crash or a failover, and begins a new age.
    """

    def __init__(self) -> None:
        self.id = FIRST

    def note(self, id: EventId) -> None:
        """Take an id into account. Two threads may overwrite each other: the next id mends it."""
        if id > self.id:
            self.id = id


class Reading(NamedTuple):
    """What ``History.read()`` found.

    ``messages`` are those up to and including ``upto``, in order, once; of the topics in ``lost``
    some are missing. ``fell_back`` says that Redis does not have what was heard from it before.
    """

    messages: list[Message]
    lost: set[str]
    upto: EventId
    fell_back: bool = False


class History:
    """Reads from the streams; waits for as long as Redis is away."""

    def __init__(
        self, connections: Callable[[], Connections], names: Names, known: Known, memory: int
    ) -> None:
        """Take ``memory``: milliseconds for which a topic's newest id is remembered."""
        self._connections = connections
        self._names = names
        self._known = known
        self._memory = memory

    async def latest(self) -> EventId:
        """Return the newest id that was given."""
        reply = await self._run(LATEST, [self._names.ids], [str(self._known.id)])
        newest = event_id(reply)
        self._known.note(newest)
        return newest

    async def begin_age(self) -> EventId:
        """Let no id from before be resumed from: nobody knows what is missing since. Returns the next."""
        birth = event_id(await self._run(NEW_AGE, [self._names.ids], [str(self._known.id)]))
        self._known.note(birth)
        return birth

    async def read(
        self,
        after: Mapping[str, EventId],
        limit: int | None = None,
        heard: Mapping[str, EventId] | None = None,
    ) -> Reading:
        """Return what each of these topics has above its id, as of one moment.

        With a ``limit``, the first so many messages of all topics together. ``heard`` are the
        newest ids of topics that came from Redis before: where it came back with less, and somebody
        who knew no better has published since, the topic's next event follows an older one.
        Long histories are read in pieces. All of them end at the id that was the newest when
        the first was read, so that nothing below it is left out because its topic came first.
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
                    # What stands before the first entry above the position: there, or in its stead.
                    found_before = event_id(page[0][1][1] if page else newest)
                    forgotten = found_before == FIRST and before.milliseconds <= now - self._memory
                    # In a new age, positions tell.
                    if found_before < before and birth <= before and not forgotten:
                        fell_back = True
                        lost.add(topic)
                if (
                    not birth <= position <= last
                    or event_id(trimmed) > position
                    # The newest id of a topic that expired may be forgotten by now.
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
