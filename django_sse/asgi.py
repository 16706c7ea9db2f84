"""Django's ASGI handler, which lets go of a request once its stream begins."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any, cast

import django
from asgiref.sync import sync_to_async
from django.core.handlers import asgi
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .connection.shutdown import shutdown
from .connection.tasks import GOODBYE_SECONDS, forgive_cancellation, settle
from .handshake.receiving import PendingReceive
from .handshake.response import PendingStream, current_exchange, is_untouched, pending_stream
from .servers import bare, keeps_cancelled, server_for
from .servers.base import Receive, Send


def get_asgi_application() -> ASGIHandler:
    """Set Django up and return the ASGI application, in the place of ``django.core.asgi``'s.

    It is Django's handler with one difference: when the final response is an untouched
    ``EventStreamResponse``, the request is finished first (``request_finished`` is sent, its
    thread, database connection and body are released), and then the stream runs on the bare ASGI
    connection. Goes inside a ``ProtocolTypeRouter``, under ``"http"``, as Django's does.
    """
    django.setup(set_prefix=False)
    return ASGIHandler()


class ASGIHandler(asgi.ASGIHandler):
    """See ``get_asgi_application()``."""

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request, and the stream that it may become; or the server's lifespan."""
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
            return
        exchange = _Exchange(receive, send, asyncio.current_task())
        current_exchange.set(exchange)
        try:
            await super().__call__(scope, exchange.receive, exchange.send)
            view = await exchange.end()
        except (Exception, asyncio.CancelledError) as error:
            # In a task, since a server may cancel again meanwhile.
            await settle(asyncio.ensure_future(exchange.stop()))
            if isinstance(error, asyncio.CancelledError) and _ends_early(scope, send):
                # When Daphne ends, it waits for all applications, but only until the first one
                # ends as cancelled: streams could not clean up any more.
                forgive_cancellation()
                return
            raise
        finally:
            current_exchange.set(None)
        pending = exchange.pending
        if exchange.gone or pending is not None:
            receive = exchange.receive
        # From here on, nothing but the view itself is held for the life of the stream.
        del exchange
        try:
            if view is not None:
                await view(scope, receive, send)
        except BaseException:
            # Of a stream that has begun, nothing is left to be ended.
            await view.abandon("error")
            raise
        finally:
            # This frame may outlive the stream, in a traceback of what Django's handler cancelled.
            del view
            if pending is not None:
                await pending.aclose()

    async def lifespan(self, receive: Receive, send: Send) -> None:
        """Answer a server's lifespan protocol, which Django refuses; its end is the streams' too.

        Source: ASGI specification, "Lifespan Protocol".
        """
        while (await receive())["type"] == "lifespan.startup":
            shutdown.start()
            await send({"type": "lifespan.startup.complete"})
        shutdown.begin()
        await send({"type": "lifespan.shutdown.complete"})

    async def run_get_response(self, request: HttpRequest) -> HttpResponseBase:
        """Run middleware and view; see to it that a stream whose response got lost is ended."""
        exchange = cast("_Exchange | None", current_exchange.get())
        if exchange is None:
            return await super().run_get_response(request)
        exchange.keep_task()
        response: Any = None
        try:
            response = await super().run_get_response(request)
        finally:
            carried = pending_stream(response)
            for stream in exchange.streams:
                if stream is carried:
                    continue
                if getattr(response, "streaming", False):
                    # A middleware answers with another stream, which may have ours inside.
                    exchange.inside = stream
                else:
                    await stream.abandon("client" if response is None else "closed")
        return cast("HttpResponseBase", response)

    async def send_response(self, response: HttpResponseBase, send: Any) -> None:
        """Send an ordinary response; keep a stream's for after the request.

        ``send`` may be a wrapper of the exchange's own, which then sees a response without a body.
        """
        exchange = cast("_Exchange | None", current_exchange.get())
        stream = pending_stream(response)
        if exchange is None:
            await super().send_response(response, send)
            return
        if stream is not None and is_untouched(response, stream):
            await self._take_over(exchange, stream, response, send)
            return
        stream = stream or exchange.inside
        if stream is not None:
            # Its content is sent by Django's handler, piece by piece; flow control is the server's.
            stream.wire, stream.handler_class = exchange.wire, type(self)
        try:
            await super().send_response(response, send)
        finally:
            if exchange.inside is not None:
                await exchange.inside.abandon("closed")

    async def _take_over(
        self, exchange: _Exchange, stream: PendingStream, response: Any, send: Any
    ) -> None:
        head: Any = _HeadersOnly(response)
        exchange.keeping = True
        await super().send_response(head, send)
        if exchange.start is None:
            # A wrapper of send() keeps messages to itself.
            await super().send_response(head, exchange.send)
        view = stream.take()
        try:
            # The middleware's variables are there in this task only.
            context = contextvars.copy_context()
            context.run(current_exchange.set, None)
            view.adopt(context, exchange.start)
            exchange.view = view
        except BaseException:
            await view.abandon("error")
            raise
        if exchange.over:
            # Django's handler leaves this task running when it is cancelled itself.
            await exchange.abandon("shutdown")


