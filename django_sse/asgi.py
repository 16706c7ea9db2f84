"""Django's ASGI handler, except that it finishes a request before its stream begins."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import django
from asgiref.sync import sync_to_async
from django.core.handlers import asgi
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .conf import conf
from .connection.request_signals import (
    end_in_thread,
    needs_no_thread,
    postpone_start,
    stop_postponing,
)
from .connection.request_threads import RequestThread
from .connection.shutdown import shutdown
from .connection.tasks import GOODBYE_SECONDS, forgive_cancellation, settle
from .handshake import turns
from .handshake.early import Admission, early_admission
from .handshake.middleware import ResolvedView, ViewMiddleware, join
from .handshake.receiving import PendingReceive
from .handshake.response import (
    EventStreamResponse,
    PendingStream,
    current_exchange,
    is_untouched,
    pending_stream,
)
from .servers import bare, keeps_cancelled, server_for
from .servers.base import Receive, Send

logger = logging.getLogger("django_sse")


def get_asgi_application() -> ASGIHandler:
    """Set Django up and return the ASGI application; use it in place of ``django.core.asgi``'s.

    It is Django's handler with one difference: when the final response is an untouched
    ``EventStreamResponse``, the request is finished first. Django sends ``request_finished``, and
    releases the request's thread, database connection and body. Then the stream runs on the bare
    ASGI connection. In a ``ProtocolTypeRouter``, it stands under ``"http"``, as Django's does.
    """
    django.setup(set_prefix=False)
    return ASGIHandler()


class ASGIHandler(asgi.ASGIHandler):
    """Django's handler, except that streams outlive their requests; see ``get_asgi_application()``."""

    _middleware_chain: Any
    _view_middleware: Any
    # Says who hears orders to end streams; load_middleware() sets it.
    _hearing: Callable[[], Any] = staticmethod(lambda: None)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request, and the stream that it may become; or the server's lifespan."""
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
            return
        # For the life of the stream, this frame holds nothing but what is needed then.
        view, receive, pending = await self._shake_hands(scope, receive, send)
        try:
            if view is not None:
                await view(scope, receive, send)
        except BaseException:
            # This does nothing where the stream has begun: it has ended by itself then.
            await view.abandon("error")
            raise
        finally:
            # For the same reason as in _shake_hands().
            del view
            if pending is not None:
                await pending.aclose()

    async def _shake_hands(
        self, scope: Any, receive: Receive, send: Send
    ) -> tuple[Any, Receive, PendingReceive | None]:
        """Serve a request; return its stream, or ``None``, and the stream's ``receive``.

        The third is what is to be closed at the end, or ``None``.
        """
        line = turns.line_for(scope)
        overrun = line is not None and line.is_overrun
        if overrun and self.may_refuse(scope):
            await turns.refuse(send)
            return None, receive, None
        exchange = _Exchange(receive, send, asyncio.current_task(), None if overrun else line)
        exchange.overrun = overrun
        # The view of another request may be the caller, and goes on with its own exchange.
        callers = current_exchange.get()
        current_exchange.set(exchange)
        try:
            async with RequestThread() as exchange.thread:
                await super().__call__(scope, exchange.receive, exchange.send)
            exchange.thread = None
            view = await exchange.end()
        except (Exception, asyncio.CancelledError) as error:
            # Run stop() in a task, since the server may cancel this one again meanwhile.
            await settle(asyncio.ensure_future(exchange.stop()))
            if isinstance(error, asyncio.CancelledError) and _ends_early(scope, send):
                # If this application ended as cancelled, the server (Daphne) would stop waiting for
                # the others, and streams could not clean up any more.
                forgive_cancellation()
                return None, receive, None
            raise
        finally:
            current_exchange.set(callers)
        if exchange.gone or exchange.pending is not None:
            receive = exchange.receive
        try:
            return view, receive, exchange.pending
        finally:
            # A traceback of a task that Django's handler cancelled may keep this frame for long.
            del view, receive, exchange, callers

    def load_middleware(self, is_async: bool = False) -> None:
        """Load the middleware, and let its synchronous methods share trips to the request's thread."""
        from .topics.hub import hearing  # noqa: PLC0415 - it needs the settings

        self._hearing = hearing
        super().load_middleware(is_async)
        self._middleware_chain, first, last = join(self._middleware_chain)
        if last is not None and ViewMiddleware.suits(self._view_middleware):
            self._view_methods = ViewMiddleware(self._view_middleware)
            self._view_middleware = [self._view_methods]
            last.before_view = self._resolve_early
        if first is not None:
            first.at_end = self._end_early

    def _resolve_early(self, request: HttpRequest) -> None:
        """Find the view, call ``process_view()``, and apply a stream's policies, all in the middleware's trip.

        Policies only if nothing is between the middleware and the view, and orders to end streams
        have been heard since before the middleware.
        """
        exchange = cast("_Exchange | None", current_exchange.get())
        if exchange is None:
            return
        try:
            match = super().resolve_request(request)
        except Exception:
            # Django's handler searches again, and answers the same exception.
            return
        if not turns.opens_stream(match.func):
            exchange.end_turn_from_thread()
        resolved = exchange.resolved = self._view_methods.call_early(request, match)
        if exchange.heard is not None and not exchange.overrun and resolved.goes_on:
            admit = early_admission(match.func)
            if admit is not None:
                exchange.admission = admit(request, match.args, match.kwargs)

    def _end_early(self, response: Any) -> None:
        """End the request of a stream in the thread, in the trip of the last ``process_response()``."""
        exchange = cast("_Exchange | None", current_exchange.get())
        stream = pending_stream(response)
        if exchange is not None and exchange.has_thread and stream is not None:
            exchange.over_in_thread = is_untouched(response, stream) and end_in_thread(type(self))

    async def read_body(self, receive: Receive) -> Any:
        """Read the body, and let a stream's handshake wait for its turn; ``request_started`` comes next.

        The turn comes after the body: a client that announces a body and never sends it would keep
        its turn, and all who wait for one.
        """
        body = await super().read_body(receive)
        exchange = cast("_Exchange | None", current_exchange.get())
        if exchange is not None:
            try:
                await exchange.begin_turn()
            except BaseException:
                body.close()
                raise
            if exchange.thread is not None and exchange.thread.is_used:
                exchange.has_thread = True
                # Nothing is awaited from here to create_request(), so no other request is concerned.
                exchange.thread.first = postpone_start(type(self))
        return body

    def create_request(self, scope: Any, body_file: Any) -> Any:
        """Make the request; ``request_started`` was sent before."""
        stop_postponing(type(self))
        return super().create_request(scope, body_file)

    def may_refuse(self, scope: Any) -> bool:
        """Return whether a request surely asks for a stream, and needs no middleware to be refused."""
        return turns.may_be_refused_here(scope)

    def resolve_request(self, request: HttpRequest) -> Any:
        """Find the view. Where it opens no stream, end the turn: the view may take any time."""
        exchange = cast("_Exchange | None", current_exchange.get())
        resolved = None if exchange is None else exchange.resolved
        if resolved is not None and resolved.request is request:
            match = resolved.match
        else:
            match = super().resolve_request(request)
        if exchange is not None and not turns.opens_stream(match.func):
            exchange.end_turn()
        return match

    async def lifespan(self, receive: Receive, send: Send) -> None:
        """Answer a server's lifespan protocol, which Django refuses; end the streams at its end.

        Source: ASGI specification, "Lifespan Protocol".
        """
        while (await receive())["type"] == "lifespan.startup":
            shutdown.start()
            await send({"type": "lifespan.startup.complete"})
        shutdown.begin()
        await shutdown.settle()
        await send({"type": "lifespan.shutdown.complete"})

    async def run_get_response(self, request: HttpRequest) -> HttpResponseBase:
        """Run middleware and view, and end a stream whose response a middleware has dropped."""
        exchange = cast("_Exchange | None", current_exchange.get())
        if exchange is None:
            return await super().run_get_response(request)
        exchange.keep_task()
        exchange.heard = self._hearing()
        response: Any = None
        try:
            response = await super().run_get_response(request)
        finally:
            carried = pending_stream(response)
            for stream in exchange.streams:
                if stream is carried:
                    continue
                if getattr(response, "streaming", False):
                    # A middleware answers with another streaming response, which may have ours
                    # inside.
                    exchange.inside = stream
                else:
                    await stream.abandon("client" if response is None else "closed")
        return cast("HttpResponseBase", response)

    async def send_response(self, response: HttpResponseBase, send: Any) -> None:
        """Send an ordinary response; keep the start of a stream's response until the request is
        finished.

        ``send`` may be a wrapper around the exchange's own. It then sees a response without a body.
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
            # Django's handler sends the content piece by piece. Flow control needs the server's own
            # send.
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
            # A wrapper of send() has not passed the message on.
            await super().send_response(head, exchange.send)
        view = stream.take()
        try:
            # Copy them here: only this task has the context variables that middleware set.
            context = contextvars.copy_context()
            context.run(current_exchange.set, None)
            view.adopt(context, exchange.start)
            exchange.view = view
        except BaseException:
            await view.abandon("error")
            raise
        if exchange.over:
            # Django's handler was cancelled, and has left this task running.
            await exchange.abandon("shutdown")
        elif type(response) is EventStreamResponse and exchange.ends_without_thread(type(self)):
            response.is_over_in_thread = True


def _ends_early(scope: Any, send: Send) -> bool:
    """Return whether the server, as it ends, stops waiting once one application ends as cancelled."""
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
    """The ``receive`` and ``send`` of one request, and the state that its stream takes over."""

    __slots__ = (
        "_line",
        "_own_task",
        "_receive",
        "_send",
        "_tasks",
        "_turn",
        "admission",
        "gone",
        "has_thread",
        "heard",
        "inside",
        "keeping",
        "over",
        "over_in_thread",
        "overrun",
        "pending",
        "resolved",
        "start",
        "streams",
        "thread",
        "view",
    )

    def __init__(
        self,
        receive: Receive,
        send: Send,
        own_task: asyncio.Task[Any] | None,
        line: turns.Line | None = None,
    ) -> None:
        #: Stands before the server's ``receive`` where a call of that must not be cancelled.
        self.pending = None if keeps_cancelled(receive) else PendingReceive(receive)
        self._receive = self.pending or receive
        self._send = send
        self._own_task = own_task
        # Where the request waits for its turn, and then the turn.
        self._line = line
        self._turn: turns.Turn | None = None
        #: Whether more clients come than can be served, so that a stream's is refused.
        self.overrun = False
        #: Who has heard orders to end streams since before the middleware, if somebody has.
        self.heard: Any = None
        #: What the policies of the view said in the middleware's trip to the thread.
        self.admission: Admission | None = None
        #: The request's view, from the middleware's trip to the thread until Django's handler asks.
        self.resolved: ResolvedView | None = None
        self._tasks: set[Any] = set()
        self.gone = False
        self.over = False
        #: The streams of the responses that the request's view has made.
        self.streams: list[PendingStream] = []
        #: The one of them whose response another response has inside.
        self.inside: PendingStream | None = None
        #: The view that takes the connection over.
        self.view: Any = None
        #: The thread of the request's synchronous work; whether that runs there, and not in the
        #: thread of a caller; and whether what is due there at the request's end was done.
        self.thread: RequestThread | None = None
        self.has_thread = False
        self.over_in_thread = False
        #: Whether to keep the response for the stream instead of sending it; and the message that
        #: starts it.
        self.keeping = False
        self.start: Any = None

    async def send(self, message: Any) -> None:
        """Send a message to the server; keep the start of a stream's response, and drop its empty body."""
        if not self.keeping:
            await self._send(message)
        elif message["type"] == "http.response.start":
            self.start = message

    async def begin_turn(self) -> None:
        """Wait for the turn of this handshake, where it has to."""
        line, self._line = self._line, None
        if line is not None:
            self._turn = await line.turn(conf.max_handshakes or 1)

    def end_turn(self) -> None:
        """Let the next handshake begin: this one was decided, or is none."""
        if self._turn is not None:
            self._turn.end()
            self._turn = None

    def end_turn_from_thread(self) -> None:
        """Do the same as ``end_turn()`` from the request's thread."""
        if self._turn is not None and self._own_task is not None:
            self._own_task.get_loop().call_soon_threadsafe(self.end_turn)

    def ends_without_thread(self, handler: type) -> bool:
        """Return whether the request's end needs no trip to its thread, and make none."""
        thread = self.thread
        if thread is None or not self.has_thread:
            return False
        if not self.over_in_thread and (thread.is_taken or not needs_no_thread(handler)):
            return False
        thread.freed = self._own_task
        return True

    def take_admission(self, request: Any) -> Admission | None:
        """Return what the view's policies have said to a request already, once."""
        admission, self.admission = self.admission, None
        return admission if admission is not None and admission.request is request else None

    @property
    def wire(self) -> Send:
        """The server's own ``send``."""
        return bare(self._send)

    async def receive(self) -> Any:
        """Wait for the server's next message."""
        # Django waits for a disconnect beside the view, and may consume the message at the very
        # moment of the take-over. Remember it, so that the stream gets it too.
        if self.gone:
            return {"type": "http.disconnect"}
        self.keep_task()
        message = await self._receive()
        self.gone = message["type"] == "http.disconnect"
        return message

    def keep_task(self) -> None:
        """Remember the current task as one that Django's handler started, unless it is the handler's own."""
        task = asyncio.current_task()
        if task is not self._own_task:
            self._tasks.add(task)

    async def end(self) -> Any:
        """Return the view that takes the connection over, or ``None``; end all other streams."""
        self.end_turn()
        while self.streams:
            await self.streams.pop().abandon("client")
        # Do not hold the request's tasks for the life of the stream.
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
        """End the tasks that Django's handler leaves behind when it is cancelled or fails.

        Django does not cancel them then. The view would go on, and a task that is pending when the
        process ends can crash Python 3.11 (in the garbage collection).
        """
        self.over = True
        self.end_turn()
        pending = [task for task in self._tasks if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=GOODBYE_SECONDS)
        for task in self._tasks:
            if task.done() and not task.cancelled():
                # Otherwise asyncio logs that the exception was never retrieved.
                error = task.exception()
                if isinstance(error, SystemExit):
                    # The event loop raises it and ends, and the log should say where it came from.
                    logger.error("A request's code raised SystemExit.", exc_info=error)
        await self.abandon("error")
        if self.pending is not None:
            await self.pending.aclose()


class ViewHandler(ASGIHandler):
    """Serves one view without Django's middleware and ``urls.py``, for a Channels ``URLRouter``.

    It puts ``scope["user"]``, ``scope["session"]`` and the route's arguments, which Channels'
    middleware and router have set, where Django has them.
    """

    def __init__(self, view: Callable[..., Awaitable[HttpResponseBase]]) -> None:
        """Take the view, as ``as_view()`` returns it."""
        # Do not call the parent's method: it would load the middleware.
        self._view = view
        self._middleware_chain = convert_exception_to_response(self._respond)

    def may_refuse(self, scope: Any) -> bool:
        """Return True: every request here asks for a stream, and passes no middleware of Django."""
        return True

    def fill(self, request: Any) -> None:
        """Set the attributes of the request that Django's middleware would set."""
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
