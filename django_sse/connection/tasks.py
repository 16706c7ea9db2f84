"""Tasks and coroutines: end them without leaving anything behind, or run one without a task."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import CoroutineType
from typing import Any

#: Seconds that a stream may take to end once its server has cancelled it.
GOODBYE_SECONDS = 1.0


def forgive_cancellation() -> None:
    """Mark a cancellation of the current task as handled, where it is not raised again."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


#: Seconds that a cancelled task may take to clean up before it is cancelled again.
PATIENCE_SECONDS = 10.0
#: How often a task that does not end is cancelled again.
ATTEMPTS = 3


#: The same as ``PATIENCE_SECONDS``, while the process ends.
LAST_PATIENCE = 0.3


async def stop(
    task: asyncio.Task[Any],
    patience: float | None = None,
    *,
    until: asyncio.Future[Any] | None = None,
) -> bool:
    """Cancel a task and wait for its end; return whether it has ended.

    A task may swallow a cancellation; client libraries do so at the wrong moment. Therefore it is
    cancelled again, first after ``patience`` seconds (``PATIENCE_SECONDS`` by default), since it
    may be cleaning up. After ``ATTEMPTS`` more cancellations it is left to itself.

    With ``until``, the same holds for the part of the task that ends when this future is done. The
    rest of the task is not cancelled.
    """
    patience = PATIENCE_SECONDS if patience is None else patience
    part = task if until is None else until
    for attempt in range(1 + ATTEMPTS):
        if not part.done():
            task.cancel()
            await settle(part, patience if attempt == 0 else min(patience, GOODBYE_SECONDS))
    return part.done()


async def settle(task: asyncio.Future[Any], patience: float | None = None) -> None:
    """Wait for a task's end, for ``patience`` seconds at most.

    A cancellation meanwhile is not raised, but makes the wait urgent: the task then has
    ``GOODBYE_SECONDS`` to end by itself, is cancelled, and has the same time once more. If the
    cancellation were passed on at once, it could reach a task that has not begun, and what the task
    had to clean up would stay.
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
    """Run ``coroutine`` up to where it blocks, without a task.

    Returns the future that it waits for, or ``None`` when it has ended.
    """
    try:
        return coroutine.send(None)
    except StopIteration:
        return None


class Rest:
    """Awaits the rest of a coroutine that ``step()`` has run up to where it waits for ``waiting_for``."""

    __slots__ = ("_coroutine", "_waiting_for")

    def __init__(self, coroutine: CoroutineType[Any, Any, None], waiting_for: Any) -> None:
        """Take a coroutine that waits for the future ``waiting_for``."""
        self._coroutine = coroutine
        self._waiting_for = waiting_for

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait for the future, and run the coroutine to its end."""
        coroutine, waiting_for = self._coroutine, self._waiting_for
        try:
            while True:
                try:
                    # A task expects the mark that the first await left on the future; it is still
                    # there.
                    value = yield waiting_for
                except BaseException as error:
                    waiting_for = coroutine.throw(error)
                else:
                    waiting_for = coroutine.send(value)
        except StopIteration:
            return
