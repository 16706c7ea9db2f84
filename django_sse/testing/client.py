"""The client of a stream in a test, endless ones too, without a socket or a server."""

from __future__ import annotations

import asyncio
import json as json_module
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from django.utils.datastructures import CaseInsensitiveMapping

from django_sse.connection import request_threads
from django_sse.connection.roster import roster
from django_sse.connection.threads import pool
from django_sse.monitoring.reports import ON_FAILURE
from django_sse.topics.hub import close_idle_hub
from django_sse.wire.events import EventDecoder, ServerSentEvent

#: Seconds for which a test waits by default.
TIMEOUT = 5.0

# How many messages the application may send that the test has not read; then its send() waits, as
# on a server.
_AHEAD = 16


class StreamEnded(AssertionError):
    """Raised when a test waits for an event of a response that has ended."""


#: Seconds for which connect() waits until the stream's topics are subscribed.
SUBSCRIBED = 1.0
#: The key in a scope by which a client finds its stream.
MARK = "django_sse.testing"


class NothingReceived(AssertionError):
    """Raised when a test waits for an event, and none comes in time."""


class StreamClient:
    """The client's side of one connection, as ``connect()`` gives it.

    ``status_code``, ``headers`` (by case-insensitive name) and ``cookies`` (the ``Set-Cookie``
    values) are those of the response. ``received`` are all bytes of its body that the test has
    read so far, ``blocks`` all events decoded from them, comments and ``retry`` included.
    """

    def __init__(self, application: Any, scope: dict[str, Any], body: bytes) -> None:
        """Take the application, the request's scope and its body; ``start()`` sends it."""
        self._application = application
        self._scope = scope
        self._body = body
        self._messages: deque[Any] = deque()
        # Notified when a message comes or is taken, when either side leaves.
        self._change = asyncio.Condition()
        self._gone = False
        self._asked = False
        self._task: asyncio.Task[None] | None = None
        self._decoder = EventDecoder()
        self._waiting: deque[ServerSentEvent] = deque()
        self._ended = False
        self.status_code = 0
        self.headers: Mapping[str, str] = {}
        self.cookies: list[str] = []
        self.received = b""
        self.blocks: list[ServerSentEvent] = []
        self._failures: list[Exception] = []
        self._failure_is_known = False
        scope[ON_FAILURE] = self._failures.append

    @property
    def last_event_id(self) -> str:
        """The ``Last-Event-ID`` that a browser would send now."""
        return self._decoder.last_event_id

    @property
    def retry(self) -> int | None:
        """The milliseconds that a browser would wait before it reconnects; ``None`` if not sent."""
        return self._decoder.retry

    @property
    def failure(self) -> Exception | None:
        """The exception of ``stream()``, ``disconnect()`` or a handler, or ``None``.

        If the test does not read this property, ``connect()`` raises the exception at the end of
        its block.
        """
        if not self._failures:
            return None
        self._failure_is_known = True
        return self._failures[0]

    def unknown_failure(self) -> Exception | None:
        """Return the stream's exception if the test has not seen it yet."""
        return self._failures[0] if self._failures and not self._failure_is_known else None

    async def receive(self, timeout: float = TIMEOUT) -> ServerSentEvent:
        """Return the next event that a browser would dispatch: one with ``data``.

        Raises ``NothingReceived``, an ``AssertionError``, when none comes within ``timeout``
        seconds, and ``StreamEnded``, another, when the response ended before.
        """
        return await self._next(timeout, dispatched=True)

    async def receive_block(self, timeout: float = TIMEOUT) -> ServerSentEvent:
        """Return the next block of any kind: also a comment, a ``retry`` or an ``id`` alone."""
        return await self._next(timeout, dispatched=False)

    async def receive_nothing(self, timeout: float = 0.1) -> None:
        """Assert that no event with ``data`` comes within ``timeout`` seconds; the stream may end.

        Raises ``StreamEnded`` where the stream ends because it failed.
        """
        try:
            event = await self._next(timeout, dispatched=True)
        except NothingReceived:
            return
        except StreamEnded:
            if self._failures:
                raise
            return
        raise AssertionError(f"Nothing should have come within {timeout} s, but {event!r} did.")

    async def receive_end(self, timeout: float = TIMEOUT) -> None:
        """Assert that the response ends within ``timeout`` seconds, with no further event.

        Raises ``StreamEnded`` where the stream ends because it failed.
        """
        try:
            event = await self._next(timeout, dispatched=True)
        except StreamEnded:
            if self._failures:
                raise
            return
        except NothingReceived:
            raise AssertionError(f"The stream did not end within {timeout} s.") from None
        raise AssertionError(f"The stream should have ended, but {event!r} came.")

    async def read(self, timeout: float = TIMEOUT) -> bytes:
        """Return the whole body of a response that ends within ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not self._ended:
                    await self._fetch()
        except TimeoutError:
            raise AssertionError(
                f"The response did not end within {timeout} s. {self._last_bytes()}"
            ) from None
        return self.received

    async def json(self) -> Any:
        """Return the decoded JSON body of an ordinary response, for example of a refusal."""
        return json_module.loads(await self.read())

    async def disconnect(self, timeout: float = TIMEOUT) -> None:
        """Disconnect like a client that closes its connection, and wait for the application's end.

        Raises the application's exception, and ``AssertionError`` when it does not end within
        ``timeout`` seconds.
        """
        async with self._change:
            self._gone = True
            self._change.notify_all()
        task = self._task
        assert task is not None
        _, pending = await asyncio.wait([task], timeout=timeout)
        if pending:
            await _stop(task)
        await pool.settle()
        await request_threads.settle()
        await close_idle_hub()
        if pending:
            raise AssertionError(
                f"The application had not ended {timeout} s after the client left."
            )
        task.result()

    async def start(self, timeout: float = TIMEOUT) -> None:
        """Send the request and wait for the response's headers."""
        self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(timeout):
                message = await self._take()
        except TimeoutError:
            await _stop(self._task)
            raise AssertionError(f"No response began within {timeout} s.") from None
        if message is None:
            await self._task
            raise AssertionError("The application ended without a response.")
        self.status_code = message["status"]
        pairs = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in message["headers"]]
        self.cookies = [value for name, value in pairs if name.lower() == "set-cookie"]
        self.headers = CaseInsensitiveMapping(dict(pairs))
        # Wait for the topics, so that events which the test publishes from here on arrive. While
        # the broker is away, do not wait for long.
        with suppress(TimeoutError):
            async with asyncio.timeout(min(timeout, SUBSCRIBED)):
                while self._subscribing():  # noqa: ASYNC110 - the view knows nothing of tests
                    await asyncio.sleep(0)

    def _subscribing(self) -> bool:
        """Return whether the stream has topics, and is not subscribed to them yet."""
        return any(
            stream.followed_topics and stream.is_open and not stream.subscribed
            for stream in roster.streams()
            if getattr(stream, "scope", {}).get(MARK) is self
        )

    async def _run(self) -> None:
        try:
            await self._application(self._scope, self._to_application, self._from_application)
        finally:
            async with self._change:
                self._messages.append(None)
                self._change.notify_all()

    async def _to_application(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        async with self._change:
            await self._change.wait_for(lambda: self._gone)
        return {"type": "http.disconnect"}

    async def _from_application(self, message: Any) -> None:
        async with self._change:
            await self._change.wait_for(lambda: self._gone or len(self._messages) < _AHEAD)
            # A server drops messages to a client that has left, without an error.
            if not self._gone:
                self._messages.append(message)
                self._change.notify_all()

    async def _take(self) -> Any:
        async with self._change:
            await self._change.wait_for(lambda: self._messages)
            self._change.notify_all()
            return self._messages.popleft()

    async def _next(self, timeout: float, *, dispatched: bool) -> ServerSentEvent:
        try:
            async with asyncio.timeout(timeout):
                while True:
                    while self._waiting:
                        event = self._waiting.popleft()
                        if event.data is not None or not dispatched:
                            return event
                    if self._ended:
                        raise self._end()
                    await self._fetch()
        except TimeoutError:
            raise NothingReceived(
                f"No event came within {timeout} s. {self._last_bytes()}"
            ) from None

    def _end(self) -> StreamEnded:
        text = f"The response (status {self.status_code}) has ended. {self._last_bytes()}"
        if (failure := self.failure) is None:
            return StreamEnded(text)
        ended = StreamEnded(f"The stream has failed: {failure!r}. {text}")
        ended.__cause__ = failure
        return ended

    async def _fetch(self) -> None:
        message = await self._take()
        if message is None:
            self._ended = True
            assert self._task is not None
            # If the application failed before the end of the response, raise its exception in the
            # test.
            await self._task
            return
        body = message.get("body", b"")
        self.received += body
        events = self._decoder.feed(body)
        self.blocks += events
        self._waiting += events
        self._ended = not message.get("more_body", False)

    def _last_bytes(self) -> str:
        return f"The last bytes were {self.received[-200:]!r}."


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
