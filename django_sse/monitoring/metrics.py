"""What happened in this process, counted."""

from __future__ import annotations

import threading
from collections import Counter

from django_sse.connection.roster import roster

#: Why streams end: what ``close_reason`` may be.
REASONS = (
    "completed",
    "client",
    "closed",
    "error",
    "overflow",
    "stalled",
    "shutdown",
    "expired",
    "revoked",
)


class Counters:
    """Numbers since the process began. Those of streams are written by their event loops only."""

    def __init__(self) -> None:
        self.opened = 0
        self.sent = 0
        self.dropped = 0
        self.refused = 0
        self.published = 0
        self.closed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add_published(self) -> None:
        """Count an event that the broker took; from any thread."""
        with self._lock:
            self.published += 1


counters = Counters()


def stats() -> dict[str, int]:
    """Return the numbers of this process since it began, as a plain dict.

    ``open``: streams of this moment; ``opened``, ``closed``, ``refused``: streams; ``completed``,
    ``client``, … ``revoked``: those that were closed, by ``close_reason`` (``closed_by_view``,
    ``errors`` and ``overflowed`` for ``closed``, ``error`` and ``overflow``); ``sent``: events given to connections, not counting heartbeats;
    ``dropped``: events that slow clients did not get; ``published``: events of this process.
    """
    closed = counters.closed
    return {
        "open": len(roster),
        "opened": counters.opened,
        "closed": closed.total(),
        "refused": counters.refused,
        "sent": counters.sent,
        "dropped": counters.dropped,
        "published": counters.published,
        "completed": closed["completed"],
        "client": closed["client"],
        "closed_by_view": closed["closed"],
        "errors": closed["error"],
        "overflowed": closed["overflow"],
        "stalled": closed["stalled"],
        "shutdown": closed["shutdown"],
        "expired": closed["expired"],
        "revoked": closed["revoked"],
    }
