"""The end of a process: every stream is told, and ends before its server has to kill it.

The first request for a stream hooks SIGTERM and SIGINT, in front of whatever handles them; nothing
is hooked by importing, nor in processes that serve no stream. Hypercorn's workers get no signal, and
are asked. Servers that cancel applications instead (Daphne) are served by the stream itself.
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
from typing import Any

from django_sse.conf import conf
from django_sse.servers.base import Server

from .roster import roster

logger = logging.getLogger("django_sse")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Seconds from which each client is given a time of its own, so that they don't come back at once.
COME_BACK_SECONDS = (1.0, 5.0)


def come_back_milliseconds() -> int:
    """Return a reconnection time in milliseconds, another for each caller."""
    low, high = COME_BACK_SECONDS
    return round(random.uniform(low, high) * 1000)  # noqa: S311 - spreads load


class Shutdown:
    """Knows whether the process ends, and ends its streams on every event loop that has some."""

    def __init__(self) -> None:
        #: Each with the task that waits for its server's word, where there is one to wait for.
        self._loops: dict[asyncio.AbstractEventLoop, asyncio.Task[None] | None] = {}
        #: By signal, whoever handled it when it was hooked, the oldest first: a library may hook it
        #: over us, and be hooked over in its turn.
        self._previous: dict[int, list[Any]] = {}
        self._depth = 0
        self._deadline = 0.0
        # Whether the process is to be ended by a signal once its streams have ended.
        self._ending = False
        self._pid = os.getpid()
        #: Whether new streams are refused, since the process ends.
        self.draining = False

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the streams of ``loop`` know of the process's end; called as a handshake begins."""
        if loop not in self._loops:
            others = {it: task for it, task in self._loops.items() if not it.is_closed()}
            self._loops = {**others, loop: None}
            self._hook()

    def ask(self, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        """Wait for the word of a server that tells by itself; called as a stream begins."""
        if self._loops.get(loop) is None and (sign := server.ending()) is not None:
            self._loops[loop] = loop.create_task(self._heed(sign), context=Context())

    def _hook(self) -> None:
        # Only the main thread may; in others, runserver with its reloader, the process is ended
        # from the main thread, and takes its streams along at once.
        if threading.current_thread() is not threading.main_thread():
            return
        if self._pid != os.getpid():
            # A worker that was forked has its server's handlers, set after the fork.
            self._pid, self._previous, self.draining = os.getpid(), {}, False
        for number in _SIGNALS:
            current = signal.getsignal(number)
            # None: it was not set by Python, which could not call it then. Who ignores a signal
            # lives on after it, and so do its streams.
            if current not in (None, signal.SIG_IGN, self._on_signal):
                handlers = self._previous.setdefault(number, [])
                if current not in handlers:
                    handlers.append(current)
                signal.signal(number, self._on_signal)

    def begin(self) -> None:
        """Refuse new streams, and end those that are open. Safe in a signal handler."""
        if not self.draining:
            self._deadline = time.monotonic() + conf.drain_seconds
        self.draining = True
        for loop in self._loops:
            try:
                loop.call_soon_threadsafe(self._drain, loop)
            except RuntimeError:
                logger.debug("An event loop was closed before its process ended.")

    def seconds_left(self) -> float | None:
        """Return how many seconds streams have left for their end; ``None`` where it is not near."""
        return max(self._deadline - time.monotonic(), 0.1) if self.draining else None

    def start(self) -> None:
        """Take streams again: a server starts in this process, where another one has ended."""
        self.draining = False

    async def _heed(self, sign: Any) -> None:
        await sign.wait()
        self.begin()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.begin()
        handlers = self._previous.get(number) or [signal.SIG_DFL]
        current = signal.getsignal(number)
        if current in handlers:
            # It was hooked over us again, and is who has called us.
            handlers = [handler for handler in handlers if handler != current]
        if self._depth >= len(handlers):
            return
        # Called by one that was hooked over us, we pass on to whoever was there before it.
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
        """Do what would have happened without us, once the streams have ended: end, by this signal.

        Hypercorn's workers are ended so by their parent, as soon as one of them is through.
        """
        loop = next((loop for loop in self._loops if loop.is_running()), None)
        if loop is None or not len(roster):
            self._raise(number)
        elif not self._ending:
            # It may come again meanwhile: there is a deadline, which it does not change.
            self._ending = True
            loop.call_soon_threadsafe(self._raise_when_ended, loop, number)

    def _raise_when_ended(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        if len(roster) and time.monotonic() < self._deadline:
            # Streams tell nobody of their end, and this is the process's last second or two.
            loop.call_later(0.02, self._raise_when_ended, loop, number)
        else:
            self._raise(number)

    def _raise(self, number: int) -> None:
        self._ending = False
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        deadline = loop.time() + conf.drain_seconds
        for stream in roster.streams():
            if stream.event_loop is loop:
                try:
                    stream.shut_down(deadline)
                except Exception:
                    logger.exception("%s could not be told of the end.", type(stream).__qualname__)


shutdown = Shutdown()
