"""A client of event streams for services, scripts and tests: it reconnects and resumes, typed events.

It needs httpx: ``pip install "django-sse-views[client]"``. It needs no configured Django.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from .exceptions import EventTooLarge, SSEError
from .wire.events import CONTENT_TYPE, EventDecoder, ServerSentEvent

#: What turns an event's JSON into an object: a dataclass, a DRF serializer class, or a function.
Deserializer = Callable[..., Any]

#: How much of the response is kept: nothing, so many of the last events, or all.
Buffer = int | Literal["all"] | None

#: The reconnection time until the server names one, and the longest pause, in seconds.
FIRST_RETRY = 3.0
LONGEST_PAUSE = 60.0

#: How much of the body of a refusal is read.
BODY_BYTES = 1000

#: How much of the buffer a deserializer's error shows.
NOTE_CHARACTERS = 10_000


class StreamRefused(SSEError):
    """Raised when the answer is no stream, and asking again would not change it.

    ``status`` is that of the answer, ``body`` the beginning of its text.
    """

    def __init__(self, message: str, *, status: int, body: str) -> None:
        """Take the text, the status and the body."""
        super().__init__(message)
        self.status = status
        self.body = body


class StreamLost(SSEError):
    """Raised when the stream could not be opened again in ``max_reconnection_attempts`` attempts.

    ``buffer`` is what was kept of the stream by ``connect(…, buffer=…)``, else empty.
    """

    def __init__(self, message: str, *, buffer: str = "") -> None:
        """Take the error's text, and the part of the response that was kept."""
        super().__init__(message)
        self.buffer = buffer


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event of a stream, as a browser would dispatch it."""

    #: ``"message"`` for an event without a name.
    event: str
    data: str
    #: The last id that the stream has sent; empty where there was none.
    last_event_id: str
    #: What the deserializer of this event made of ``data``; ``None`` without one.
    object: Any = None

    def json(self) -> Any:
        """Return ``data`` as JSON; raise ``ValueError`` where it is none."""
        return json.loads(self.data)


class connect:  # noqa: N801 - it is used as a function
    """Read a stream: ``async for event in connect(url)``, or ``for event in connect(url)``.

    Each event comes once and in order, as far as the server can resume. When the connection is
    lost or ends, the client waits and connects again with the last id: after the server's
    ``retry`` (3 seconds without one), doubled for each attempt that brings no event, up to 60
    seconds, and varied by up to a half. The iteration ends when the server answers 204.

    ``deserialize`` maps the names of events (``None``: those without a name) to a dataclass, a DRF
    serializer class or a function; the event's ``object`` is what they make of its JSON. ``reset``
    is an event like others: forget what you keep. ``timeout`` is the number of seconds without a
    byte, heartbeats included, after which the connection counts as lost. ``max_event_bytes``
    bounds an event, and so the memory. ``max_reconnection_attempts`` is the number of attempts
    without an event after which to give up; ``None`` is never. ``last_event_id`` resumes where an
    earlier client was. Requests other than GET are not repeated unless ``reconnect=True``.
    ``client`` is an ``httpx.AsyncClient`` or ``httpx.Client`` to use; further arguments go to its
    ``stream()``, such as ``headers``, ``params``, ``json`` or ``auth``.

    ``buffer`` keeps what was read, so that an error can show it: a number keeps so many of the
    last events, and ``"all"`` the whole text, without a bound. The property ``buffer`` returns it,
    ``StreamLost.buffer`` has it, and a note of the error that a deserializer raises shows its end.

    Raises ``ValueError`` for a wrong ``buffer``, ``StreamRefused`` for an answer that is final (401, 403, 404, no event stream),
    ``StreamLost``, ``EventTooLarge``, and what a deserializer raises. 429 and 5xx count as a lost
    connection, and ``Retry-After`` is obeyed.
    """

    def __init__(
        self,
        url: str,
        *,
        method: str = "GET",
        deserialize: Mapping[str | None, Deserializer] | None = None,
        last_event_id: str = "",
        reconnect: bool | None = None,
        max_reconnection_attempts: int | None = None,
        timeout: float = 45.0,
        max_event_bytes: int = 16 * 1024 * 1024,
        buffer: Buffer = None,
        client: httpx.AsyncClient | httpx.Client | None = None,
        **request: Any,
    ) -> None:
        """Take what to read and how; nothing is sent yet."""
        self._state = _State(last_event_id, deserialize or {}, max_event_bytes, _Kept(buffer))
        self._reconnects = method.upper() == "GET" if reconnect is None else reconnect
        self._attempts = max_reconnection_attempts
        self._client = client
        self._request = {
            "timeout": httpx.Timeout(timeout),
            **request,
            "method": method,
            "url": url,
        }

    @property
    def last_event_id(self) -> str:
        """The last id that the stream has sent."""
        return self._state.last_event_id

    @property
    def buffer(self) -> str:
        """The part of the stream that ``buffer=…`` has kept, over all connections, oldest first.

        With a number, it is the last events with data, the current one included, each written anew
        as on the wire. With ``"all"``, it is the text as it was read: also comments, fields that
        no client knows, and an event that was cut off.
        """
        return self._state.kept.text()

    async def __aiter__(self) -> AsyncIterator[ReceivedEvent]:
        """Yield the events; leave by ``break``, and the connection is closed."""
        own = httpx.AsyncClient() if self._client is None else None
        client = self._client if own is None else own
        if not isinstance(client, httpx.AsyncClient):
            raise TypeError("`async for` needs an httpx.AsyncClient, and `for` an httpx.Client.")
        try:
            while True:
                pause = None
                try:
                    async with client.stream(**self._with_id()) as response:
                        if self._state.opens(response):
                            async with aclosing(response.aiter_raw()) as pieces:  # type: ignore[type-var]
                                async for piece in pieces:
                                    for event in self._state.feed(piece):
                                        yield event
                        elif response.status_code == httpx.codes.NO_CONTENT:
                            return
                        elif _is_for_now(response):
                            pause = self._state.put_off(response)
                        else:
                            body = b""
                            async for piece in response.aiter_bytes():
                                body += piece
                                if len(body) >= BODY_BYTES:
                                    break
                            raise _refusal(response, body)
                except httpx.TransportError as error:
                    self._state.error = error
                if not self._reconnects:
                    self._state.end()
                    return
                await asyncio.sleep(self._state.pause(pause, self._attempts))
        finally:
            if own is not None:
                await own.aclose()

    def __iter__(self) -> Iterator[ReceivedEvent]:
        """Yield the events; leave by ``break``, and the connection is closed."""
        own = httpx.Client() if self._client is None else None
        client = self._client if own is None else own
        if not isinstance(client, httpx.Client):
            raise TypeError("`async for` needs an httpx.AsyncClient, and `for` an httpx.Client.")
        try:
            while True:
                pause = None
                try:
                    with client.stream(**self._with_id()) as response:
                        if self._state.opens(response):
                            with closing(response.iter_raw()) as pieces:  # type: ignore[type-var]
                                for piece in pieces:
                                    yield from self._state.feed(piece)
                        elif response.status_code == httpx.codes.NO_CONTENT:
                            return
                        elif _is_for_now(response):
                            pause = self._state.put_off(response)
                        else:
                            body = b""
                            for piece in response.iter_bytes():
                                body += piece
                                if len(body) >= BODY_BYTES:
                                    break
                            raise _refusal(response, body)
                except httpx.TransportError as error:
                    self._state.error = error
                if not self._reconnects:
                    self._state.end()
                    return
                time.sleep(self._state.pause(pause, self._attempts))
        finally:
            if own is not None:
                own.close()

    def _with_id(self) -> dict[str, Any]:
        headers = httpx.Headers(self._request.get("headers"))
        # As browsers do, ids leave as UTF-8. Otherwise httpx takes the encoding of what is there.
        headers.encoding = "utf-8"
        headers.setdefault("Accept", CONTENT_TYPE)
        headers["Cache-Control"] = "no-store"
        # Bytes are read as they come, so they must not be compressed.
        headers["Accept-Encoding"] = "identity"
        if self._state.last_event_id:
            headers["Last-Event-ID"] = self._state.last_event_id
        return {**self._request, "headers": headers}


class _Kept:
    """The newest part of the response that was read."""

    def __init__(self, buffer: Buffer) -> None:
        if isinstance(buffer, int) and not isinstance(buffer, bool) and buffer > 0:
            count = buffer
        elif buffer is None or buffer == "all":
            count = 0
        else:
            raise ValueError(
                f'buffer must be None, a number of events from 1 on, or "all", got {buffer!r}.'
            )
        self._last = deque[ServerSentEvent](maxlen=count)
        self._all = bytearray() if buffer == "all" else None

    def take_bytes(self, piece: bytes) -> None:
        if self._all is not None:
            self._all += piece

    def take_event(self, event: ServerSentEvent) -> None:
        self._last.append(event)

    def text(self) -> str:
        kept = b"".join(it.encode() for it in self._last) if self._all is None else self._all
        return kept.decode(errors="replace")


class _State:
    """The state of a stream that lasts from connection to connection."""

    def __init__(
        self,
        last_event_id: str,
        deserialize: Mapping[str | None, Deserializer],
        limit: int,
        kept: _Kept,
    ) -> None:
        self.last_event_id = last_event_id
        self.kept = kept
        self.error: Exception | None = None
        self._deserialize = deserialize
        self._limit = limit
        self._retry = FIRST_RETRY
        self._failures = 0
        self._decoder = EventDecoder()
        self._unfinished = 0

    def opens(self, response: httpx.Response) -> bool:
        """Return whether a stream begins."""
        kind: str = response.headers.get("Content-Type", "")
        if (
            response.status_code != httpx.codes.OK
            or kind.partition(";")[0].strip().lower() != CONTENT_TYPE
        ):
            return False
        self._decoder, self._unfinished = EventDecoder(), 0
        return True

    def put_off(self, response: httpx.Response) -> float | None:
        """Note an answer that will change; return the seconds that it asks to wait."""
        self.error = httpx.HTTPStatusError(
            f"{response.url} answers {response.status_code}.",
            request=response.request,
            response=response,
        )
        value: str = response.headers.get("Retry-After", "")
        return min(float(value), 3600.0) if value.isascii() and value.isdigit() else None

    def feed(self, piece: bytes) -> Iterator[ReceivedEvent]:
        """Take bytes; yield the events that they complete."""
        self.kept.take_bytes(piece)
        blocks = self._decoder.feed(piece)
        # A block that is complete has ended somewhere in this piece.
        self._unfinished = len(piece) if blocks else self._unfinished + len(piece)
        if self._unfinished > self._limit + len(piece):
            raise EventTooLarge(
                f"An event has more than max_event_bytes={self._limit:,} bytes.",
                size=self._unfinished,
            )
        if self._decoder.retry is not None:
            self._retry = self._decoder.retry / 1000
        for block in blocks:
            if block.id is not None:
                self.last_event_id = block.id
            if block.data is not None:
                self._failures, self.error = 0, None
                self.kept.take_event(block)
                yield self._received(block)

    def end(self) -> None:
        """End a stream that is not asked for again; raise ``StreamLost`` if it broke off."""
        if self.error is not None:
            text = f"The stream broke off: {self.error}"
            raise StreamLost(text, buffer=self.kept.text()) from self.error

    def pause(self, least: float | None, attempts: int | None) -> float:
        """Return the seconds to wait before the next attempt; raise ``StreamLost`` after the last."""
        self._failures += 1
        if attempts is not None and self._failures > attempts:
            raise StreamLost(
                f"The stream was lost, and {attempts} attempts brought no event: "
                f"{self.error or 'it ended each time'}",
                buffer=self.kept.text(),
            ) from self.error
        doubled = min(
            self._retry * 2 ** min(self._failures - 1, 10), max(self._retry, LONGEST_PAUSE)
        )
        varied: float = doubled * random.uniform(1, 1.5)  # noqa: S311 - spreads load
        return max(varied, least or 0)

    def _received(self, block: ServerSentEvent) -> ReceivedEvent:
        name = block.event or None
        deserialize = self._deserialize.get(None if name == "message" else name)
        text = str(block.data)
        made = None
        if deserialize is not None:
            try:
                made = _made(deserialize, json.loads(text))
            except Exception as error:
                if kept := self.kept.text()[-NOTE_CHARACTERS:]:
                    error.add_note(f"What was read of the stream, up to this event:\n{kept}")
                raise
        return ReceivedEvent(name or "message", text, self.last_event_id, made)


def _made(deserialize: Deserializer, data: Any) -> Any:
    if hasattr(deserialize, "run_validation"):  # a serializer class of DRF's
        serializer = deserialize(data=data)
        serializer.is_valid(raise_exception=True)
        return serializer.validated_data
    if dataclasses.is_dataclass(deserialize):
        return deserialize(**data)
    return deserialize(data)


def _is_for_now(response: httpx.Response) -> bool:
    return response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.status_code >= 500


def _refusal(response: httpx.Response, body: bytes) -> StreamRefused:
    status, kind = response.status_code, response.headers.get("Content-Type", "no Content-Type")
    text = body[:BODY_BYTES].decode(errors="replace")
    return StreamRefused(
        f"{response.url} answers {status} with {kind}, and no event stream: {text[:200]}",
        status=status,
        body=text,
    )
