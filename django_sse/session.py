"""One connection, from its first byte to its end, whatever it sends."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.dispatch import Signal

from .conf import FROM_SETTINGS, FromSettings, conf
from .connection.outbox import Outbox
from .connection.roster import roster
from .connection.shutdown import shutdown
from .connection.tasks import GOODBYE_SECONDS, LAST_PATIENCE, forgive_cancellation, settle, stop
from .connection.threads import Lane, pool
from .connection.watchdog import watchdog
from .handshake.capacity import compare_limits
from .handshake.recheck import still_allowed
from .handshake.request import slim
from .handshake.view import Handshake
from .monitoring import reports
from .monitoring.metrics import counters
from .monitoring.reports import log_error, log_repeated
from .servers import bare, server_for
from .servers.base import Receive, Send
from .signals import stream_closed, stream_opened
from .topics.hub import get_hub
from .wire.events import encode_fields, milliseconds

logger = logging.getLogger("django_sse")

#: If it is set, it is called with each stream that has ended, its reason and its seconds. That is after
#: ``disconnect()`` and ``stream_closed``, whose time the seconds include. It must not wait: unlike a
#: receiver of ``stream_closed``, it costs no task.
watcher: Callable[[Any, str, float], None] | None = None


class Session(Handshake):
    """The life of a connection: how it begins, waits for its end, ends, and cleans up.

    A subclass says what the connection sends: ``live()``, ``wind_up()`` and ``clean_up()``.
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

    #: The server's own ``send``, where the bytes take another way to the server.
    wire: Send | None = None

    _lane: Lane | None = None
    # The response's start, until it is sent.
    _start: Any = None
    # Whether it was counted as opened, and is to be counted as closed.
    _begun: bool = False
    _released: bool = False
    # Whether stream_opened was sent, so that stream_closed is due; and the task that sends it.
    _announced: bool = False
    _announcing: asyncio.Task[None] | None = None

    @property
    def user(self) -> Any:
        """The authenticated user, or ``AnonymousUser``."""
        return self.request.user

    def describe(self) -> dict[str, Any]:
        """Return what the staff may know of the stream, in types that JSON knows."""
        return reports.describe(self, self._outbox)

    def _on_failed(self, error: BaseException) -> None:
        """End a stream whose server, or a middleware around it, raised ``error`` in ``send()``."""
        # ASGI lets a server raise an OSError once the client is gone. uvloop raises another
        # exception.
        if isinstance(error, OSError) or (self._server is not None and self._server.is_gone()):
            self.end("client")
        else:
            log_error(self, "%s could not send.", error=error)
            self.end("error")

    def _start_timers(self) -> None:
        assert self.event_loop is not None
        if period := self._recheck_seconds():
            self._timers().check_every(period, self._check_again)
        if duration := self._duration_seconds():
            # A random part spreads the ends of many streams that began at once.
            duration *= random.uniform(0.9, 1.0)  # noqa: S311
            moment = self.event_loop.time() + duration
            self._timers().end_at(moment, partial(self.end, "expired"))

    def _recheck_seconds(self) -> float | None:
        period = self.recheck_period
        return conf.recheck_period if isinstance(period, FromSettings) else _seconds(period)

    def _duration_seconds(self) -> float | None:
        return _seconds(self.max_duration)

    async def _check_again(self) -> None:
        try:
            if not await self._is_still_allowed():
                self.revoke()
        except Exception as error:
            message = "%s could not check its user again; it will be tried later."
            log_repeated(self, message, error=error)

    async def _is_still_allowed(self) -> bool:
        return await sync_to_async(still_allowed)(self)

    def adopt(self, context: contextvars.Context, start: Any) -> None:
        """Run the stream with these context variables, its synchronous work in the pool.

        ``start`` is the ``http.response.start`` message, which is sent as the stream begins.
        """
        self._lane = pool.lease()
        self._lane.adopt(context)
        self._context = context
        self._start = start

    async def abandon(self, reason: str) -> None:
        """End a stream that never began, and release its place and all that it held.

        Runs ``disconnect()`` if ``connect()`` has returned.
        """
        self.end(reason)
        await self._release()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Run the stream on an ASGI connection whose request has been read.

        Returns when the stream has ended and ``disconnect()`` has run. A cancellation means that
        the server is shutting down. It is not raised again, because servers would log it with a
        traceback.
        """
        self.scope = scope
        finish: asyncio.Future[None] | None = None
        try:
            await self._begin(send)
            while finish is None or not finish.done():
                # The wait for the client is no function of its own, since each coroutine of a
                # stream that waits takes 250 bytes.
                left = False
                waiter = self._waiter = asyncio.current_task()
                assert waiter is not None
                cancelled = waiter.cancelling()
                try:
                    while not (left or self._woken):
                        left = (await receive())["type"] == "http.disconnect"
                except asyncio.CancelledError:
                    # That was _wake(), unless the server has cancelled this task as well.
                    if self._waiter is not None or waiter.uncancel() > cancelled:
                        raise
                finally:
                    self._waiter = None
                self._woken = False
                if left:
                    self._lose_client()
                    break
                if finish is None:
                    finish = await self._finish()
            await self._end_response(finish)
        except OSError:
            self.end("client")  # ASGI lets send() raise it once the client is gone.
        except asyncio.CancelledError:
            forgive_cancellation()
            self.shut_down()
            # Run it in a task, since the server may cancel this one again meanwhile: Uvicorn does
            # after Ctrl+C.
            await settle(asyncio.ensure_future(self._say_goodbye()))
        finally:
            await self._conclude()

    async def _begin(self, send: Send) -> None:
        loop = self.event_loop = asyncio.get_running_loop()
        self.opened_at = loop.time()
        server_send = bare(send)
        server = self._server = server_for(self.wire or server_send, self.scope)
        start, self._start = self._start, None
        if start is not None:
            if server.is_gone():
                # The request was pipelined, and the server has not told it that the client left.
                server.note_gone()
                raise ConnectionResetError("The connection is closed.")
            slim(self.request)
            # DRF makes another where it is asked for.
            self._negotiator = None
            await send(start)
        outbox = self._outbox = Outbox(server_send, loop, server)
        outbox.on_failed = self._on_failed
        # A server sends the headers with the first bytes, and a browser's onopen waits for the
        # headers.
        retry = self._own_retry()
        outbox.put(encode_fields(None, retry=retry, comments="" if retry is None else None))
        outbox.flush()
        self._start_timers()
        self._life = loop.create_task(self.live(), context=self._context)
        self._begun = True
        counters.opened += 1
        shutdown.watch(loop)
        shutdown.ask(loop, server)
        compare_limits(server)
        watchdog(loop).watch()
        get_hub().heed()
        # Either may have come between the handshake and this moment.
        if self._revoked:
            self.revoke()
        if shutdown.draining:
            self.shut_down(loop.time() + conf.drain_seconds)

    def _own_retry(self) -> int | None:
        return conf.retry if self.retry is None else milliseconds(self.retry)

    def _lose_client(self) -> None:
        self.end("client")
        if self._outbox is not None:
            self._outbox.abandon()

    async def _finish(self) -> asyncio.Future[None]:
        """Begin to send the events that wait and the end of the response; return what ends with it."""
        outbox = self._outbox
        assert outbox is not None
        if self.close_reason == "shutdown":
            await self._clean_up_early(outbox)
        finish = asyncio.ensure_future(outbox.finish())
        finish.add_done_callback(self._wake)
        return finish

    async def _end_response(self, finish: asyncio.Future[None] | None) -> None:
        if finish is not None:
            await finish
        if self._closing is not None:
            self._closing.set()
            # Let the caller of close() go on before the stream is cancelled.
            await asyncio.sleep(0)

    async def _conclude(self) -> None:
        """End what the stream runs, and release it, however its connection has ended."""
        self.end("error")
        self._over = True
        if self._closing is not None:
            self._closing.set()
        patience = LAST_PATIENCE if shutdown.draining else None
        if self._life is not None and not await stop(self._life, patience):
            message = (
                "%s.stream() does not end when it is cancelled, and is left to itself: let "
                "asyncio.CancelledError pass."
            )
            log_error(self, message)
        await self._release()

    async def _clean_up_early(self, outbox: Outbox) -> None:
        """Run ``disconnect()`` while the response is still open, for as long as a server waits for
        it.

        A server that ends waits for its responses. After them, Granian ends the process at once.
        """
        outbox.flush()
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life], timeout=GOODBYE_SECONDS)
        if (self._life is None or self._life.done()) and (cleaning := self._clean()):
            await asyncio.wait([cleaning], timeout=GOODBYE_SECONDS)

    async def _say_goodbye(self) -> None:
        """Send the events that wait, and the end, for as long as a server that ends waits for it."""
        if self._outbox is not None:
            try:
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await self._outbox.finish()
            except TimeoutError:
                logger.debug("A client did not take the rest of its stream in time.")
                # The server may still wait for the connection to close.
                self._outbox.abort()

    async def _release(self) -> None:
        """Run ``disconnect()`` and release everything; only the first call does it."""
        if self._released:
            return
        self._released = True
        try:
            await self._let_cleaning_end()
        finally:
            if self._lane is not None:
                pool.give_back(self._lane)
                self._lane = None
            if self._begun:
                counters.closed[str(self.close_reason)] += 1
                self._tell_watcher()
            roster.leave(self)
            self._let_go()

    async def _let_cleaning_end(self) -> None:
        if self._deadlines is not None:
            await self._deadlines.aclose()
        if self._outbox is not None:
            if self._outbox.blocked:
                await settle(asyncio.ensure_future(self._outbox.aclose()))
            self._outbox.abandon()
        if cleaning := self._clean():
            await settle(cleaning, shutdown.seconds_left())
            if not cleaning.done():
                log_error(self, "%s.disconnect() was not over before its process had to end.")
                await stop(cleaning, LAST_PATIENCE)

    def _tell_watcher(self) -> None:
        if watcher is None:
            return
        tell_it = partial(watcher, self, str(self.close_reason), self._seconds_open())
        try:
            if self._context is None:
                tell_it()
            else:
                # A copy: the context itself may be the one that runs at the moment.
                self._context.copy().run(tell_it)
        except Exception as error:
            log_error(self, "The watcher of ended streams failed for %s.", error=error)

    def _seconds_open(self) -> float:
        return 0.0 if self.event_loop is None else self.event_loop.time() - self.opened_at

    def _let_go(self) -> None:
        """Break the stream's reference circles, so that its memory is freed without a garbage collection."""
        if self._outbox is not None:
            self._outbox.on_failed = None
        self._life = self._context = None
        if self._deadlines is not None:
            self._deadlines = None

    async def announce(self) -> None:
        """Send ``stream_opened`` to all receivers, also where the stream ends meanwhile."""
        self._announced = True
        if stream_opened.has_listeners(type(self)):
            loop = asyncio.get_running_loop()
            self._announcing = loop.create_task(tell(stream_opened, self), context=self._context)
            await asyncio.shield(self._announcing)
            self._announcing = None

    def _clean(self) -> asyncio.Task[None] | None:
        """Return the task that cleans up, started by the first call; ``None`` if there is nothing to do."""
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
        if self._announced:
            duration = self._seconds_open()
            await tell(stream_closed, self, reason=self.close_reason, duration=duration)


async def tell(signal: Signal, view: Session, **kwargs: Any) -> None:
    """Send a signal if it has receivers; Django logs their exceptions."""
    sender = type(view)
    if signal.has_listeners(sender):
        await signal.asend_robust(sender, view=view, **kwargs)


def _seconds(duration: float | timedelta | None) -> float | None:
    """Return a duration in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration
