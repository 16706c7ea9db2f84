"""Wait for conditions of which nothing notifies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait until the condition is true; raise ``TimeoutError`` after 5 seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - other threads and tasks tell nobody
            await asyncio.sleep(0.01)
