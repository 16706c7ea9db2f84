"""One stream while it is open: its server, its outbox, and what may end it."""

from __future__ import annotations

import asyncio
import contextvars
import os
import platform
import secrets
from typing import Any

from channels.generic.http import AsyncHttpConsumer

from django_sse.exceptions import StreamClosed
from django_sse.servers.base import Server
from django_sse.wire.events import encode_fields

from .deadlines import Deadlines
from .outbox import Outbox
from .shutdown import come_back_milliseconds


class Stream(AsyncHttpConsumer):  # type: ignore[misc] # channels is not typed
    """An open stream, as the watchdog, a shutdown and orders from other processes know it.

    All methods belong to the event loop of the stream.

    Set few attributes on a stream, and only those that it uses. A class shares up to 30 keys with the
    dicts of its instances. An instance with one key more has a dict of its own, which takes 1.3 kB
    (Python 3.11).
    """

    #: Why the stream ended, for ``disconnect()``: ``completed``, ``client``, ``closed``, ``error``,
    #: ``overflow``, ``stalled``, ``shutdown``, ``expired`` or ``revoked``; ``None`` while it is
    #: open.
    close_reason: str | None = None
    #: The event loop of the stream, once it has begun.
    event_loop: asyncio.AbstractEventLoop | None = None
    #: When it began, in the time of its event loop, in seconds.
    opened_at: float = 0.0

    _server: Server | None = None
    _outbox: Outbox | None = None
    _life: asyncio.Task[None] | None = None
    _context: contextvars.Context | None = None
    _deadlines: Deadlines | None = None
    # The task that waits for the client, until it is interrupted; and whether _wake() was called.
    _waiter: asyncio.Task[Any] | None = None
    _woken: bool = False
    # Set once the response has ended, for close().
    _closing: asyncio.Event | None = None
    _over: bool = False
    _revoked: bool = False
    _cleaning: asyncio.Task[None] | None = None
    _stream_id: str | None = None

    # A subclass overrides these.

    async def live(self, *, anew: bool = False) -> None:
        """Send the events; runs in a task of its own, with the stream's context.

        ``anew`` is True where it has run before and events were lost since.
        """
        raise NotImplementedError

    def wind_up(self, reason: str) -> None:
        """Stop the heartbeat and the topics' events; called once, as the end begins."""

    def has_to_clean_up(self) -> bool:
        """Return whether ``clean_up()`` has anything to do."""
        return True

    async def clean_up(self) -> None:
        """Release what the connection held, after its end."""

    @property
    def followed_topics(self) -> tuple[str, ...]:
        """The topics that the stream was subscribed to."""
        return ()

    @property
    def newest_id(self) -> str | None:
        """The id of the newest published event that was given to the connection."""
        return None

    @property
    def is_open(self) -> bool:
        """Whether events can be sent: the response has begun, and the stream has not ended."""
        return self._outbox is not None and self.close_reason is None and not self._outbox.gone

    @property
    def stream_id(self) -> str:
        """A name that no other stream of any process has, before or after this one."""
        if self._stream_id is None:
            self._stream_id = f"{platform.node()}:{os.getpid()}:{secrets.token_hex(6)}"
        return self._stream_id

    def bytes_taken(self) -> int | None:
        """Return how many bytes the client has taken so far; ``None`` when no byte is on its way."""
        return None if self._outbox is None else self._outbox.bytes_taken()

    async def close(self) -> None:
        """Send the events that wait, and end the response and the stream.

        Returns when the response has ended. After a call in ``stream()``, ``stream()`` goes on up
        to its next ``await``. Closing a stream twice, or one that has ended, does nothing. Raises
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
        """Begin to end the stream, for ``reason``; the first reason counts. Does not wait."""
        if self.close_reason is None:
            self.close_reason = reason
            if self._deadlines is not None:
                self._deadlines.cancel()
            self.wind_up(reason)
            self._wake()

    def revoke(self) -> None:
        """End the stream as ``revoked``, with a last ``event: revoked``."""
        self._revoked = True
        if self.is_open and self._outbox is not None:
            self.end("revoked")
            self._outbox.put(encode_fields("{}", "revoked"))

    def shut_down(self, deadline: float | None = None) -> None:
        """End the stream as ``shutdown``, and tell the client a reconnection time of its own.

        At ``deadline``, in the event loop's time, the connection of a client that has not taken the
        rest is closed.
        """
        outbox = self._outbox
        if self.close_reason is None:
            self.end("shutdown")
            if outbox is not None:
                outbox.put(encode_fields(None, retry=come_back_milliseconds()))
        if deadline is not None and outbox is not None:
            self._timers().end_at(deadline, outbox.abort)

    def stall(self) -> None:
        """End the stream as ``stalled``: the client has stopped reading."""
        self.end("stalled")
        if self._outbox is not None:
            self._outbox.abort()

    def notice_loss(self) -> None:
        """End the stream as ``client`` if the connection is closed although the server has not said so."""
        outbox, server = self._outbox, self._server
        if outbox is not None and server is not None and not outbox.gone and server.is_gone():
            server.note_gone()
            self.end("client")
            outbox.abandon()

    def _timers(self) -> Deadlines:
        if self._deadlines is None:
            assert self.event_loop is not None
            self._deadlines = Deadlines(self.event_loop, self._context)
        return self._deadlines

    def _wake(self, _: Any = None) -> None:
        """End the wait for the client, or the next one."""
        self._woken = True
        if self._waiter is not None:
            # Not now: the task may be running at the moment, inside the server's receive().
            self._waiter.get_loop().call_soon(self._interrupt)

    def _interrupt(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.cancel()

    # Channels' own ways to send. They would bypass the outbox, and could send in the middle of an
    # event.

    async def send_headers(self, **kwargs: Any) -> None:
        """Raise ``TypeError``: the response has begun. Its headers are ``self.headers``."""
        raise TypeError(self._is_no_plain_consumer("send_headers"))

    async def send_body(self, body: bytes, **kwargs: Any) -> None:
        """Raise ``TypeError``: a stream sends events."""
        raise TypeError(self._is_no_plain_consumer("send_body"))

    async def send_response(self, status: int, body: bytes, **kwargs: Any) -> None:
        """Raise ``TypeError``: a stream refuses a request by an exception in ``connect()``."""
        raise TypeError(self._is_no_plain_consumer("send_response"))

    def _is_no_plain_consumer(self, name: str) -> str:
        return (
            f"{type(self).__qualname__}.{name}() is of a plain Channels consumer. A stream fills "
            "self.headers or raises in connect(), and sends events: await self.send(…)."
        )


def defines(cls: type, base: type, name: str) -> bool:
    """Return whether ``cls``, with its mixins, defines ``name`` itself, beside ``base``.

    Different functions do not say so, because a monitoring agent may wrap those of ``base`` in new
    objects each time.
    """
    if getattr(cls, name, None) is getattr(base, name, None):
        return False
    return any(name in vars(owner) for owner in cls.__mro__ if owner not in base.__mro__)
