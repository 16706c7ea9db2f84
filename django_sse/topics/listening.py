"""Hear the messages of one topic in this process, beside the connections that follow it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_sse.brokers.base import FIRST, Message

from .backlog import Item
from .cohort import Cohort
from .hub import Hub, get_hub


class TopicListener:
    """Calls a function with each message of a topic, on the event loop on which it was opened.

    It hears every message that is published after ``open()`` returned, once and in order.
    """

    # The attributes that a cohort expects of a connection. This listener is never live. So the
    # cohort gives it each batch by hold(), and does not count the batch as sent.
    cursor = FIRST
    client: str | None = None
    outbox: Any = None
    backlog: Any = None

    def __init__(self, topic: str, hear: Callable[[Message], None]) -> None:
        """Listen to nothing yet; ``hear`` must not raise."""
        self._topic = topic
        self._hear = hear
        self._hub: Hub | None = None
        self._cohort: Cohort | None = None

    async def open(self) -> None:
        """Begin to listen. Waits for as long as the broker is away."""
        hub = self._hub = get_hub()
        self._cohort = hub.add(self, frozenset({self._topic}))
        await hub.subscribe([self._topic])

    def close(self) -> None:
        """Hear nothing from now on; does nothing where it is not open."""
        hub, cohort = self._hub, self._cohort
        self._hub = self._cohort = None
        if hub is not None and cohort is not None:
            hub.remove(self, cohort)

    def hold(self, batch: list[Item], size: int) -> None:
        """Hear messages."""
        for message, _ in batch:
            self._hear(message)

    def lose(self) -> None:
        """Do nothing: what counts of a job is looked up again, or comes again."""

    def send(self, batch: list[Item]) -> None:
        """Is never called: the listener is not live."""
        raise NotImplementedError

    enqueue = send

    def fail(self) -> None:
        """Is never called: ``hear`` does not raise."""
        raise NotImplementedError

    finish = fail
