"""The end of a process: every stream is told, and ends before its server has to kill it.

The first request for a stream hooks SIGTERM and SIGINT, in front of whatever handles them; nothing
is hooked by importing, nor in processes that serve no stream. Hypercorn's workers get no signal, and
are asked. Servers that cancel applications instead (Daphne) are served by the stream itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from contextvars import Context
from types import FrameType
from typing import Any

from .conf import conf
from .flow_control import Send, ending
from .roster import roster

logger = logging.getLogger("django_sse")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """Knows whether the process ends, and ends its streams on every event loop that has some."""

    def __init__(self) -> None:
        #: Each with the task that waits for its server's word, where there is one to wait for.
        self._loops: dict[asyncio.AbstractEventLoop, asyncio.Task[None] | None] = {}
        self._previous: dict[int, Any] = {}
        self._pid = os.getpid()
        #: Whether new streams are refused, since the process ends.
        self.draining = False

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the streams of ``loop`` know of the process's end; called as a handshake begins."""
        if loop not in self._loops:
            others = {it: task for it, task in self._loops.items() if not it.is_closed()}
            self._loops = {**others, loop: None}
            self._hook()

    def ask(self, loop: asyncio.AbstractEventLoop, send: Send) -> None:
        """Wait for the word of a server that tells by itself; called as a stream begins."""
        if self._loops.get(loop) is None and (sign := ending(send)) is not None:
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
                self._previous[number] = current
                signal.signal(number, self._on_signal)

    def begin(self) -> None:
        """Refuse new streams, and end those that are open. Safe in a signal handler."""
        self.draining = True
        for loop in self._loops:
            try:
                loop.call_soon_threadsafe(self._drain, loop)
            except RuntimeError:
                logger.debug("An event loop was closed before its process ended.")

    def start(self) -> None:
        """Take streams again: a server starts in this process, where another one has ended."""
        self.draining = False

    async def _heed(self, sign: Any) -> None:
        await sign.wait()
        self.begin()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.begin()
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        else:
            # What would have happened without us: the process ends, by this signal.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        deadline = loop.time() + conf.drain_seconds
        for stream in roster.streams():
            if stream.event_loop is loop:
                stream.shut_down(deadline)


shutdown = Shutdown()
