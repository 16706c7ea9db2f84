"""The response of a stream, on its way from the handshake through the middleware.

Loaded with ``django_sse.asgi``, and so before Django is set up: nothing here needs apps or DRF.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, StreamingHttpResponse

from .events import CONTENT_TYPE
from .flow_control import Send
from .roster import roster

logger = logging.getLogger("django_sse")


class Connection(Protocol):
    """What the response needs of a view: to be run on a connection, or to be let go."""

    #: The server's own ``send``, where what is sent takes another way to it.
    wire: Send | None

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None: ...

    async def abandon(self, reason: str) -> None: ...


class EventStreamResponse(StreamingHttpResponse):
    """The response of a stream on its way through the middleware.

    ``get_asgi_application()`` takes the connection over where it arrives there untouched. Anywhere
    else its content runs the stream, at the price of a thread for as long as it lives.
    """

    def __init__(self, view: Connection, request: HttpRequest) -> None:
        self._view: Connection | None = view
        self._bridge: _Bridge | None = None
        #: The server's own ``send``, where a handler knows it.
        self.wire: Send | None = None
        self._loop = asyncio.get_running_loop()
        self._content = self._run(getattr(request, "scope", {}))
        super().__init__(self._content, content_type=CONTENT_TYPE)
        # GZipMiddleware passes by what is encoded. Compressed, each chunk would be a gzip member
        # of its own, of which browsers show the first only. The mark is not sent.
        self["Content-Encoding"] = "identity"
        # Our own handler asks for it. Nobody else may keep it by way of the request: it would never
        # be let go where its client has left (the view holds the request).
        request.__dict__.get("_event_streams", []).append(self)

    @property
    def untouched(self) -> bool:
        """Whether the content is still the stream's own: nobody wrapped or replaced it."""
        return self._iterator is self._content and self._view is not None

    def take(self) -> Any:
        """Hand over the view; the response is empty and harmless from then on."""
        view, self._view = self._view, None
        return view

    def take_over(self) -> Any:
        """Hand over the view, and let go of what would run it here."""
        # The content holds the response, and the response the content: without this, both would
        # live until the next garbage collection.
        self._content = self._iterator = None  # type: ignore[assignment]
        return self.take()

    def items(self) -> Any:
        """Return the headers to be sent: without the mark that kept the content from being encoded."""
        return [item for item in super().items() if item != ("Content-Encoding", "identity")]

    async def abandon(self, reason: str) -> None:
        """End a stream whose response nobody will send."""
        view = self.take()
        if view is not None:
            await view.abandon(reason)

    def close(self) -> None:
        """End the stream, where it was not taken over; as Django calls it, from any thread."""
        bridge, view = self._bridge, self.take()
        if view is not None:
            # At once: the event loop may be at its end, in a test, and the place would stay taken.
            roster.leave(view)
        if bridge is not None or view is not None:
            try:
                self._loop.call_soon_threadsafe(self._close, bridge, view)
            except RuntimeError:  # The loop is closed, and everything with it.
                logger.debug("A stream was closed after its event loop.")
        super().close()

    def __del__(self) -> None:
        # Django drops a response without closing it where the client left at the wrong moment.
        if getattr(self, "_view", None) is not None:
            self.close()

    def _close(self, bridge: _Bridge | None, view: Connection | None) -> None:
        if bridge is not None:
            bridge.leave()
        elif view is not None:
            _keep(self._loop.create_task(view.abandon("client")))

    async def _run(self, scope: Any) -> AsyncIterator[bytes]:
        view = self.take()
        if view is None:
            return
        # __aiter__ of a response is called after its headers went out, or not at all (tests).
        _warn_once(getattr(self, "_handler_class", None))
        bridge = self._bridge = _Bridge()
        view.wire = self.wire
        task = asyncio.ensure_future(view(scope, bridge.receive, bridge.send))
        task.add_done_callback(bridge.end)
        try:
            while (chunk := await bridge.chunk()) is not None:
                yield chunk
        finally:
            bridge.leave()
            await asyncio.wait([task])
            self._bridge = None
        task.result()


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
