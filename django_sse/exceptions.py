"""Every error that this package raises, in one tree."""

from __future__ import annotations

import copyreg
from typing import Any


class SSEError(Exception):
    """Base of all errors of ``django_sse``, so that one ``except`` can name them."""

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is pickled with its text alone, and what it is made with besides would be
        # missing: task queues and test runners carry exceptions from process to process.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InvalidEvent(SSEError, ValueError):
    """Raised when an event is made whose fields cannot be put on the wire.

    ``field`` is the name of the offending field, ``value`` what was given for it.
    """

    def __init__(self, message: str, *, field: str, value: object) -> None:
        super().__init__(message)
        self.field = field
        self.value = value


class SerializerNotFound(SSEError, LookupError):
    """Raised when an object is to be sent for whose type no serializer is known.

    ``type`` is the type of the object, ``view`` the class that was to send it, or ``None``
    where the object was published.
    """

    def __init__(self, message: str, *, type: type, view: type | None) -> None:
        super().__init__(message)
        self.type = type
        self.view = view


class StreamClosed(SSEError):
    """Raised by ``send()`` when the stream has ended: the client left, or it was closed.

    A ``stream()`` that lets it pass ends quietly: nothing is logged.
    """


class StreamFinished(SSEError):
    """Raise it in ``connect()`` to tell the client that there is nothing (more) to stream.

    The handshake answers 204, upon which a browser's ``EventSource`` stops reconnecting
    (WHATWG HTML, 9.2.3 "Processing model").
    """


class EventTooLarge(InvalidEvent):
    """Raised by ``publish()`` for an event above ``MAX_EVENT_BYTES``; ``size`` is in bytes."""

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message, field="data", value=size)
        self.size = size


class InvalidTopic(SSEError, ValueError):
    """Raised for a topic that is empty, too long, or has control characters."""

    def __init__(self, message: str, *, topic: object) -> None:
        super().__init__(message)
        self.topic = topic


class BrokerError(SSEError):
    """Base of what a broker raises; its cause is the error of the broker's client library."""


class PublishFailed(BrokerError):
    """Raised by ``publish()`` when the broker did not confirm the event within the time limit.

    ``may_be_stored`` is False where it is certain that the event was not stored, and True where
    the connection broke, or time ran out, after the event had been handed over.
    """

    def __init__(self, message: str, *, may_be_stored: bool) -> None:
        super().__init__(message)
        self.may_be_stored = may_be_stored


class HistoryLost(BrokerError):
    """Raised by a broker's ``replay()`` when it cannot give every event since an id.

    The events were trimmed since, or the id is not one of this broker's data: it lies in the
    future, or before the broker lost its data.
    """


def is_only_closed(error: BaseException) -> bool:
    """Return whether an exception, or all of a group's, says only that the stream has ended."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_only_closed, error.exceptions))
    return isinstance(error, StreamClosed)
