"""Ending tasks, and being ended, without leaving anything behind."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import CoroutineType
from typing import Any

#: Seconds that a stream takes to end once its server has cancelled it.
GOODBYE_SECONDS = 1.0


def forgive_cancellation() -> None:
    """Take note of a cancellation of the current task that is not passed on."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


#: Seconds that a cancelled task has to clean up before it is cancelled again.
PATIENCE_SECONDS = 10.0
#: How often a task is cancelled again that does not end.
ATTEMPTS = 3


#: The same, while the process ends.
LAST_PATIENCE = 0.3


async def stop(task: asyncio.Task[Any], patience: float | None = None) -> bool:
    """Cancel a task and wait for its end; return whether it came.

    A task may swallow a cancellation, and client libraries do at the wrong moment. It is cancelled
    again after ``patience`` (``PATIENCE_SECONDS``), since it may be cleaning up, and left to itself
    in the end.
    """
    patience = PATIENCE_SECONDS if patience is None else patience
    task.cancel()
    await settle(task, patience)
    for _ in range(ATTEMPTS):
        if not task.done():
            task.cancel()
            await settle(task, min(patience, GOODBYE_SECONDS))
    return task.done()


async def settle(task: asyncio.Task[Any], patience: float | None = None) -> None:
    """Wait for a task's end, for ``patience`` seconds at the most.

    A cancellation meanwhile does not leave here, but makes it urgent: the task then has ``GOODBYE_SECONDS`` to
    end by itself, is cancelled, and waited for as long again. Passed on at once, the cancellation
    would reach a task that has not begun: whatever this one had to clean up would stay.
    """
    loop = asyncio.get_running_loop()
    end = None if patience is None else loop.time() + patience
    deadline: float | None = None
    cancelled = False
    while not task.done():
        try:
            until = end if deadline is None else deadline
            await asyncio.wait([task], timeout=None if until is None else until - loop.time())
        except asyncio.CancelledError:
            forgive_cancellation()
            deadline = deadline or loop.time() + GOODBYE_SECONDS
        if deadline is None and end is not None and loop.time() >= end:
            return
        if deadline is not None and loop.time() >= deadline:
            if cancelled:
                return
            cancelled = task.cancel()
            deadline = loop.time() + GOODBYE_SECONDS


def step(coroutine: CoroutineType[Any, Any, None]) -> Any:
    """Run ``coroutine`` up to where it blocks; return what it waits for, or ``None`` at its end."""
    try:
        return coroutine.send(None)
    except StopIteration:
        return None


class Rest:
    """Awaits the rest of a coroutine that was stepped and has blocked on ``waiting_for``."""

    __slots__ = ("_coroutine", "_waiting_for")

    def __init__(self, coroutine: CoroutineType[Any, Any, None], waiting_for: Any) -> None:
        self._coroutine = coroutine
        self._waiting_for = waiting_for

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine, waiting_for = self._coroutine, self._waiting_for
        try:
            while True:
                try:
                    # The future still carries the mark of its first await, as a task expects.
                    value = yield waiting_for
                except BaseException as error:
                    waiting_for = coroutine.throw(error)
                else:
                    waiting_for = coroutine.send(value)
        except StopIteration:
            return
