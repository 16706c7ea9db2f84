"""The response of a stream, on its way from the handshake through the middleware.

``django_sse.asgi`` loads this module before Django is set up, so nothing here needs apps or DRF.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Protocol

from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase

from django_sse.connection.request_signals import tell_end
from django_sse.connection.roster import roster
from django_sse.servers.base import Send
from django_sse.wire.events import CONTENT_TYPE

from .early import Admission

logger = logging.getLogger("django_sse")


class Connection(Protocol):
    """The methods of a view that the response calls: run on a connection, or be abandoned."""

    #: The server's own ``send``, where the bytes take another way to the server.
    wire: Send | None

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Run the stream on an ASGI connection."""

    async def abandon(self, reason: str) -> None:
        """End a stream that never began."""


class Exchange(Protocol):
    """The state that a handler keeps for the request that it serves."""

    #: The streams of the responses that the request's view has made.
    streams: list[PendingStream]
    #: Whether more clients come than can be served.
    overrun: bool
    #: Who has heard orders to end streams since before the middleware, if somebody has.
    heard: Any

    def take_admission(self, request: Any) -> Admission | None:
        """Return what the view's policies have said to a request already, once."""

    def end_turn(self) -> None:
        """Let the next handshake begin."""


#: The exchange of the request that is served; our handler sets it. A context variable reaches all
#: tasks and threads of the request, also where a middleware or a monitoring agent passes on a copy
#: or a wrapper of the request.
current_exchange: ContextVar[Exchange | None] = ContextVar("django_sse.exchange", default=None)


class PendingStream:
    """A stream from its handshake until it runs or is abandoned; its response carries it.

    The state is here and not in the response, so that a copy or a wrapper of the response stands
    for the same stream. Only one of them can take the view.
    """

    def __init__(self, view: Connection, scope: Any) -> None:
        """Hold a view whose handshake is over, until it is taken."""
        self._view: Connection | None = view
        self._bridge: _Bridge | None = None
        self._loop = asyncio.get_running_loop()
        self._content: weakref.ref[AsyncIterator[bytes]] | None = None
        self._scope = scope
        #: The server's own ``send``, where a handler knows it.
        self.wire: Send | None = None
        #: The handler that sends the response; ``None`` for a test client.
        self.handler_class: type | None = None

    @property
    def taken(self) -> bool:
        """Whether the view was taken, to run or to be ended."""
        return self._view is None

    def content(self) -> AsyncIterator[bytes]:
        """Return the iterator that runs the stream where the connection is not taken over."""
        content = self._run()
        # Only the response holds it. A reference circle would keep a dropped stream alive until the
        # next garbage collection.
        self._content = weakref.ref(content)
        return content

    def is_content(self, content: Any) -> bool:
        """Return whether a response's content is still this stream's own."""
        return content is not None and self._content is not None and self._content() is content

    def take(self) -> Any:
        """Return the view the first time, and ``None`` afterwards."""
        view, self._view = self._view, None
        return view

    async def abandon(self, reason: str) -> None:
        """End the stream, unless its view was taken."""
        view = self.take()
        if view is not None:
            await view.abandon(reason)

    def close(self) -> None:
        """End the stream, unless it was taken over; safe from any thread."""
        bridge, view = self._bridge, self.take()
        if view is not None:
            # Give the place back now. In a test, the event loop may not run any more.
            roster.leave(view)
        if bridge is not None or view is not None:
            try:
                self._loop.call_soon_threadsafe(self._close, bridge, view)
            except RuntimeError:  # The loop is closed, and everything with it.
                logger.debug("A stream was closed after its event loop.")

    def __del__(self) -> None:
        """End a stream whose response was dropped."""
        # If the client leaves at the wrong moment, Django drops the response without closing it.
        if self._view is not None:
            self.close()

    def _close(self, bridge: _Bridge | None, view: Connection | None) -> None:
        if bridge is not None:
            bridge.leave()
        elif view is not None:
            _keep(self._loop.create_task(view.abandon("client")))

    async def _run(self) -> AsyncIterator[bytes]:
        view = self.take()
        if view is None:
            return
        # This runs after the headers were sent, or never (in tests).
        _warn_once(self.handler_class)
        bridge = self._bridge = _Bridge()
        view.wire = self.wire
        task = asyncio.ensure_future(view(self._scope, bridge.receive, bridge.send))
        task.add_done_callback(bridge.end)
        try:
            while (chunk := await bridge.chunk()) is not None:
                yield chunk
        finally:
            bridge.leave()
            await asyncio.wait([task])
            self._bridge = None
        task.result()


