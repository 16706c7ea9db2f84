"""The counters of this process, and ``stats()``."""

from __future__ import annotations

import threading
from collections import Counter

from django_sse.connection.roster import roster

#: The values of ``close_reason``.
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
    """Numbers since the process began. Only event loops write those of streams, so they need no lock."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.opened = 0
        self.sent = 0
        self.dropped = 0
        self.refused = 0
        self.published = 0
        self.closed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add_published(self) -> None:
        """Count an event that the broker has taken. Safe from any thread."""
        with self._lock:
            self.published += 1


counters = Counters()


def stats() -> dict[str, int]:
    """Return the numbers of this process since it began, as a plain dict.

    - ``open``: streams that are open now;
    - ``opened``, ``closed``, ``refused``: streams that were opened, closed and refused;
    - ``completed``, ``client``, ``closed_by_view``, ``errors``, ``overflowed``, ``stalled``,
      ``shutdown``, ``expired``, ``revoked``: closed streams by ``close_reason``
      (``closed_by_view``, ``errors`` and ``overflowed`` are ``closed``, ``error`` and
      ``overflow``);
    - ``sent``: events given to connections, without heartbeats;
    - ``dropped``: events that slow clients did not get;
    - ``published``: events that this process has published.
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
