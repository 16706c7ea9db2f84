"""The response of a stream, on its way from the handshake through the middleware.

Loaded with ``django_sse.asgi``, and so before Django is set up: nothing here needs apps or DRF.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any, Protocol

from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase

from django_sse.connection.roster import roster
from django_sse.servers.base import Send
from django_sse.wire.events import CONTENT_TYPE

logger = logging.getLogger("django_sse")


class Connection(Protocol):
    """What the response needs of a view: to be run on a connection, or to be let go."""

    #: The server's own ``send``, where what is sent takes another way to it.
    wire: Send | None

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None: ...

    async def abandon(self, reason: str) -> None: ...


class Exchange(Protocol):
    """What a handler keeps of the request that it serves."""

    #: The streams whose responses were made.
    streams: list[PendingStream]


#: The exchange of the request that is served, set by our handler. The context reaches all tasks and
#: threads of the request, whatever copy or wrapper of it a middleware or an agent passes on.
current_exchange: ContextVar[Exchange | None] = ContextVar("django_sse.exchange", default=None)


class PendingStream:
    """A stream from its handshake until it is run or let go; its response carries it.

    The state is here, and not in the response, so that a copy or a wrapper of the response stands
    for the same stream. Only one of them can take the view.
    """

    def __init__(self, view: Connection, scope: Any) -> None:
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
        """Whether the view was handed over, to be run or to be ended."""
        return self._view is None

    def content(self) -> AsyncIterator[bytes]:
        """Return what runs the stream where the connection is not taken over."""
        content = self._run()
        # Held by the response alone. A circle would keep a dropped stream until a collection.
        self._content = weakref.ref(content)
        return content

    def is_content(self, content: Any) -> bool:
        """Return whether a response's content is still this stream's own."""
        return content is not None and self._content is not None and self._content() is content

    def take(self) -> Any:
        """Hand over the view, once; ``None`` afterwards."""
        view, self._view = self._view, None
        return view

    async def abandon(self, reason: str) -> None:
        """End a stream that nothing has taken."""
        view = self.take()
        if view is not None:
            await view.abandon(reason)

    def close(self) -> None:
        """End the stream, unless it was taken over; safe from any thread."""
        bridge, view = self._bridge, self.take()
        if view is not None:
            # At once: the event loop may be at its end, in a test, and the place would stay taken.
            roster.leave(view)
        if bridge is not None or view is not None:
            try:
                self._loop.call_soon_threadsafe(self._close, bridge, view)
            except RuntimeError:  # The loop is closed, and everything with it.
                logger.debug("A stream was closed after its event loop.")

    def __del__(self) -> None:
        # Django drops a response without closing it where the client left at the wrong moment.
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
        # This begins after the headers went out, or not at all (tests).
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
    """A response that compressing middleware leaves alone, by a header that is not sent.

    ``GZipMiddleware`` passes by a response that has a ``Content-Encoding``. Compressed, each chunk
    of a stream would be a gzip member of its own, of which browsers show the first only.
    """

    def leave_uncompressed(self) -> None:
        """Set the header that keeps the content from being encoded."""
        self["Content-Encoding"] = "identity"

    def items(self) -> Any:
        """Return the headers to be sent."""
        return [item for item in super().items() if item != ("Content-Encoding", "identity")]


class EventStreamResponse(Uncompressed, StreamingHttpResponse):
    """The response of a stream on its way through the middleware.

    ``get_asgi_application()`` takes the connection over where it arrives there untouched. Anywhere
    else its content runs the stream, at the price of a thread for as long as it lives.
    """

    def __init__(self, view: Connection, request: HttpRequest) -> None:
        stream = PendingStream(view, getattr(request, "scope", {}))
        #: The stream that is run with this response.
        self.event_stream = stream
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
        """End the stream, unless it was taken over; as Django calls it, from any thread."""
        self.event_stream.close()
        super().close()


def pending_stream(response: Any) -> PendingStream | None:
    """Return the stream that a response carries, also where the response is wrapped or copied."""
    found = getattr(response, "event_stream", None)
    return found if isinstance(found, PendingStream) else None


def is_untouched(response: Any, stream: PendingStream) -> bool:
    """Return whether the response's content is the stream's own, and waits to be run."""
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
            # The last chunk was not fetched yet: the end is told after it.
            _keep(asyncio.ensure_future(self._chunks.put(None)))
        else:
            self._chunks.put_nowait(None)

    def leave(self) -> None:
        self._gone.set()
        while not self._chunks.empty():
            # Whoever waits to put a chunk must not wait for ever.
            self._chunks.get_nowait()


_kept: set[asyncio.Future[Any]] = set()


def _keep(task: asyncio.Future[Any]) -> None:
    """Hold a task that nobody waits for, until it is done."""
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
