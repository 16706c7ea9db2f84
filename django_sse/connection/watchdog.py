"""The watchdog: finds clients that have stopped reading, and peers that vanished without closing."""

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
#: How many streams are looked at before other work of the event loop has its turn.
SLICE = 500


class Watchdog:
    """One timer for all streams of an event loop; it runs while there are streams.

    The watchdog suspects a stream while bytes are on their way that the client has not
    acknowledged. Every byte that the client takes clears the stream, however slow the client is.
    After ``SEND_TIMEOUT`` seconds without one, and a quarter more at most, the stream is closed as
    ``stalled``.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to ``loop``; ``watch()`` starts the timer."""
        self._loop = loop
        self._running = False
        #: The most bytes that each suspect has taken, and when that was first seen.
        self._suspects: dict[Any, tuple[int, float]] = {}

    def watch(self) -> None:
        """Start the timer unless it runs; called as a stream begins."""
        if not self._running:
            self._running = True
            self._later()

    def _later(self) -> None:
        delay = min(PERIOD, conf.send_timeout / 4)
        # A new context, since the timer outlives the stream in whose context it was started.
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
                # Catch the error here, so that the other streams are still watched.
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
        # The number may be below zero at first: headers and frames are on their way too, and do not
        # count as bytes of the stream.
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
