"""The wire format: events, their encoding, and an incremental decoder.

Everything here follows the WHATWG HTML standard, section 9.2 "Server-sent events", and knows
nothing of Django.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django_sse.exceptions import InvalidEvent

#: The media type of an event stream (WHATWG HTML, 9.2.5).
CONTENT_TYPE = "text/event-stream"

# No client could wait for longer.
_MAX_RETRY = 2**63 - 1
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, init=False)
class ServerSentEvent:
    """One event. It is checked when it is made, so that every event can be sent.

    ``data`` is text, or an object that a view's serializer turns into text; ``None`` leaves the
    field out, and browsers dispatch nothing then. ``retry`` is a whole number of milliseconds or
    a ``timedelta``. ``comments`` is text of one or more lines that browsers ignore.

    Raises ``InvalidEvent``, and repairs nothing silently, for:

    - an ``event`` or ``id`` with a line end, or an ``id`` with a NUL;
    - a ``retry`` that is no whole number of milliseconds ≥ 0;
    - text that is not valid Unicode;
    - an event with no field at all.

    Source: WHATWG HTML, 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event stream".
    """

    data: Any = None
    event: str | None = None
    id: str | None = None
    retry: int | None = None
    comments: str | None = None

    def __init__(
        self,
        data: Any = None,
        event: str | None = None,
        id: str | None = None,
        retry: int | timedelta | None = None,
        comments: str | None = None,
    ) -> None:
        """Check the fields; raise ``InvalidEvent`` for those that cannot be sent."""
        wait = check_fields(data, event, id, retry, comments)
        # isinstance() would evaluate one of Django's lazy objects, which may make a query.
        if issubclass(type(data), str):
            _check_text("data", data)
        # The class is frozen; only this method may set its attributes.
        put = object.__setattr__
        put(self, "data", data)
        put(self, "event", event)
        put(self, "id", id)
        put(self, "retry", wait)
        put(self, "comments", comments)

    def encode(self) -> bytes:
        """Return the event as it goes on the wire, its blank line included.

        Raises ``InvalidEvent`` when ``data`` is an object: only a view or ``publish()`` knows
        the serializer that turns it into text.
        """
        if self.data is not None and not isinstance(self.data, str):
            raise InvalidEvent(
                f"Only text can be encoded, and data is a {type(self.data).__name__}. Send the "
                "event through a view, or pass view.serialize(object) as its data.",
                field="data",
                value=self.data,
            )
        return encode_fields(self.data, self.event, self.id, self.retry, self.comments)


def check_fields(
    data: Any = None,
    event: Any = None,
    id: Any = None,
    retry: Any = None,
    comments: Any = None,
) -> int | None:
    """Return ``retry`` in milliseconds; raise ``InvalidEvent`` for fields that cannot be sent."""
    if event is not None:
        check_name("event", event)
    if id is not None:
        check_name("id", id)
    if comments is not None:
        _check_text("comments", comments)
    if retry is not None:
        return milliseconds(retry)
    if data is None and event is None and id is None and comments is None:
        raise InvalidEvent(
            "An event needs at least one of data, event, id, retry and comments.",
            field="data",
            value=None,
        )
    return None


def encode_fields(
    data: str | None,
    event: str | None = None,
    id: str | None = None,
    retry: int | None = None,
    comments: str | None = None,
) -> bytes:
    """Return the encoded event, its fields in the order event, data, id, retry, comments.

    The caller has checked the fields with ``check_fields()``, except for the Unicode text: if it is
    not valid, this raises ``InvalidEvent``.
    """
    head = encode_head(data, event)
    if id is None and retry is None and comments is None:
        return head + b"\n"
    middle = b"" if id is None else _field("id", id)
    return head + middle + encode_tail(retry, comments) + b"\n"


def encode_head(data: str | None, event: str | None) -> bytes:
    """Return the lines that stand before an event's ``id``: ``event`` and ``data``."""
    head = b"" if event is None else _field("event", event)
    if data is None:
        return head
    if "\n" not in data and "\r" not in data:
        return head + _field("data", data)
    return head + b"".join(_field("data", line) for line in split_lines(data))


def encode_tail(retry: int | None, comments: str | None) -> bytes:
    """Return the lines that stand after an event's ``id``: ``retry`` and comments."""
    tail = b"" if retry is None else b"retry: %d\n" % retry
    if comments is None:
        return tail
    return tail + b"".join(_field("", line) for line in split_lines(comments))


