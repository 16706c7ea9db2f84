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

from .flow_control import Send, bare, is_daphnes
from .response import EventStreamResponse
from .shutdown import shutdown
from .tasks import GOODBYE_SECONDS, forgive_cancellation, settle

Receive = Callable[[], Awaitable[Any]]

# What an exchange is called in the scope of its request.
_EXCHANGE = "django_sse.exchange"


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
        # Until run_get_response() has found it there.
        scope[_EXCHANGE] = exchange
        try:
            await super().__call__(scope, exchange.receive, exchange)
        except (Exception, asyncio.CancelledError) as error:
            scope.pop(_EXCHANGE, None)
            # In a task, since a server may cancel again meanwhile.
            await settle(asyncio.ensure_future(exchange.stop()))
            if isinstance(error, asyncio.CancelledError) and is_daphnes(bare(send)):
                # When Daphne ends, it waits for all applications, but only until the first one
                # ends as cancelled: streams could not clean up any more.
                forgive_cancellation()
                return
            raise
        view, exchange.view = exchange.view, None
        if view is not None:
            # From here on, nothing but the view itself is held for the life of the stream.
            receive = exchange.receive if exchange.gone else receive
            running = view(scope, receive, send)
            # This frame may outlive the stream, in a traceback of what Django's handler cancelled.
            del exchange, view
            await running

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
        exchange = getattr(request, "scope", {}).pop(_EXCHANGE, None)
        if exchange is not None:
            exchange.keep_task()
        streams = request._event_streams = []  # type: ignore[attr-defined]
        response = None
        try:
            response = await super().run_get_response(request)
        finally:
            del request._event_streams  # type: ignore[attr-defined]
            for stream in streams:
                if response is stream:
                    continue
                if response is not None and response.streaming:
                    # A middleware answers with another stream, which may have ours inside.
                    response._event_stream = stream  # type: ignore[attr-defined, union-attr]
                else:
                    await stream.abandon("client" if response is None else "closed")
        return response

    async def send_response(self, response: HttpResponseBase, send: Any) -> None:
        """Send an ordinary response; keep a stream's for after the request."""
        if isinstance(response, EventStreamResponse) and response.untouched:
            await super().send_response(cast("Any", _HeadersOnly(response)), send.take)
            view = response.take_over()
            # The middleware's variables are there in this task only.
            view.adopt(contextvars.copy_context(), send.headers)
            if send.over:
                # Django's handler leaves this task running when it is cancelled itself.
                await view.abandon("shutdown")
            else:
                send.view = view
            return
        replaced = response.__dict__.pop("_event_stream", None)
        inner = response if isinstance(response, EventStreamResponse) else replaced
        if inner is not None:
            # Its content is sent by Django's handler, piece by piece; flow control is the server's.
            inner.wire = send.wire
        try:
            await super().send_response(response, send)
        finally:
            if replaced is not None:
                await replaced.abandon("closed")


class _HeadersOnly:
    """An ``EventStreamResponse`` as far as ``send_response()`` needs it to write its headers."""

    streaming = False
    content = b""

    def __init__(self, response: EventStreamResponse) -> None:
        self.status_code = response.status_code
        self.items = response.items
        self.cookies = response.cookies


class _Exchange:
    """One request's ``receive`` and ``send``, and what is carried over to its stream."""

    __slots__ = ("_own_task", "_receive", "_send", "_tasks", "gone", "headers", "over", "view")

    def __init__(self, receive: Receive, send: Send, own_task: asyncio.Task[Any] | None) -> None:
        self._receive = receive
        self._send = send
        self._own_task = own_task
        self._tasks: set[Any] = set()
        self.gone = False
        self.over = False
        self.view: Any = None
        self.headers: Any = None

    async def __call__(self, message: Any) -> None:
        await self._send(message)

    @property
    def wire(self) -> Send:
        """The server's own ``send``."""
        return bare(self._send)

    async def receive(self) -> Any:
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
        if self.view is not None:
            await self.view.abandon("error")

    async def take(self, message: Any) -> None:
        """Keep the response's start for the stream."""
        if message["type"] == "http.response.start":
            self.headers = message


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
