"""The timers of one stream: when its user is checked again, and when its time is over."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from typing import Any

from .tasks import stop


class Deadlines:
    """A repeated check and one last moment, for a stream that has either of them.

    All methods belong to the stream's event loop; times are in seconds of its clock.
    """

    __slots__ = ("_check", "_checking", "_context", "_last_moment", "_loop", "_next_check")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: contextvars.Context | None
    ) -> None:
        """Begin without timers; checks run in ``context``."""
        self._loop = loop
        self._context = context
        self._check: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._next_check: asyncio.TimerHandle | None = None
        self._last_moment: asyncio.TimerHandle | None = None

    def check_every(self, period: float, check: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``check()`` in a task every ``period`` seconds, one at a time.

        The first check comes after a random part of the period, so that the checks of many streams
        are spread.
        """
        self._check = check
        first = period * random.random()  # noqa: S311 - spreads load
        self._next_check = self._loop.call_later(first, self._begin_check, period)

    def end_at(self, moment: float, end: Callable[[], None]) -> None:
        """Call ``end()`` at ``moment``, and no longer at one that was set before."""
        if self._last_moment is not None:
            self._last_moment.cancel()
        self._last_moment = self._loop.call_at(moment, end)

    def cancel(self) -> None:
        """Cancel the timers. A check that runs goes on."""
        for timer in (self._next_check, self._last_moment):
            if timer is not None:
                timer.cancel()

    async def aclose(self) -> None:
        """Cancel the timers and the check that runs, and wait for its end."""
        self.cancel()
        if self._checking is not None:
            await stop(self._checking)
        self._check = self._checking = None

    def _begin_check(self, period: float) -> None:
        assert self._check is not None
        self._next_check = self._loop.call_later(period, self._begin_check, period)
        if self._checking is None or self._checking.done():
            self._checking = self._loop.create_task(self._check(), context=self._context)
