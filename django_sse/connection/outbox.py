"""The outbox of one connection: all bytes of the stream go through it, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from django_sse.servers import server_for
from django_sse.servers.base import Send, Server

from .tasks import Rest, step

#: Bytes that may wait before ``send()`` waits too.
HIGH_WATER = 64 * 1024


class Outbox:
    """Joins the events that are put into it within one turn of the event loop, and writes them in
    one piece.

    Whole events go in, and one write is under way at a time, so events never interleave. A write
    that the connection does not take at once goes on in a task, and later events wait for it. All
    methods belong to the event loop of the connection; only coroutines wait.
    """

    __slots__ = (
        "_ended",
        "_flying",
        "_loop",
        "_pending",
        "_scheduled",
        "_send",
        "_server",
        "_steppable",
        "_task",
        "_waiters",
        "gone",
        "on_failed",
        "on_ready",
        "paused",
        "size",
        "written",
    )

    def __init__(
        self,
        send: Send,
        loop: asyncio.AbstractEventLoop,
        server: Server | None = None,
    ) -> None:
        """Take the ``server`` of the connection, where ``send`` is not the server's own."""
        self._send = send
        self._server = server_for(send, {}) if server is None else server
        self._loop = loop
        self._steppable = self._server.may_be_stepped and self._server.send == send
        self._pending: list[bytes] = []
        self._flying = 0
        self._scheduled = False
        self._ended = False
        self._task: asyncio.Task[None] | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        #: Bytes that the server has not taken yet, including the write under way.
        self.size = 0
        #: Bytes that the server has taken so far.
        self.written = 0
        #: Whether the server has said that the connection is full (Daphne; other servers make a
        #: write wait).
        self.paused = False
        #: Whether the client is gone. Then events are dropped, as after ``finish()``.
        self.gone = False
        #: Called when a connection that was blocked takes more, and the outbox is empty.
        self.on_ready: Callable[[], None] | None = None
        #: Called with the exception of the server, or of a middleware around it. Nothing is sent
        #: after it.
        self.on_failed: Callable[[BaseException], None] | None = None
        self._server.attach(self)

    def put(self, data: bytes) -> None:
        """Add whole events, which are written at the end of this turn of the event loop. Never waits."""
        if self.gone or self._ended:
            return
        self._pending.append(data)
        self.size += len(data)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._on_turn)

    def write(self, message: dict[str, Any], size: int, chunk: bytes | None = None) -> bool:
        """Write a body message of whole events at once, after the events that wait.

        ``size`` is the number of its bytes. ``chunk`` is the same body framed for HTTP/1.1; many
        connections may share both. Returns False, and takes nothing, when the connection is
        blocked.
        """
        if self._task is not None or self.paused:
            return False
        if self._pending:
            self.put(message["body"])
            self.flush()
        elif not (self.gone or self._ended):
            if chunk is not None and self._steppable:
                try:
                    if self._server.write(chunk, size):
                        self.written += size
                        return True
                except Exception as error:
                    self._fail(error)
                    return True
            self.size += size
            self._flying = size
            self._step(message)
        return True

    @property
    def blocked(self) -> bool:
        """Whether the connection takes nothing at the moment."""
        return self.paused or self._task is not None

    def flush(self) -> None:
        """Write the events that wait, unless a write is under way or the connection is full."""
        while self._pending and self._task is None and not self.paused:
            self._write(self._take(), more_body=True)

    async def drain(self) -> None:
        """Wait until less than ``HIGH_WATER`` bytes wait, or the client is gone.

        Other tasks run meanwhile, also where there is nothing to wait for.
        """
        self.flush()
        if self.size < HIGH_WATER or self.gone:
            # Let other tasks run. Otherwise a stream that is never blocked would keep them all
            # waiting.
            await asyncio.sleep(0)
        while self.size >= HIGH_WATER and not self.gone:
            await self._progress()

    async def finish(self) -> None:
        """Write the events that wait, then end the response; return also when the client leaves meanwhile."""
        while (self._task is not None or self.paused) and not self.gone:
            await self._progress()
        if self.gone or self._ended:
            return
        self._ended = True
        self._server.detach()
        self._write(self._take(), more_body=False)
        while self._task is not None and not self.gone:
            await self._progress()

    def bytes_taken(self) -> int | None:
        """Return how many bytes the client has taken so far; ``None`` when no byte is on its way.

        Where the server does not tell, the bytes that the server has taken count.
        """
        left = self._server.unsent()
        if not left and not self.blocked:
            return None
        return self.written - (left or 0)

    def abort(self) -> None:
        """Drop the events that wait, and close the connection without waiting for the client."""
        if not self.gone:
            self.abandon()
            self._server.abort()

    def abandon(self) -> None:
        """Drop the events that wait, since the client is gone; ``drain()`` returns."""
        if self.gone:
            return
        self.gone = True
        self._pending.clear()
        self.size = self._flying
        self._server.detach()
        if self._task is not None:
            self._task.cancel()
        self._tell()

    async def aclose(self) -> None:
        """Abandon the connection, and wait for the end of the write that was under way."""
        self.abandon()
        if self._task is not None:
            await asyncio.wait([self._task])

    # The server calls these.

    def pause(self) -> None:
        """Note that the connection is full."""
        self.paused = True

    def resume(self) -> None:
        """Note that the connection takes more, and write the events that wait."""
        self.paused = False
        self._go_on()

    # One write.

    def _on_turn(self) -> None:
        self._scheduled = False
        self.flush()

    def _take(self) -> bytes:
        pending = self._pending
        body = pending[0] if len(pending) == 1 else b"".join(pending)
        pending.clear()
        self._flying = len(body)
        return body

    def _write(self, body: bytes, *, more_body: bool) -> None:
        self._step(body_message(body, more_body=more_body))

    def _step(self, message: dict[str, Any]) -> None:
        try:
            sending: Any = self._send(message)
            if self._server.is_done(sending):
                self._landed()
                return
            waiting_for = step(sending) if self._steppable else None
        except Exception as error:
            # Catch the error here, so that the other connections still get the same bytes.
            self._fail(error)
            return
        if self._steppable:
            if waiting_for is None:
                self._landed()
                return
            sending = Rest(sending, waiting_for)
        if not asyncio.iscoroutine(sending):
            sending = _await(sending)
        # A coroutine is not wrapped in another: the inner one would never be awaited, which Python
        # warns of, if the task is cancelled before its first step. Keep a reference to the task,
        # because a task without one may be collected while it runs.
        self._task = self._loop.create_task(sending)
        self._task.add_done_callback(self._on_written)

    def _on_written(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
        self._landed()
        self._go_on()

    def _fail(self, error: BaseException) -> None:
        self.abandon()
        if self.on_failed is not None:
            self.on_failed(error)

    def _go_on(self) -> None:
        self.flush()
        if self.on_ready is not None and not self.blocked:
            self.on_ready()
        self._tell()

    def _landed(self) -> None:
        self.size -= self._flying
        self.written += self._flying
        self._flying = 0

    async def _progress(self) -> None:
        waiter = self._loop.create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        await waiter

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)


def body_message(body: bytes, *, more_body: bool = True) -> dict[str, Any]:
    """Return the ASGI message of a piece of a response's body."""
    return {"type": "http.response.body", "body": body, "more_body": more_body}


def frame(data: bytes) -> bytes:
    """Return ``data`` as one chunk of a chunked response (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _await(sending: Any) -> None:
    await sending
