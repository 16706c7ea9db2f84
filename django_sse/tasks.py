"""Ending tasks, and being ended, without leaving anything behind."""

from __future__ import annotations

import asyncio
from typing import Any

#: Seconds that a stream takes to end once its server has cancelled it.
GOODBYE_SECONDS = 1.0


def forgive_cancellation() -> None:
    """Take note of a cancellation of the current task that is not passed on."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


async def stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await settle(task)


async def settle(task: asyncio.Task[Any]) -> None:
    """Wait for a task's end. A cancellation meanwhile does not leave here, but makes it urgent.

    The task then has ``GOODBYE_SECONDS`` to end by itself, is cancelled, and waited for as long
    again. Passed on at once, the cancellation would reach a task that has not begun: whatever
    this one had to clean up would stay.
    """
    loop = asyncio.get_running_loop()
    deadline: float | None = None
    cancelled = False
    while not task.done():
        try:
            timeout = None if deadline is None else deadline - loop.time()
            await asyncio.wait([task], timeout=timeout)
        except asyncio.CancelledError:
            forgive_cancellation()
            deadline = deadline or loop.time() + GOODBYE_SECONDS
        if deadline is not None and loop.time() >= deadline:
            if cancelled:
                return
            cancelled = task.cancel()
            deadline = loop.time() + GOODBYE_SECONDS
