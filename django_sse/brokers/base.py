"""The contract of a broker, which orders, stores and distributes events for the hubs of all processes."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

from .presence import Attended, Change, Departure, Presence

#: The hint of the system check for a broker's settings.
BROKERS = "The page docs/brokers.md has the options of each broker."

_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)


class EventId(NamedTuple):
    """The id of an event, ``<milliseconds>-<sequence>``; ids rise over all topics.

    Compare ids number by number, as tuples are compared, and never as text.
    """

    milliseconds: int
    sequence: int

    @classmethod
    def parse(cls, text: str) -> EventId | None:
        """Return the id that ``text`` stands for, or ``None`` when it is not one."""
        found = _ID.fullmatch(text)
        return None if found is None else cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        """Return the id as clients see it, ``<milliseconds>-<sequence>``."""
        return f"{self.milliseconds}-{self.sequence}"


#: An id that is lower than every id of a broker's events.
FIRST = EventId(0, 0)

#: How the topics of answers begin, which only the asking process needs. Brokers distribute their
#: events, and need not store them for more than some seconds. A project's topics cannot begin so.
PASSING = "\x1freply:"

#: How the topics begin in which processes speak to each other. A project's topics cannot begin so.
INTERNAL = "\x1f"

#: The ``key`` of a topic's last event: a stream that has sent it ends as ``completed``.
LAST = "\x1flast"


@dataclass(frozen=True, slots=True)
class Message:
    """A published event, encoded once for all connections.

    ``head`` has the encoded lines before the ``id`` field, and ``tail`` those after it
    (``wire.events.encode_head`` and ``encode_tail``). ``key`` is for the overflow policy
    ``"latest"``. ``exclude`` is the id of the page whose streams do not get it.
    """

    id: EventId
    topics: tuple[str, ...]
    head: bytes
    tail: bytes = b""
    key: str | None = None
    exclude: str | None = None

    def encode(self) -> bytes:
        """Return the whole event as it goes on the wire."""
        return b"%bid: %d-%d\n%b\n" % (self.head, *self.id, self.tail)


def newest_of(messages: Iterable[Message], count: int, *, per_key: bool) -> list[Message]:
    """Return what ``Listener.newest()`` promises, from messages that come with the newest first."""
    found: list[Message] = []
    ids: set[EventId] = set()
    keys: set[str] = set()
    for message in messages:
        if len(found) == count:
            break
        if message.id in ids:
            continue  # It has several of the topics.
        ids.add(message.id)
        if per_key and message.key is not None:
            if message.key in keys:
                continue
            keys.add(message.key)
        found.append(message)
    return found[::-1]


class Listener(ABC):
    """The connection of one event loop of one process to the broker; the hub owns it.

    It calls ``deliver(message)`` and ``lost(topics)``, which were given to ``Broker.listen()``, on
    its event loop, never in a thread. While a topic is subscribed:

    - it delivers once every message of the topic that is published after ``subscribe()`` returned,
      and delivers messages in the order of their ids, over all its topics. A message of several
      topics is delivered once, if at least one of them is subscribed;
    - after an interruption of any kind, it reconnects by itself, for as long as that takes, and
      delivers the messages that it missed before any newer one;
    - where it cannot (the events were trimmed, the broker lost its data), it calls
      ``lost(topics)`` with the topics concerned, before it delivers anything newer.
    """

    @abstractmethod
    async def subscribe(self, topics: Collection[str]) -> None:
        """Start to deliver the messages of these topics; return when none from now on can be
        missed.

        Waits for as long as the broker is away. Subscribing to a topic twice changes nothing.
        After a cancellation, the same topics are subscribed as before the call.
        """

    @abstractmethod
    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Stop to deliver the messages of these topics. Never waits for a broker that is away."""

    @abstractmethod
    async def replay(
        self, topics: Collection[str], after: EventId, limit: int | None = None
    ) -> list[Message]:
        """Return the stored messages of these topics with an id above ``after``, in order, each
        once.

        With a ``limit``, return the first ``limit`` of them; fewer mean that there are no more.
        Waits for as long as the broker is away. Raises ``HistoryLost`` when some of the messages
        are not stored any more, when ``after`` is above the newest id ever given, and when it is
        from before the broker lost its data. A topic without new messages never raises.
        """

    async def newest(
        self, topics: Collection[str], count: int, *, per_key: bool = False
    ) -> list[Message]:
        """Return the newest ``count`` stored messages of these topics, in order, each once.

        With ``per_key``, leave out messages with a ``key`` of which there is a newer one. Waits for
        as long as the broker is away. By default, there are none: it is for brokers that can look
        backwards.
        """
        return []

    @abstractmethod
    async def latest_id(self) -> EventId:
        """Return the newest id over all topics, or another one that is not above the next id.

        Waits for as long as the broker is away. ``replay(topics, after=…)`` with this id does not
        raise until events are trimmed, also when nothing was published yet.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close all connections and end all tasks. Nothing is delivered from then on."""


