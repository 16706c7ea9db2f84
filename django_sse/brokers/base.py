"""The contract between the hub and whatever orders, stores and distributes events."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

#: The hint of what is wrong in a broker's settings.
BROKERS = "The page docs/brokers.md has the options of each broker."

_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)


class EventId(NamedTuple):
    """A broker's id, ``<milliseconds>-<sequence>``, which rises over all topics.

    Ids are compared number by number, as tuples are, and never as text.
    """

    milliseconds: int
    sequence: int

    @classmethod
    def parse(cls, text: str) -> EventId | None:
        """Return the id that ``text`` stands for, or ``None`` when it is not one."""
        found = _ID.fullmatch(text)
        return None if found is None else cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.sequence}"


#: Lower than every id that a broker gives.
FIRST = EventId(0, 0)

#: How the topics of answers begin that concern who asked, and nobody later: brokers distribute what
#: is published to them, and need not hold it for more than seconds. Projects cannot name them.
PASSING = "\x1freply:"

#: How the topics begin that processes speak to each other in. Projects cannot name them.
INTERNAL = "\x1f"


@dataclass(frozen=True, slots=True)
class Message:
    """A published event: encoded once, and the same bytes for every connection.

    ``head`` are the encoded lines before the ``id`` field and ``tail`` those after it
    (``events.encode_head`` and ``events.encode_tail``). ``key`` serves the overflow policy
    ``"latest"``.
    """

    id: EventId
    topics: tuple[str, ...]
    head: bytes
    tail: bytes = b""
    key: str | None = None

    def encode(self) -> bytes:
        """Return the whole block as it goes on the wire."""
        return b"%bid: %d-%d\n%b\n" % (self.head, *self.id, self.tail)


class Listener(ABC):
    """What one event loop of one process hears from the broker; the hub owns it.

    ``deliver(message)`` and ``lost(topics)``, given to ``Broker.listen()``, are called on the
    listener's event loop, never in a thread. For as long as a topic is subscribed:

    - every message of it that is published after ``subscribe()`` returned is delivered once, and
      messages are delivered in the order of their ids, over all topics of the listener. A message
      of several topics is delivered once, as soon as one of them is subscribed;
    - after an interruption of whatever kind, the listener reconnects by itself, for as long as it
      takes, and delivers what it missed before anything newer;
    - where it cannot (the events were trimmed, the broker lost its data), it calls
      ``lost(topics)`` with the topics concerned, before anything newer is delivered.
    """

    @abstractmethod
    async def subscribe(self, topics: Collection[str]) -> None:
        """Start to deliver these topics' messages; return when none published from now on is missed.

        Waits for as long as the broker is away. Subscribing to a topic twice changes nothing.
        When cancelled, topics that were not subscribed before are not subscribed after.
        """

    @abstractmethod
    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Stop to deliver these topics' messages. Never waits for a broker that is away."""

    @abstractmethod
    async def replay(
        self, topics: Collection[str], after: EventId, limit: int | None = None
    ) -> list[Message]:
        """Return every stored message of any of these topics with an id above ``after``, in order, once.

        With a ``limit``, the first so many of them; fewer are all that there are. Waits for as long as the broker is away. Raises ``HistoryLost`` when some of them are not
        held any more, when ``after`` is above the newest id ever given, or from before the broker
        lost its data. A topic that was merely quiet never raises.
        """

    @abstractmethod
    async def latest_id(self) -> EventId:
        """Return the newest id that was given, over all topics, or one that is not above the next.

        Waits for as long as the broker is away. ``replay(topics, after=…)`` with it never raises
        before events are trimmed, also when nothing was published yet.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release everything: connections, tasks. Nothing is delivered from then on."""


class Broker(ABC):
    """Orders, stores and distributes events; made once per process, from ``DJANGO_SSE["BROKER"]``.

    It is made on first use and must be cheap to make: no connection is opened before it is needed.
    """

    def __init__(  # noqa: B027 - a broker may need nothing of it
        self, location: str = "", options: Mapping[str, Any] | None = None
    ) -> None:
        """Take ``LOCATION`` and ``OPTIONS``; raise ``ImproperlyConfigured`` for wrong ones."""

    def __str__(self) -> str:
        """Return what the broker is called in errors: its class, and where it is."""
        return type(self).__name__

    @abstractmethod
    def publish(
        self,
        topics: Sequence[str],
        head: bytes,
        tail: bytes = b"",
        key: str | None = None,
        *,
        timeout: float,
    ) -> EventId:
        """Give the event an id above all others, store it in each topic, and distribute it, at once.

        Safe from any thread. Raises ``PublishFailed`` when it is not confirmed within ``timeout``
        seconds.
        """

    @abstractmethod
    async def apublish(
        self,
        topics: Sequence[str],
        head: bytes,
        tail: bytes = b"",
        key: str | None = None,
        *,
        timeout: float,
    ) -> EventId:
        """Do the same as ``publish()`` from a coroutine, without blocking its event loop."""

    @abstractmethod
    def latest_id(self, *, timeout: float) -> EventId:
        """Return what ``Listener.latest_id()`` does; raise ``BrokerError`` after ``timeout`` seconds."""

    @abstractmethod
    async def alatest_id(self, *, timeout: float) -> EventId:
        """Do the same as ``latest_id()`` from a coroutine."""

    @abstractmethod
    def listen(
        self,
        deliver: Callable[[Message], None],
        lost: Callable[[Collection[str]], None],
    ) -> Listener:
        """Return a listener for the running event loop. Does not wait and does not connect yet."""

    @abstractmethod
    def close(self) -> None:
        """Release what ``publish()`` holds. Safe from any thread; listeners are closed on their own."""

    def problems(self, *, timeout: float) -> list[str]:
        """Return what is wrong with the service behind the broker, with the remedy; for the doctor.

        Raises ``BrokerError`` where it cannot be asked within ``timeout`` seconds. By default,
        nothing is known.
        """
        return []

    @classmethod
    def check(cls, location: str, options: Mapping[str, Any]) -> list[CheckMessage]:
        """Return what the system checks say of these settings; by default, what making one raises."""
        try:
            cls(location, options).close()
        except ImproperlyConfigured as error:
            return [Error(str(error), hint=BROKERS, id="django_sse.E018")]
        return []
