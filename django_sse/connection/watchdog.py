"""Finds clients that take no byte any more: stalled ones, and peers that vanished without a word."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from itertools import islice
from typing import Any

from django_sse.conf import conf

from .roster import roster

logger = logging.getLogger("django_sse")

#: Seconds between two rounds, at most.
PERIOD = 15.0
#: Streams that are looked at before other work has its turn.
SLICE = 500


class Watchdog:
    """One timer for all streams of an event loop; it runs while there are any.

    A stream is suspected while bytes are on their way that the client has not acknowledged, and
    cleared by every byte that it takes, however slow it is. ``SEND_TIMEOUT`` seconds without one,
    and a quarter more at the most, and it is closed as ``stalled``.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running = False
        #: The most bytes that each suspect has taken, and when that was first seen.
        self._suspects: dict[Any, tuple[int, float]] = {}

    def watch(self) -> None:
        """See to it that the rounds go on; called as a stream begins."""
        if not self._running:
            self._running = True
            self._later()

    def _later(self) -> None:
        delay = min(PERIOD, conf.send_timeout / 4)
        # Not in the context of the stream that comes first, which it outlives.
        self._loop.call_later(delay, self._round, context=Context())

    def _round(self) -> None:
        streams = [stream for stream in roster.streams() if stream.event_loop is self._loop]
        self._suspects = {
            s: seen for s, seen in self._suspects.items() if s.close_reason != "client"
        }
        if streams or self._suspects:
            self._look(iter(streams))
        else:
            self._running = False

    def _look(self, streams: Any) -> None:
        now, limit = self._loop.time(), conf.send_timeout
        looked = 0
        for stream in islice(streams, SLICE):
            looked += 1
            try:
                self._look_at(stream, now, limit)
            except Exception:
                # Of this stream alone: all others count on the next round.
                logger.exception("%s could not be watched.", type(stream).__qualname__)
        if looked == SLICE:
            self._loop.call_soon(self._look, streams)
        else:
            present = set(roster.streams())
            self._suspects = {s: seen for s, seen in self._suspects.items() if s in present}
            self._later()

    def _look_at(self, stream: Any, now: float, limit: float) -> None:
        stream.notice_loss()
        taken = stream.bytes_taken()
        if taken is None:
            self._suspects.pop(stream, None)
            return
        # Below zero at first: heads and frames are on their way too, and no bytes of the stream.
        best, since = self._suspects.setdefault(stream, (taken, now))
        if taken > best:
            self._suspects[stream] = (taken, now)
        elif now - since >= limit:
            del self._suspects[stream]
            stream.stall()


_watchdogs: dict[asyncio.AbstractEventLoop, Watchdog] = {}


def watchdog(loop: asyncio.AbstractEventLoop) -> Watchdog:
    """Return the watchdog of a loop, made when it is first needed."""
    found = _watchdogs.get(loop)
    if found is None:
        for gone in [other for other in _watchdogs if other.is_closed()]:
            del _watchdogs[gone]
        found = _watchdogs[loop] = Watchdog(loop)
    return found