class Broker(ABC):
    """Orders, stores and distributes events. Each process has one, made from
    ``DJANGO_SSE["BROKER"]``.

    It is made on first use, and making it must be cheap: it opens no connection before it needs
    one.
    """

    def __init__(  # noqa: B027 - a broker may need nothing of it
        self, location: str = "", options: Mapping[str, Any] | None = None
    ) -> None:
        """Make a broker from ``LOCATION`` and ``OPTIONS``; raise ``ImproperlyConfigured`` for wrong ones."""

    def __str__(self) -> str:
        """Return the broker's name in errors: its class, and where its service is."""
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
        idempotency_key: str | None = None,
        exclude: str | None = None,
    ) -> EventId:
        """Give the event an id above all others, store it in each topic, and distribute it, at
        once.

        Returns the id. Where an event with the same ``idempotency_key`` was published within the
        history's age, nothing is stored, and that event's id is returned. The message has
        ``exclude``. Safe from any thread.
        Raises ``PublishFailed`` when the event is not confirmed within ``timeout`` seconds.
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
        idempotency_key: str | None = None,
        exclude: str | None = None,
    ) -> EventId:
        """Do the same as ``publish()`` from a coroutine, without blocking its event loop."""

    def publish_in_transaction(
        self,
        using: str,
        topics: Sequence[str],
        head: bytes,
        tail: bytes = b"",
        key: str | None = None,
        *,
        idempotency_key: str | None = None,
        exclude: str | None = None,
    ) -> bool:
        """Store the event within the transaction that is open on Django's connection ``using``.

        Returns False, and does nothing, where the broker stores events elsewhere, as it does by
        default: then the caller publishes after the commit. Raises ``PublishFailed`` when the event
        is not stored.
        """
        return False

    @abstractmethod
    def latest_id(self, *, timeout: float) -> EventId:
        """Return the same as ``Listener.latest_id()``; raise ``BrokerError`` after ``timeout`` seconds."""

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

    async def attend(
        self,
        holder: str,
        changes: Sequence[Change],
        departures: Sequence[Departure],
        *,
        lease: float,
        grace: float,
        timeout: float,
    ) -> Attended:
        """Take note of the users who follow topics through a holder, and renew its lease.

        ``holder`` is a name of letters and digits. Times are in seconds. All of the call is one
        step, and these steps have one order over all holders:

        - ``changes`` are what the holder has now; what they do not name stays as it is. A user who
          was not present in the topic is from now on, and the change's ``head`` is published to the
          topic, as by ``publish()``. A user whom no holder has any more stays present, and the
          leave is due in ``grace`` seconds, or when it was due already if that is sooner. A user
          who comes back until the leave is published never left.
        - of each of the ``departures`` that is still due, the event is published, and the user is
          present no more.
        - the holder has its lease for ``lease`` seconds. With a lease of 0 it has none from now on.
          The users of a holder whose lease has ended are removed from it by the call of any other
          holder, and the leave of those whom no holder has is due at once. Nothing is removed, and
          none is due, for a holder that had no lease before the call: the broker may just have come
          back, and the other holders need time to renew theirs.

        A call may be repeated. Raises ``BrokerError`` after ``timeout`` seconds; then the call may
        still be carried out later, so the caller takes another name for its holder. What the broker
        stores is bounded by the present users, and disappears where no holder is left to remove it.
        """
        raise ImproperlyConfigured(self.no_presence())

    def presence(self, topic: str, *, timeout: float) -> Presence:
        """Return the users that are present in a topic.

        The users of a holder without a lease are not. Raises ``BrokerError`` after ``timeout``
        seconds.
        """
        raise ImproperlyConfigured(self.no_presence())

    async def apresence(self, topic: str, *, timeout: float) -> Presence:
        """Do the same as ``presence()`` from a coroutine, without blocking its event loop."""
        raise ImproperlyConfigured(self.no_presence())

    @classmethod
    def keeps_presence(cls) -> bool:
        """Return whether the broker has ``attend()``, ``presence()`` and ``apresence()``."""
        return cls.attend is not Broker.attend

    @classmethod
    def no_presence(cls) -> str:
        """Return the text of the error where the broker knows no presence."""
        return (
            f"{cls.__qualname__} does not know who follows a topic: it has no attend() and no "
            "presence(). Use MemoryBroker, RedisBroker or DatabaseBroker, or leave out "
            "`presence = True`."
        )

    @abstractmethod
    def close(self) -> None:
        """Close the connections of ``publish()``. Safe from any thread. Listeners are closed separately."""

    def prepare_database(self, using: str) -> bool:
        """Make what the broker needs in the database ``using``; ``migrate`` calls it at its end.

        Returns whether something was missing. By default, nothing is needed.
        """
        return False

    def problems(self, *, timeout: float) -> list[str]:
        """Return the problems of the service behind the broker, each with its remedy; for
        ``sse_doctor``.

        Raises ``BrokerError`` where the service cannot be asked within ``timeout`` seconds. By
        default, there are none.
        """
        return []

    @classmethod
    def check(cls, location: str, options: Mapping[str, Any]) -> list[CheckMessage]:
        """Return the system checks' messages for these settings.

        By default, that is the ``ImproperlyConfigured`` which making a broker raises.
        """
        try:
            cls(location, options).close()
        except ImproperlyConfigured as error:
            return [Error(str(error), hint=BROKERS, id="django_sse.E018")]
        return []