def split_lines(text: str) -> list[str]:
    """Split at CRLF, CR and LF only, so that no other Unicode line break is taken for one."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def check_name(field: str, value: Any) -> None:
    """Raise ``InvalidEvent`` unless ``value`` may stand in an ``event`` or ``id`` field."""
    _check_text(field, value)
    if "\n" in value or "\r" in value:
        raise InvalidEvent(
            f"{field} must not contain a line end (CR or LF), got {value!r}: what follows it "
            "would be read as another field.",
            field=field,
            value=value,
        )
    if field == "id" and "\0" in value:
        raise InvalidEvent(
            f"id must not contain a NUL character, got {value!r}: clients ignore such an id.",
            field=field,
            value=value,
        )


def milliseconds(value: int | timedelta) -> int:
    """Return a ``retry`` as milliseconds; raise ``InvalidEvent`` unless it is a whole number ≥ 0."""
    number: Any = value
    if isinstance(value, timedelta):
        number, rest = divmod(value, _MILLISECOND)
        if rest:
            number = None
    if type(number) is not int or not 0 <= number <= _MAX_RETRY:
        raise InvalidEvent(
            "retry must be a whole number of milliseconds from 0 to 2**63-1 (an int or a "
            f"timedelta), got {value!r}.",
            field="retry",
            value=value,
        )
    return number


def _check_text(field: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidEvent(
            f"{field} must be a str, got {value!r}. Convert it first: {field}=str(…).",
            field=field,
            value=value,
        )
    if not value.isascii():
        _utf8(field, value)


def _field(name: str, value: str) -> bytes:
    # A client removes one space after the colon, so the value keeps its own spaces. The parts are
    # joined and not formatted, because a str that is also an Enum would be formatted as its
    # member's name.
    try:
        return (name + ": " + value + "\n" if value else name + ":\n").encode()
    except UnicodeEncodeError:
        return _utf8(name or "comments", value)  # This raises InvalidEvent.


def _utf8(field: str, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InvalidEvent(
            f"{field} is not valid Unicode text (a lone surrogate at position {error.start}), "
            f"got {value!r}.",
            field=field,
            value=value,
        ) from error


class EventDecoder:
    """Turns the bytes of an event stream into events, wherever they are cut into chunks.

    ``last_event_id`` is what a browser would send as ``Last-Event-ID``; it stays until a later
    event sets another. ``retry`` is the last reconnection time in milliseconds, or ``None``.

    Every block with at least one known field or comment is returned, also those that a browser
    does not dispatch: a browser dispatches a block whose ``data`` is not ``None``. A block that the
    end of the stream has cut off is never returned.

    Source: WHATWG HTML, 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event stream".
    """

    __slots__ = ("_after_cr", "_block", "_decoder", "_line", "_started", "last_event_id", "retry")

    def __init__(self) -> None:
        """Begin at the start of a stream."""
        # Bytes that are not UTF-8 become U+FFFD, as in the standard's "UTF-8 decode".
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line: list[str] = []
        self._after_cr = False
        self._started = False
        self._block = _Block()
        self.last_event_id = ""
        self.retry: int | None = None

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Take the next bytes and return the events that they complete, in order."""
        text = self._decoder.decode(data)
        if text and not self._started:
            self._started = True
            # The standard allows one byte order mark, as the first character.
            text = text.removeprefix("\ufeff")
        if text and self._after_cr:
            # The chunk before ended in CR, which has ended the line. This LF belongs to that CR.
            self._after_cr = False
            text = text.removeprefix("\n")
        if not text:
            return []
        self._after_cr = text.endswith("\r")
        *complete, rest = split_lines(text)
        events = []
        for line in complete:
            self._line.append(line)
            event = self._end_of_line("".join(self._line))
            self._line.clear()
            if event is not None:
                events.append(event)
        if rest:
            self._line.append(rest)
        return events

    def _end_of_line(self, line: str) -> ServerSentEvent | None:
        if line:
            self._block.take(line)
            if self._block.retry is not None:
                # The retry field takes effect at once, even if its block is never completed.
                self.retry = self._block.retry
            return None
        block, self._block = self._block, _Block()
        if block.id is not None:
            self.last_event_id = block.id
        return block.event()


class _Block:
    """The fields of one event while its lines arrive."""

    __slots__ = ("comments", "data", "id", "name", "retry")

    def __init__(self) -> None:
        self.data: list[str] = []
        self.comments: list[str] = []
        self.name: str | None = None
        self.id: str | None = None
        self.retry: int | None = None

    def take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self.data.append(value)
            case "event":
                self.name = value
            case "id" if "\0" not in value:
                self.id = value
            case "retry" if value.isascii() and value.isdigit():
                # More digits are out of range, and costly to convert.
                digits = value.lstrip("0")[:20] or "0"
                self.retry = min(int(digits), _MAX_RETRY)
            case "":
                self.comments.append(value)

    def event(self) -> ServerSentEvent | None:
        data = "\n".join(self.data) if self.data else None
        comments = "\n".join(self.comments) if self.comments else None
        if (data, self.name, self.id, self.retry, comments) == (None,) * 5:
            return None
        return ServerSentEvent(data, self.name, self.id, self.retry, comments)
