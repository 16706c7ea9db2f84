"""The values that a broker takes and returns for the users who are present in topics.

A *holder* is one event loop of one process. It tells the broker which users follow which topics
through it, and renews one lease for all of them. The broker joins what all holders say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

#: The most users of one reply whose leave is due. What exceeds it comes with the next replies.
DUE_LIMIT = 100
#: The most entries of holders without a lease that one call removes.
SWEEP_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Presence:
    """The users who are present in a topic, over all processes.

    ``users`` are the primary keys of users as text, each once, sorted; ``anonymous`` is the number
    of open streams without a user.
    """

    users: tuple[str, ...] = ()
    anonymous: int = 0


class Change(NamedTuple):
    """How many streams of a user follow a topic through a holder; ``user`` is ``None`` for anonymous ones.

    ``head`` is the encoded event that is published where the user was not present before.
    """

    topic: str
    user: str | None
    streams: int
    head: bytes = b""


class Departure(NamedTuple):
    """The encoded event of a user's leave, which is published if the leave is still due."""

    topic: str
    user: str
    head: bytes


class Attended(NamedTuple):
    """The broker's answer to a holder.

    ``known`` is False where the broker did not know the holder before the call: then it knows of it
    no more than this call has said. ``due`` are the topics and users whose leave is due. ``wait``
    is the number of seconds after which another holder's lease ends, if there is one.
    """

    known: bool
    due: list[tuple[str, str]]
    wait: float | None
