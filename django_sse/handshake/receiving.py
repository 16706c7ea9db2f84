"""A ``receive()`` that may be cancelled, around a server's that may not."""

from __future__ import annotations

import asyncio
from typing import Any

from django_sse.connection.tasks import GOODBYE_SECONDS, settle
from django_sse.servers.base import Receive


class PendingReceive:
    """A ``receive()`` whose callers may be cancelled. The call of the server's goes on for the next caller."""

    __slots__ = ("_receive", "_task")

    def __init__(self, receive: Receive) -> None:
        """Take the server's own ``receive``."""
        self._receive = receive
        self._task: asyncio.Task[Any] | None = None

    async def __call__(self) -> Any:
        """Return the server's next message; a cancelled call loses none. One call at a time."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._wait())
        await asyncio.wait([self._task])
        task, self._task = self._task, None
        return task.result()

    async def aclose(self) -> None:
        """Cancel the server's call; only after the end of the response, when that harms nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # The application is at its end, and must not raise a cancellation that comes now.
            await settle(task, GOODBYE_SECONDS)
            if task.done() and not task.cancelled():
                task.exception()

    async def _wait(self) -> Any:
        return await self._receive()
