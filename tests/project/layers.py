"""A channel layer with a fault that real ones have."""

from __future__ import annotations

import asyncio
from typing import Any

from channels.layers import InMemoryChannelLayer


class DeafLayer(InMemoryChannelLayer):  # type: ignore[misc] # channels is not typed
    """Swallows a cancellation, as client libraries do when it comes at the wrong moment."""

    async def receive(self, channel: str) -> Any:
        try:
            return await super().receive(channel)
        except asyncio.CancelledError:
            return await super().receive(channel)
