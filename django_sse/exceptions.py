"""All exceptions of this package, in one tree."""

from __future__ import annotations

import copyreg
from typing import Any


class SSEError(Exception):
    """The base of all exceptions of ``django_sse``, so that one ``except`` can catch them."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Let an exception be pickled with all its attributes."""
        # By default, an exception is pickled with its text alone, and could not be made again
        # without its other arguments. Task queues and test runners pass exceptions from process to
        # process.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InvalidEvent(SSEError, ValueError):
    """Raised when an event is made whose fields cannot be put on the wire.

    ``field`` is the name of the offending field, ``value`` what was given for it.
    """

    def __init__(self, message: str, *, field: str, value: object) -> None:
        """Take the text, the name of the offending field, and its value."""
        super().__init__(message)
        self.field = field
        self.value = value


class SerializerNotFound(SSEError, LookupError):
    """Raised when an object is sent or published whose type has no serializer.

    ``type`` is the type of the object. ``view`` is the class of the stream that was to send it, or
    ``None`` where the object was published.
    """

    def __init__(self, message: str, *, type: type, view: type | None) -> None:
        """Take the text, the type without a serializer, and the stream's class."""
        super().__init__(message)
        self.type = type
        self.view = view


class UndeclaredEvent(SSEError, TypeError):
    """Raised when an event is sent or published that the view's or the topic's ``events`` do not have.

    ``event`` is its name, ``type`` the type of its data, ``view`` the class of the stream, and
    ``topic`` the topic where it was published; one of these is ``None``. Raised with ``DEBUG``, in
    tests, and where ``DJANGO_SSE["CHECK_EVENTS"]`` says so.
    """

    def __init__(
        self, message: str, *, event: str | None, type: type, view: type | None, topic: str | None
    ) -> None:
        """Take the text, the event's name, the type of its data, and where it was declared."""
        super().__init__(message)
        self.event = event
        self.type = type
        self.view = view
        self.topic = topic


class StreamClosed(SSEError):
    """Raised by ``send()`` when the stream has ended: the client left, or the stream was closed.

    If ``stream()`` does not catch it, the stream ends and nothing is logged.
    """


class StreamFinished(SSEError):
    """Raise it in ``connect()`` to tell the client that there is nothing (more) to stream.

    The handshake then answers 204, and a browser's ``EventSource`` stops reconnecting
    (WHATWG HTML, 9.2.3 "Processing model").
    """


class JobCancelled(SSEError):
    """Raised by a job's ``send()`` and ``progress()`` once the job was cancelled, or has ended otherwise.

    Let it pass: the work ends, and ``JobWriter`` and ``JobView`` do not log it.
    """


class EventTooLarge(InvalidEvent):
    """Raised by ``publish()`` for an event above ``MAX_EVENT_BYTES``; ``size`` is in bytes."""

    def __init__(self, message: str, *, size: int) -> None:
        """Take the text, and the event's size in bytes."""
        super().__init__(message, field="data", value=size)
        self.size = size


class InvalidTopic(SSEError, ValueError):
    """Raised for a topic that is empty, too long, or has control characters."""

    def __init__(self, message: str, *, topic: object) -> None:
        """Take the text, and the topic that was given."""
        super().__init__(message)
        self.topic = topic


class BrokerError(SSEError):
    """The base of a broker's exceptions; the cause is the exception of the broker's client library."""


class PublishFailed(BrokerError):
    """Raised by ``publish()`` when the broker did not confirm the event within the time limit.

    ``may_be_stored`` is False if the event was certainly not stored. It is True if the connection
    broke, or the time ran out, after the event was handed over.
    """

    def __init__(self, message: str, *, may_be_stored: bool) -> None:
        """Take the text, and whether the event may be stored."""
        super().__init__(message)
        self.may_be_stored = may_be_stored


class HistoryLost(BrokerError):
    """Raised by a broker's ``replay()`` when it does not have every event since an id.

    Either the events were trimmed since, or the id does not belong to the broker's data: it is in
    the future, or from before the broker lost its data.
    """


def is_only_closed(error: BaseException) -> bool:
    """Return whether an exception, or all of a group's, says only that the stream has ended."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_only_closed, error.exceptions))
    return isinstance(error, StreamClosed)
