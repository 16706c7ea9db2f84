"""See in a test what is published, without a broker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from django_sse.brokers import use_broker
from django_sse.brokers.base import EventId, Message
from django_sse.brokers.memory import MemoryBroker
from django_sse.wire.events import EventDecoder, ServerSentEvent


class Published(NamedTuple):
    """One captured event: its topics, the event as clients decode it, and its ``key``."""

    topics: tuple[str, ...]
    event: ServerSentEvent
    key: str | None


class CapturingBroker(MemoryBroker):
    """A ``MemoryBroker`` that also keeps a list of the published events."""

    def __init__(self) -> None:
        """Begin without events."""
        super().__init__()
        #: The events that were published so far, in order. A test may clear it.
        self.published: list[Published] = []

    def publish(
        self,
        topics: Sequence[str],
        head: bytes,
        tail: bytes = b"",
        key: str | None = None,
        *,
        timeout: float,
        idempotency_key: str | None = None,
        exclude: str | None = None,
    ) -> EventId:
        """Append the event to the list, and publish it."""
        newest = self.latest_id()
        event_id = super().publish(
            topics,
            head,
            tail,
            key,
            timeout=timeout,
            idempotency_key=idempotency_key,
            exclude=exclude,
        )
        if event_id <= newest:
            return event_id  # It repeats an event, and is not published again.
        [event] = EventDecoder().feed(Message(event_id, tuple(topics), head, tail).encode())
        self.published.append(Published(tuple(topics), event, key))
        return event_id


@contextmanager
def capture_published() -> Iterator[list[Published]]:
    """Collect the events that are published within the block, whatever ``DJANGO_SSE["BROKER"]``
    says.

    No broker has to run. Streams that connect within the block get the events. In a test that runs
    in Django's own transaction, an event that waits for the commit of a transaction of the test's
    own is captured when ``captureOnCommitCallbacks(execute=True)`` runs it, as everywhere in
    Django.
    """
    broker = CapturingBroker()
    previous = use_broker(broker)
    try:
        yield broker.published
    finally:
        use_broker(previous)
