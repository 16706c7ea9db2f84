"""The shutdown of a process: every stream ends in time, before its server has to kill it.

The first request for a stream hooks SIGTERM and SIGINT, in front of their present handlers.
Importing hooks nothing, and neither does a process that serves no stream. A server that ends
without a signal, such as a worker of Hypercorn, is asked for its end. Where a server cancels its
applications (Daphne), the stream itself handles that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import threading
import time
from contextvars import Context
from types import FrameType
from typing import Any, Protocol

from django_sse.conf import conf
from django_sse.servers.base import Server

from .roster import roster

logger = logging.getLogger("django_sse")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: The least and the longest time, in seconds, after which a client is told to reconnect. Each gets
#: a time of its own, so that they do not all come back at once.
COME_BACK_SECONDS = (1.0, 5.0)


def come_back_milliseconds() -> int:
    """Return a reconnection time in milliseconds, at random within ``COME_BACK_SECONDS``."""
    low, high = COME_BACK_SECONDS
    return round(random.uniform(low, high) * 1000)  # noqa: S311 - spreads load


class Ending(Protocol):
    """Work that ends with the process besides its streams, as jobs do."""

    def __len__(self) -> int:
        """Return how many streams, or jobs, have not ended yet."""

    def end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to end the streams, or jobs, of an event loop, on which it is called."""

    async def settle(self) -> None:
        """Wait for the end of the streams, or jobs, of the running event loop."""


class Shutdown:
    """Knows whether the process is shutting down, and ends the streams of all its event loops."""

    def __init__(self) -> None:
        """Begin without event loops; nothing is hooked yet."""
        #: The event loops with streams, each with the task that waits for its server's end, if
        #: there is one.
        self._loops: dict[asyncio.AbstractEventLoop, asyncio.Task[None] | None] = {}
        #: For each signal, the handlers that it had when it was hooked, the oldest first. There are
        #: several where a library hooked the signal after us, and we hooked it again.
        self._previous: dict[int, list[Any]] = {}
        self._depth = 0
        self._deadline = 0.0
        # Whether a signal is to end the process once its streams have ended.
        self._ending = False
        self._pid = os.getpid()
        #: Whether the process is shutting down; new streams are refused then.
        self.draining = False
        #: Other work of the process that ends with its streams.
        self.also: list[Ending] = []

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the streams of ``loop`` when the process shuts down; called as a handshake begins."""
        if loop not in self._loops:
            others = {it: task for it, task in self._loops.items() if not it.is_closed()}
            self._loops = {**others, loop: None}
            self._hook()

    def ask(self, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        """Wait for the end of a server that ends without a signal; called as a stream begins."""
        if self._loops.get(loop) is None and (sign := server.ending()) is not None:
            self._loops[loop] = loop.create_task(self._heed(sign), context=Context())

    def _hook(self) -> None:
        # Only the main thread may set signal handlers. Where streams run in another thread, as in
        # runserver with its reloader, the main thread ends the process, and its streams with it at
        # once.
        if threading.current_thread() is not threading.main_thread():
            return
        if self._pid != os.getpid():
            # This is a forked worker. Its server has set its handlers after the fork.
            self._pid, self._previous, self.draining = os.getpid(), {}, False
        for number in _SIGNALS:
            current = signal.getsignal(number)
            # None stands for a handler that Python did not set, and could not call. A process that
            # ignores the signal lives on, and so do its streams.
            if current not in (None, signal.SIG_IGN, self._on_signal):
                handlers = self._previous.setdefault(number, [])
                if current not in handlers:
                    handlers.append(current)
                signal.signal(number, self._on_signal)

    def begin(self) -> None:
        """Refuse new streams, and end the open ones. Safe in a signal handler."""
        if not self.draining:
            self._deadline = time.monotonic() + conf.drain_seconds
        self.draining = True
        for loop in self._loops:
            try:
                loop.call_soon_threadsafe(self._drain, loop)
            except RuntimeError:
                logger.debug("An event loop was closed before its process ended.")

    def seconds_left(self) -> float | None:
        """Return how many seconds streams have left to end; ``None`` while the process does not shut down."""
        return max(self._deadline - time.monotonic(), 0.1) if self.draining else None

    def start(self) -> None:
        """Accept streams again: a server starts in a process where another one has ended."""
        self.draining = False

    async def _heed(self, sign: Any) -> None:
        await sign.wait()
        self.begin()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.begin()
        handlers = self._previous.get(number) or [signal.SIG_DFL]
        current = signal.getsignal(number)
        if current in handlers:
            # This handler was hooked over us again, and it has called us: do not call it back.
            handlers = [handler for handler in handlers if handler != current]
        if self._depth >= len(handlers):
            return
        # Where a handler that was hooked over us calls us, pass on to the one before it.
        previous = handlers[-1 - self._depth]
        if not callable(previous):
            self._end_by(number)
            return
        self._depth += 1
        try:
            previous(number, frame)
        finally:
            self._depth -= 1

    def _end_by(self, number: int) -> None:
        """End the process by this signal once its streams have ended: without us, it would have
        ended it at once.

        Hypercorn's parent process ends its workers so, as soon as one of them has ended.
        """
        loop = next((loop for loop in self._loops if loop.is_running()), None)
        if loop is None or not self._busy():
            self._raise(number)
        elif not self._ending:
            # The signal may come again meanwhile, and does not change the deadline.
            self._ending = True
            loop.call_soon_threadsafe(self._raise_when_ended, loop, number)

    def _raise_when_ended(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        if self._busy() and time.monotonic() < self._deadline:
            # Look again soon. Nothing notifies of a stream's end, and this lasts for a second or
            # two.
            loop.call_later(0.02, self._raise_when_ended, loop, number)
        else:
            self._raise(number)

    def _busy(self) -> bool:
        return len(roster) > 0 or any(len(other) for other in self.also)

    async def settle(self) -> None:
        """Wait for what ends with the running event loop besides its streams."""
        for other in self.also:
            await other.settle()

    def _raise(self, number: int) -> None:
        self._ending = False
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        for other in self.also:
            other.end(loop)
        deadline = loop.time() + conf.drain_seconds
        for stream in roster.streams():
            if stream.event_loop is loop:
                try:
                    stream.shut_down(deadline)
                except Exception:
                    logger.exception(
                        "%s could not be told of the shutdown.", type(stream).__qualname__
                    )


shutdown = Shutdown()
