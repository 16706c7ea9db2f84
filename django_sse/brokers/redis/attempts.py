"""The tries of one command: which errors allow another try, when it comes, and what a failure says."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

#: Redis is away, starting, or failing over. A command that fails with one of these may be tried
#: again.
AWAY = (
    RedisConnectionError,
    RedisTimeoutError,
    OSError,  # TimeoutError too
    MasterDownError,
    ReadOnlyError,
)
# Redis answered, and did nothing. (A script meets these at its first write, or not at all.)
_REFUSED = (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
)

#: The remedy where nothing listens at the broker's address.
START_REDIS = 'Start Redis, or correct DJANGO_SSE["BROKER"]["LOCATION"].'


@dataclass(slots=True)
class Attempt:
    """The state of a command that is tried until it succeeds; with ``once``, it must not run twice.

    ``sent`` is True once the command may have reached Redis, and Redis did not refuse it;
    ``refused`` says that Redis answered, and did nothing. ``cause`` is the error of the last try.
    """

    once: bool = False
    sent: bool = False
    refused: bool = False
    cause: Exception | None = None
    began: float = field(default_factory=time.monotonic)

    def may_go_on(self, error: Exception) -> bool:
        """Return whether another try may help, and does nothing twice."""
        # A wrong password stays wrong. A script that may have run would store the event a second
        # time.
        return not isinstance(error, AuthenticationError) and not (self.once and self.sent)

    def take_note(self, error: BaseException) -> None:
        """Note the error of a try."""
        self.refused = _is_refusal(error)
        if self.refused:
            self.sent = False

    def in_words(self, error: Exception) -> str:
        """Return why the command failed, after how long, and the remedy where one is known."""
        # The error of a time limit is empty. The error of the try before it says why there was no
        # answer.
        cause = self.cause if self.cause is not None and not str(error) else error
        text = f"{in_words(cause)} (tried for {time.monotonic() - self.began:.1f} s)"
        if "CROSSSLOT" in str(error) or "same slot" in str(error):
            text += (
                ". This is a Redis Cluster, which is not supported: use one server, or Sentinel "
                "with an address that follows the master."
            )
        elif is_refused(cause):
            text += f". {START_REDIS}"
        return text


# Errors with which a script ends at its first write.
_REFUSED_TO_WRITE = ("MISCONF", "NOREPLICAS")


def _is_refusal(error: BaseException) -> bool:
    if isinstance(error, _REFUSED):
        return True
    if not isinstance(error, ResponseError):
        return False
    # An error from within a script says so, and may come after a write.
    return str(error).startswith(_REFUSED_TO_WRITE) or "script" not in str(error)


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each next try: at least 0.025 at first, and 2 at most.

    They are random, so that not all processes come at once to a server that comes back.
    """
    limit = 0.05
    while True:
        yield random.uniform(limit / 2, limit)  # noqa: S311 - no secret
        limit = min(limit * 2, 2.0)


def is_refused(error: Exception) -> bool:
    """Return whether nothing listens at the address, so that Redis does not run, or elsewhere."""
    return isinstance(error.__cause__ or error.__context__, ConnectionRefusedError)


def in_words(error: Exception) -> str:
    """Return an error's class and text; redis-py's ``repr()`` has only its category."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def refined(error: ResponseError) -> Exception:
    """Return an error that says what Redis means, where redis-py's does not."""
    # Another client's script runs for long, and Redis serves no other client meanwhile.
    return BusyLoadingError(str(error)) if str(error).startswith("BUSY ") else error
