"""The roster: every stream of this process, from its admission to its end."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any


class Roster:
    """The admitted streams, counted by the keys of limits. Safe from any thread."""

    def __init__(self) -> None:
        """Begin without streams."""
        self._lock = threading.Lock()
        #: The streams, each with the keys under which it is counted.
        self._places: dict[Any, tuple[Any, ...]] = {}
        self._counts: Counter[Any] = Counter()

    def __len__(self) -> int:
        """Return the number of streams."""
        return len(self._places)

    def streams(self) -> list[Any]:
        """Return the streams of this moment."""
        with self._lock:
            return list(self._places)

    def enter(self, stream: Any, limits: dict[Any, int]) -> Any:
        """Give a stream its place; ``limits`` maps each key it counts under to a maximum.

        Returns ``None``, or the first key whose maximum is reached, and then gives no place.
        """
        with self._lock:
            for key, limit in limits.items():
                if self._counts[key] >= limit:
                    return key
            self._places[stream] = tuple(limits)
            self._counts.update(limits.keys())
            return None

    def leave(self, stream: Any) -> None:
        """Free a stream's place; the first call counts."""
        with self._lock:
            for key in self._places.pop(stream, ()):
                self._counts[key] -= 1
                if not self._counts[key]:
                    del self._counts[key]


roster = Roster()
