"""Brokers that a test can hold back, or let lose what they were to deliver."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from django_sse.brokers.base import Message
from django_sse.brokers.memory import MemoryBroker, MemoryListener


class HeldBroker(MemoryBroker):
    """Stores at once, and delivers when it is allowed to, as a broker on the network does."""

    def __init__(self, **options: Any) -> None:
        super().__init__("", options)
        self.holding = False
        self._held: list[tuple[Callable[[Message], None], Message]] = []
        self._lost: Callable[[Collection[str]], None] | None = None

    def listen(
        self,
        deliver: Callable[[Message], None],
        lost: Callable[[Collection[str]], None],
    ) -> MemoryListener:
        self._lost = lost

        def later(message: Message) -> None:
            if self.holding:
                self._held.append((deliver, message))
            else:
                deliver(message)

        return super().listen(later, lost)

    def hold(self) -> None:
        """Deliver nothing from now on."""
        self.holding = True

    def release(self) -> None:
        """Deliver what was held back, and everything from now on."""
        self.holding = False
        held, self._held = self._held, []
        for deliver, message in held:
            deliver(message)

    def lose(self, *topics: str) -> None:
        """Tell the hub that messages of these topics were lost."""
        assert self._lost is not None
        self._lost(frozenset(topics))