class Uncompressed(HttpResponseBase):
    """A response that compressing middleware leaves alone, because of a header that is not sent.

    ``GZipMiddleware`` skips a response with a ``Content-Encoding``. It would make each chunk of a
    stream a gzip member of its own, and browsers show only the first member.
    """

    def leave_uncompressed(self) -> None:
        """Set the header that keeps the content from being encoded."""
        self["Content-Encoding"] = "identity"

    def items(self) -> Any:
        """Return the headers to be sent."""
        return [item for item in super().items() if item != ("Content-Encoding", "identity")]


class EventStreamResponse(Uncompressed, StreamingHttpResponse):
    """The response of a stream on its way through the middleware.

    ``get_asgi_application()`` takes the connection over if the response arrives there untouched.
    Anywhere else, the response's content runs the stream, and needs a thread for as long as the
    stream lives.
    """

    def __init__(self, view: Connection, request: HttpRequest) -> None:
        """Make the response of a view whose handshake is over."""
        stream = PendingStream(view, getattr(request, "scope", {}))
        #: The stream of this response.
        self.event_stream = stream
        #: Whether what is due in the request's thread at its end was done there.
        self.is_over_in_thread = False
        super().__init__(stream.content(), content_type=CONTENT_TYPE)
        self.leave_uncompressed()
        exchange = current_exchange.get()
        if exchange is not None:
            exchange.streams.append(stream)

    @property
    def _handler_class(self) -> type | None:
        # Django's handlers set it on the response that they send.
        return self.event_stream.handler_class

    @_handler_class.setter
    def _handler_class(self, handler_class: type | None) -> None:
        self.event_stream.handler_class = handler_class

    def close(self) -> None:
        """End the stream, unless it was taken over; Django calls this, from any thread."""
        self.event_stream.close()
        if not self.is_over_in_thread:
            super().close()
            return
        # The same as in Django, whose own method would call the thread's receivers here.
        closers: list[Any] = self._resource_closers  # type: ignore[attr-defined]
        for closer in closers:
            with suppress(Exception):
                closer()
        closers.clear()
        self.closed = True
        tell_end(self._handler_class)


def pending_stream(response: Any) -> PendingStream | None:
    """Return the stream of a response, also where the response was wrapped or copied; else ``None``."""
    found = getattr(response, "event_stream", None)
    return found if isinstance(found, PendingStream) else None


def is_untouched(response: Any, stream: PendingStream) -> bool:
    """Return whether the response still has the stream's own content, and the stream has not begun."""
    return stream.is_content(getattr(response, "_iterator", None)) and not stream.taken


class _Bridge:
    """An ASGI connection on one side, an iterator on the other: one chunk at a time."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue(1)

    async def receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        body = message.get("body")
        if body and not self._gone.is_set():
            await self._chunks.put(body)

    async def chunk(self) -> bytes | None:
        return await self._chunks.get()

    def end(self, task: asyncio.Future[None]) -> None:
        if self._chunks.full():
            # The last chunk was not fetched yet. Put the end after it.
            _keep(asyncio.ensure_future(self._chunks.put(None)))
        else:
            self._chunks.put_nowait(None)

    def leave(self) -> None:
        self._gone.set()
        while not self._chunks.empty():
            # Otherwise a put() that waits for room would wait for ever.
            self._chunks.get_nowait()


_kept: set[asyncio.Future[Any]] = set()


def _keep(task: asyncio.Future[Any]) -> None:
    """Keep a reference to a task until it is done, so that it is not collected while it runs."""
    _kept.add(task)
    task.add_done_callback(_kept.discard)


_warned: set[str] = set()


def _warn_once(handler: type | None) -> None:
    if handler is None or not issubclass(handler, ASGIHandler):
        return  # A test client, or no handler at all.
    if handler is ASGIHandler:
        text = (
            "A stream runs under Django's own ASGI handler, where it holds a thread and its "
            "database connection for as long as it lives, and Daphne any amount of memory for a "
            "client that does not read. Use django_sse.asgi."
            "get_asgi_application() in asgi.py, in the place of django.core.asgi's."
        )
    else:
        text = (
            "A middleware wraps the content of a stream's response, so that the stream holds a "
            "thread and its database connection for as long as it lives. Let it pass by "
            f"responses of the type {CONTENT_TYPE}."
        )
    if text not in _warned:
        _warned.add(text)
        logger.warning(text)
