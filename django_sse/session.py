"""One connection, from its first byte to its end, whatever it is that it sends."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import platform
import random
import secrets
from contextlib import suppress
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from channels.generic.http import AsyncHttpConsumer
from django.dispatch import Signal

from .conf import conf
from .connection.outbox import Outbox
from .connection.roster import roster
from .connection.shutdown import shutdown
from .connection.tasks import GOODBYE_SECONDS, LAST_PATIENCE, forgive_cancellation, settle, stop
from .connection.threads import Lane, pool
from .connection.users import user_key, user_name
from .connection.watchdog import watchdog
from .exceptions import StreamClosed
from .handshake.attributes import FROM_SETTINGS, FromSettings, seconds
from .handshake.capacity import compare_limits
from .handshake.limits import come_back_milliseconds
from .handshake.recheck import still_allowed
from .handshake.view import Handshake
from .monitoring.metrics import counters
from .servers import bare, server_for
from .servers.base import Receive, Send, Server
from .signals import stream_closed, stream_opened
from .topics.hub import get_hub
from .wire.events import encode_fields, milliseconds

logger = logging.getLogger("django_sse")

#: The key in a scope of a callable that is told what a stream raised, besides the log; for tests.
ON_FAILURE = "django_sse.on_failure"


#: Characters of a path and a name, and topics, that are told of a stream: clients choose them.
MAX_TOLD = 200
MAX_TOPICS_TOLD = 10


class Session(Handshake, AsyncHttpConsumer):  # type: ignore[misc] # channels is not typed
    """The life of a connection: its beginning, who may end it and why, and what is left behind.

    What the connection sends is a subclass's: ``live()``, ``wind_up()`` and ``clean_up()``.
    """

    #: The reconnection time told to clients as the stream opens: milliseconds or a ``timedelta``;
    #: ``None`` leaves it to the setting ``RETRY``, and then to the client.
    retry: int | timedelta | None = None
    #: Streams of this view that a user may have in a process; ``None`` is any number.
    max_connections_per_user: int | None = None
    #: Seconds, or a ``timedelta``, after which authentication and permissions are checked again;
    #: ``None`` is never. By default, the setting's.
    recheck_period: float | timedelta | None = FROM_SETTINGS
    #: Seconds, or a ``timedelta``, after which the stream ends as ``expired``, a tenth less at
    #: random; ``None`` is never.
    max_duration: float | timedelta | None = None
    #: Why the stream ended, for ``disconnect()``: ``completed``, ``client``, ``closed``, ``error``,
    #: ``overflow``, ``stalled``, ``shutdown``, ``expired`` or ``revoked``; ``None`` while it is open.
    close_reason: str | None = None

    #: The server's own ``send``, where what is sent takes another way to it.
    wire: Send | None = None

    _server: Server | None = None
    _outbox: Outbox | None = None
    _life: asyncio.Task[None] | None = None
    _lane: Lane | None = None
    _context: contextvars.Context | None = None
    _start: Any = None
    _watch: asyncio.Timeout | None = None
    _woken: bool = False
    _closing: asyncio.Event | None = None
    _over: bool = False
    _counted: bool = False
    _released: bool = False
    _recheck_timer: asyncio.TimerHandle | None = None
    _rechecking: asyncio.Task[None] | None = None
    _expiry: asyncio.TimerHandle | None = None
    _revoked: bool = False
    # Whether stream_opened was sent, so that stream_closed is due; and the task that sends it.
    _announced: bool = False
    _announcing: asyncio.Task[None] | None = None
    _cleaning: asyncio.Task[None] | None = None
    _stream_id: str | None = None
    #: The event loop of the stream, once it has begun.
    event_loop: asyncio.AbstractEventLoop | None = None
    #: When it began, in the time of its event loop.
    opened_at: float = 0.0

    # What a subclass does.

    async def live(self) -> None:
        """Send what there is to send; runs in a task of its own, with the stream's context."""
        raise NotImplementedError

    def wind_up(self, reason: str) -> None:
        """Stop what sends of its own accord; called once, as the end begins."""

    def has_to_clean_up(self) -> bool:
        """Return whether ``clean_up()`` has anything to do."""
        return True

    async def clean_up(self) -> None:
        """Let go of what the connection held, after its end."""

    @property
    def followed_topics(self) -> tuple[str, ...]:
        """The topics that the stream was subscribed to."""
        return ()

    @property
    def newest_id(self) -> str | None:
        """The id of the newest published event that was given to the connection."""
        return None

    # What is known of it.

    @property
    def user(self) -> Any:
        """The authenticated user, or ``AnonymousUser``."""
        return self.request.user

    @property
    def is_open(self) -> bool:
        """Whether events can be sent: the response has begun, and the stream has not ended."""
        return self._outbox is not None and self.close_reason is None and not self._outbox.gone

    @property
    def stream_id(self) -> str:
        """What names the stream among those of all processes, and no other before or after it."""
        if self._stream_id is None:
            self._stream_id = f"{platform.node()}:{os.getpid()}:{secrets.token_hex(6)}"
        return self._stream_id

    def describe(self) -> dict[str, Any]:
        """Return what the staff may know of the stream, as JSON knows it."""
        outbox, loop = self._outbox, self.event_loop
        meta = self.request.META
        return {
            "id": self.stream_id,
            "view": f"{type(self).__module__}.{type(self).__qualname__}",
            "path": _short(self.request.path),
            "user": user_key(self.user),
            "user_name": _short(user_name(self.user)),
            "address": meta.get("REMOTE_ADDR", ""),
            "topics": list(self.followed_topics[:MAX_TOPICS_TOLD]),
            "further_topics": max(0, len(self.followed_topics) - MAX_TOPICS_TOLD),
            "age": 0.0 if loop is None else loop.time() - self.opened_at,
            "sent": 0 if outbox is None else outbox.written,
            "buffered": 0 if outbox is None else outbox.size,
            "last_id": self.newest_id,
        }

    def log_extra(self) -> dict[str, Any]:
        """Return what structured logs may know of the stream, as ``extra`` of a line about it."""
        return {
            "stream_id": self.stream_id,
            "view": f"{type(self).__module__}.{type(self).__qualname__}",
            "path": self.request.path,
            "user": self._logged_user(),
            "close_reason": self.close_reason,
            # As on Django's own lines: handlers that report errors look for the URL there.
            "request": self.request._request,
        }

    def _logged_user(self) -> str | None:
        try:
            return user_key(self.user)
        except Exception:
            return None  # An odd user must not cost the line.

    def bytes_taken(self) -> int | None:
        """Return how many bytes the client took so far; ``None`` when none is on its way."""
        return None if self._outbox is None else self._outbox.bytes_taken()

    # Who may end it.

    async def close(self) -> None:
        """Send what is pending, and end the response and the stream.

        Returns when the response has ended. Called within ``stream()``, what follows runs up to
        its next ``await``. Closing a stream twice, or one that has ended, does nothing. Raises
        ``StreamClosed`` in ``connect()``, where there is nothing to close yet.
        """
        if self._outbox is None and self.close_reason is None:
            raise StreamClosed(
                f"{type(self).__qualname__} cannot be closed yet: its stream has not begun. In "
                "connect(), raise StreamFinished, or an exception of DRF."
            )
        if self._outbox is None or self._over or self._cleaning is asyncio.current_task():
            return
        if self._closing is None:
            self._closing = asyncio.Event()
        self.end("closed")
        await self._closing.wait()

    def end(self, reason: str) -> None:
        """Begin to end the stream, for ``reason``; the first one counts. Does not wait."""
        if self.close_reason is None:
            self.close_reason = reason
            for timer in (self._recheck_timer, self._expiry):
                if timer is not None:
                    timer.cancel()
            self.wind_up(reason)
            self._wake()

    def revoke(self) -> None:
        """End the stream as ``revoked``, with a last ``event: revoked``."""
        self._revoked = True
        if self.is_open and self._outbox is not None:
            self.end("revoked")
            self._outbox.put(encode_fields("{}", "revoked"))

    def shut_down(self, deadline: float | None = None) -> None:
        """End the stream as ``shutdown``, and tell the client a time of its own to come back.

        At ``deadline``, in the event loop's time, a client that has not taken the rest is cut off.
        """
        outbox = self._outbox
        if self.close_reason is None:
            self.end("shutdown")
            if outbox is not None:
                outbox.put(encode_fields(None, retry=come_back_milliseconds()))
        if deadline is not None and outbox is not None and self.event_loop is not None:
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry = self.event_loop.call_at(deadline, outbox.abort)

    def stall(self) -> None:
        """End the stream as ``stalled``: the client takes nothing any more."""
        self.end("stalled")
        if self._outbox is not None:
            self._outbox.abort()

    def notice_loss(self) -> None:
        """End the stream as left by its client, where the connection is closed without a word."""
        outbox, server = self._outbox, self._server
        if outbox is not None and server is not None and not outbox.gone and server.is_gone():
            server.note_gone()
            self.end("client")
            outbox.abandon()

    def _on_failed(self, error: BaseException) -> None:
        """End a stream that cannot be sent: its server, or a middleware, raised this."""
        # ASGI: a server may raise an OSError once the client is gone. uvloop raises another.
        if isinstance(error, OSError) or (self._server is not None and self._server.is_gone()):
            self.end("client")
        else:
            logger.error(
                "%s could not send.",
                type(self).__qualname__,
                exc_info=error,
                extra=self.log_extra(),
            )
            self.end("error")

    # What the stock consumer has, and would send past the outbox.

    async def send_headers(self, **kwargs: Any) -> None:
        """Raise ``TypeError``: the response has begun. Its headers are ``self.headers``."""
        raise TypeError(self._no_consumer("send_headers"))

    async def send_body(self, body: bytes, **kwargs: Any) -> None:
        """Raise ``TypeError``: what a stream sends are events."""
        raise TypeError(self._no_consumer("send_body"))

    async def send_response(self, status: int, body: bytes, **kwargs: Any) -> None:
        """Raise ``TypeError``: a refusal is an exception in ``connect()``."""
        raise TypeError(self._no_consumer("send_response"))

    def _no_consumer(self, name: str) -> str:
        return (
            f"{type(self).__qualname__}.{name}() is of a plain Channels consumer. A stream fills "
            "self.headers or raises in connect(), and sends events: await self.send(…)."
        )

    def tell_failure(self, error: Exception) -> None:
        """Tell a test what the stream raised."""
        tell = getattr(self, "scope", {}).get(ON_FAILURE)
        if tell is not None:
            tell(error)

    # Its way.

    def adopt(self, context: contextvars.Context, start: Any) -> None:
        """Run the stream with these context variables, its synchronous work in the pool.

        ``start`` is the ``http.response.start`` message, which is sent as the stream begins.
        """
        self._lane = pool.lease()
        self._lane.adopt(context)
        self._context = context
        self._start = start

    async def abandon(self, reason: str) -> None:
        """End a stream that never began: its place and what else it held are let go.

        ``disconnect()`` runs where ``connect()`` has returned.
        """
        self.end(reason)
        await self._release()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Run the stream on an ASGI connection whose request has been read.

        Returns when the stream has ended and ``disconnect()`` has run. A cancellation is taken for
        the server's shutting down and does not leave here: servers log it with a traceback.
        """
        self.scope = scope
        try:
            await self._begin(send)
            await self._attend(receive)
        except OSError:
            self.end("client")  # ASGI: what send() may raise once the client is gone.
        except asyncio.CancelledError:
            forgive_cancellation()
            self.shut_down()
            # In a task, since a server may cancel again meanwhile (Uvicorn does, after Ctrl+C).
            await settle(asyncio.ensure_future(self._say_goodbye()))
        finally:
            self.end("error")
            self._over = True
            if self._closing is not None:
                self._closing.set()
            patience = LAST_PATIENCE if shutdown.draining else None
            if self._life is not None and not await stop(self._life, patience):
                logger.error(
                    "%s.stream() does not end when it is cancelled, and is left to itself: let "
                    "asyncio.CancelledError pass.",
                    type(self).__qualname__,
                    extra=self.log_extra(),
                )
            await self._release()

    async def _begin(self, send: Send) -> None:
        loop = self.event_loop = asyncio.get_running_loop()
        self.opened_at = loop.time()
        self.base_send = bare(send)
        server = self._server = server_for(self.wire or self.base_send, self.scope)
        start, self._start = self._start, None
        if start is not None:
            if server.is_gone():
                # A request that was pipelined: nobody has told it that its client left.
                server.note_gone()
                raise ConnectionResetError("The connection is closed.")
            _slim(self.request)
            await send(start)
        send = self.base_send
        outbox = self._outbox = Outbox(send, loop, server)
        outbox.on_failed = self._on_failed
        # Headers go out with the first bytes only, and a client's onopen waits for them.
        retry = self._own_retry()
        outbox.put(encode_fields(None, retry=retry, comments="" if retry is None else None))
        outbox.flush()
        self._start_timers(loop)
        self._life = loop.create_task(self.live(), context=self._context)
        counters.opened += 1
        self._counted = True
        shutdown.watch(loop)
        shutdown.ask(loop, server)
        compare_limits(server)
        watchdog(loop).watch()
        get_hub().heed()
        # Both may have come between the handshake and this moment.
        if self._revoked:
            self.revoke()
        if shutdown.draining:
            self.shut_down(loop.time() + conf.drain_seconds)

    def _own_retry(self) -> int | None:
        return conf.retry if self.retry is None else milliseconds(self.retry)

    def _start_timers(self, loop: asyncio.AbstractEventLoop) -> None:
        period = self.recheck_period
        period = conf.recheck_period if isinstance(period, FromSettings) else seconds(period)
        if period:
            # The first check comes after a random part of the period, so that they are spread.
            first = period * random.random()  # noqa: S311
            self._recheck_timer = loop.call_later(first, self._recheck, period)
        if duration := seconds(self.max_duration):
            longest = duration * random.uniform(0.9, 1.0)  # noqa: S311
            self._expiry = loop.call_later(longest, self.end, "expired")

    def _recheck(self, period: float) -> None:
        assert self.event_loop is not None
        self._recheck_timer = self.event_loop.call_later(period, self._recheck, period)
        if self._rechecking is None or self._rechecking.done():
            self._rechecking = self.event_loop.create_task(
                self._check_again(), context=self._context
            )

    async def _check_again(self) -> None:
        try:
            if not await sync_to_async(still_allowed)(self):
                self.revoke()
        except Exception:
            logger.exception(
                "%s could not check its user again; it will be tried later.",
                type(self).__qualname__,
                extra=self.log_extra(),
            )

    async def _attend(self, receive: Receive) -> None:
        """Wait for the end, whoever brings it, and let the response end as it should."""
        outbox = self._outbox
        assert outbox is not None
        if await self._client_left(receive):
            self.end("client")
            outbox.abandon()
        else:
            if self.close_reason == "shutdown":
                await self._clean_up_early(outbox)
            finish = asyncio.ensure_future(outbox.finish())
            finish.add_done_callback(self._wake)
            if await self._client_left(receive):
                outbox.abandon()
            await finish
        if self._closing is not None:
            self._closing.set()
            # Whoever called close() goes on before the stream is cancelled.
            await asyncio.sleep(0)

    async def _clean_up_early(self, outbox: Outbox) -> None:
        """Run ``disconnect()`` while the response is open, for as long as a server may wait.

        A server that ends waits for responses, and Granian for nothing after them.
        """
        outbox.flush()
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life], timeout=GOODBYE_SECONDS)
            if self._life.done() and (cleaning := self._clean()):
                await asyncio.wait([cleaning], timeout=GOODBYE_SECONDS)

    async def _client_left(self, receive: Receive) -> bool:
        """Wait for the client to leave or for ``_wake()``; return whether it left."""
        if not self._woken:
            try:
                # A time limit without end: rescheduling it to now is asyncio's sanctioned way to
                # end another task's wait, and takes no task of its own.
                async with asyncio.timeout(None) as self._watch:
                    while (await receive())["type"] != "http.disconnect":
                        pass
            except TimeoutError:
                pass
            else:
                return True
            finally:
                self._watch = None
        self._woken = False
        return False

    def _wake(self, _: Any = None) -> None:
        self._woken = True
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.reschedule(0)

    async def _say_goodbye(self) -> None:
        """Send what is pending, and the end, for as long as a server that stops may wait."""
        if self._outbox is not None:
            try:
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await self._outbox.finish()
            except TimeoutError:
                logger.debug("A client did not take the rest of its stream in time.")
                # A server that has given up on the stream may still wait for its connection.
                self._outbox.abort()

    async def _release(self) -> None:
        """Run ``disconnect()`` and let go of everything; the first call counts."""
        if self._released:
            return
        self._released = True
        try:
            await self._let_cleaning_end()
        finally:
            if self._lane is not None:
                pool.give_back(self._lane)
                self._lane = None
            if self._counted:
                counters.closed[str(self.close_reason)] += 1
            roster.leave(self)
            self._let_go()

    async def _let_cleaning_end(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        if self._rechecking is not None:
            await stop(self._rechecking)
        if self._outbox is not None:
            if self._outbox.blocked:
                await settle(asyncio.ensure_future(self._outbox.aclose()))
            self._outbox.abandon()
        if cleaning := self._clean():
            await settle(cleaning, shutdown.seconds_left())
            if not cleaning.done():
                logger.error(
                    "%s.disconnect() was not over before its process had to end.",
                    type(self).__qualname__,
                    extra=self.log_extra(),
                )
                await stop(cleaning, LAST_PATIENCE)

    def _let_go(self) -> None:
        """Undo the circles in which a stream stands, so that it is gone without a collection."""
        if self._outbox is not None:
            self._outbox.on_failed = None
        self._life = self._rechecking = self._context = None

    async def announce(self) -> None:
        """Send ``stream_opened``; all of it, also where the stream ends meanwhile."""
        self._announced = True
        if stream_opened.has_listeners(type(self)):
            loop = asyncio.get_running_loop()
            self._announcing = loop.create_task(tell(stream_opened, self), context=self._context)
            await asyncio.shield(self._announcing)
            self._announcing = None

    def _clean(self) -> asyncio.Task[None] | None:
        """Return the task that cleans up, begun when it is first asked for; ``None`` for nothing."""
        if not self._connected:
            return None
        if self._cleaning is None and (
            self.has_to_clean_up()
            or self._announcing is not None
            or stream_closed.has_listeners(type(self))
        ):
            loop = asyncio.get_running_loop()
            self._cleaning = loop.create_task(self._close_down(), context=self._context)
        return self._cleaning

    async def _close_down(self) -> None:
        await self.clean_up()
        if self._announcing is not None:
            await settle(self._announcing)
        if self._announced and self.event_loop is not None:
            duration = self.event_loop.time() - self.opened_at
            await tell(stream_closed, self, reason=self.close_reason, duration=duration)


async def tell(signal: Signal, view: Session, **kwargs: Any) -> None:
    """Send a signal, where anybody listens; Django logs what receivers raise."""
    sender = type(view)
    if signal.has_listeners(sender):
        await signal.asend_robust(sender, view=view, **kwargs)


def _short(text: str) -> str:
    return text if len(text) <= MAX_TOLD else f"{text[:MAX_TOLD]}…"


def _slim(request: Any) -> None:
    """Let go of what a finished request keeps that no stream needs: some 2.5 kB, or more."""
    inner = request._request
    for holder, name, empty in (
        # Every pattern that did not match: about 4 kB in a project of 70 routes.
        (inner.resolver_match, "tried", None),
        # The body was read into request.data, and its file is closed.
        (inner, "_stream", None),
        (request, "_stream", None),
        # Whoever asks again, makes a request anew.
        (request, "parsers", ()),
        (request, "authenticators", ()),
        (request, "negotiator", None),
        (request, "parser_context", None),
    ):
        # An agent's wrapper may refuse it; then it is kept.
        with suppress(AttributeError):
            setattr(holder, name, empty)
    for holder, name in (
        (inner, "_messages"),
        (inner, "_parsed_accept_list"),
        (request, "_parsed_accept_list"),
    ):
        with suppress(AttributeError):
            holder.__dict__.pop(name, None)