def _ends_early(scope: Any, send: Send) -> bool:
    """Return whether the server's end leaves no time to clean up once an application was cancelled."""
    return server_for(bare(send), scope).stops_waiting_at_cancelled


class _HeadersOnly:
    """An ``EventStreamResponse`` as far as ``send_response()`` needs it to write its headers."""

    streaming = False
    content = b""

    def __init__(self, response: Any) -> None:
        self.status_code = response.status_code
        self.items = response.items
        self.cookies = response.cookies


class _Exchange:
    """One request's ``receive`` and ``send``, and what is carried over to its stream."""

    __slots__ = (
        "_own_task",
        "_receive",
        "_send",
        "_tasks",
        "gone",
        "inside",
        "keeping",
        "over",
        "pending",
        "start",
        "streams",
        "view",
    )

    def __init__(self, receive: Receive, send: Send, own_task: asyncio.Task[Any] | None) -> None:
        #: Waits for the server where a wait for its ``receive`` must not be cancelled.
        self.pending = None if keeps_cancelled(receive) else PendingReceive(receive)
        self._receive = self.pending or receive
        self._send = send
        self._own_task = own_task
        self._tasks: set[Any] = set()
        self.gone = False
        self.over = False
        #: The streams whose responses were made.
        self.streams: list[PendingStream] = []
        #: One of them that another response has inside.
        self.inside: PendingStream | None = None
        #: The view whose stream takes the connection over.
        self.view: Any = None
        #: Whether messages are kept for the stream, and the start of its response.
        self.keeping = False
        self.start: Any = None

    async def send(self, message: Any) -> None:
        """Send to the server; of a stream's response, keep the start and drop the empty body."""
        if not self.keeping:
            await self._send(message)
        elif message["type"] == "http.response.start":
            self.start = message

    @property
    def wire(self) -> Send:
        """The server's own ``send``."""
        return bare(self._send)

    async def receive(self) -> Any:
        """Wait for the server's next message."""
        # Django waits for a disconnect beside the view, and may consume it at the very moment of
        # the take-over. It is remembered here, and answered for ever.
        if self.gone:
            return {"type": "http.disconnect"}
        self.keep_task()
        message = await self._receive()
        self.gone = message["type"] == "http.disconnect"
        return message

    def keep_task(self) -> None:
        """Remember the current task, unless it is the handler's own, as one that Django waits for."""
        task = asyncio.current_task()
        if task is not self._own_task:
            self._tasks.add(task)

    async def end(self) -> Any:
        """Return the view that takes the connection over; end the streams that do not begin."""
        while self.streams:
            await self.streams.pop().abandon("client")
        # For the life of the stream, nothing is held that served its request.
        self._tasks.clear()
        view, self.view = self.view, None
        return view

    async def abandon(self, reason: str) -> None:
        """End the streams of this request that have not begun."""
        view, self.view = self.view, None
        if view is not None:
            await view.abandon(reason)
        while self.streams:
            await self.streams.pop().abandon(reason)

    async def stop(self) -> None:
        """End what Django's handler leaves to itself when it is cancelled or fails.

        It waits for its tasks, and does not cancel them then: the view would go on, and what is
        pending when the process ends can crash Python 3.11 (in the garbage collection).
        """
        self.over = True
        pending = [task for task in self._tasks if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=GOODBYE_SECONDS)
        for task in self._tasks:
            if task.done() and not task.cancelled():
                # Or asyncio would say that nobody did: Django's handler looks at them when it ends.
                task.exception()
        await self.abandon("error")
        if self.pending is not None:
            await self.pending.aclose()


class ViewHandler(ASGIHandler):
    """Serves one view without Django's middleware and ``urls.py``, for a Channels ``URLRouter``.

    ``scope["user"]``, ``scope["session"]`` and the route's arguments, which Channels' middleware
    and router have set, are put where Django has them.
    """

    def __init__(self, view: Callable[..., Awaitable[HttpResponseBase]]) -> None:
        # Not the parent's: it would load the middleware.
        self._view = view
        self._middleware_chain = convert_exception_to_response(self._respond)

    def fill(self, request: Any) -> None:
        """Put on the request what Django's middleware would have."""
        for name in ("user", "session"):
            if name in request.scope:
                setattr(request, name, request.scope[name])

    async def _respond(self, request: Any) -> HttpResponseBase:
        self.fill(request)
        route = request.scope.get("url_route", {})
        response: Any = await self._view(request, *route.get("args", ()), **route.get("kwargs", {}))
        if callable(getattr(response, "render", None)):
            response = await sync_to_async(response.render)()
        return response  # type: ignore[no-any-return]
