"""The shop's streams."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import TypedDict

from django.utils import timezone
from rest_framework.permissions import IsAuthenticated

from django_sse import Heartbeat, ServerSentEvent, SSEView

from .models import Customer, Order, Product
from .serializers import PromptSerializer


class Serialization(SSEView):
    """Send two objects, each through the serializer of its type, and end."""

    events = {None: Customer | Product}

    async def stream(self) -> None:
        await self.send(Customer(0, "Jet", "Brains"))
        await self.send(Product(0, "Keyboard", [100, 200]))


class Time(TypedDict):
    """The data of a tick of the clock."""

    time: datetime


class Clock(SSEView):
    """Send the time every second, for ever."""

    events = {"tick": Time, "heartbeat": str}
    heartbeat = Heartbeat(period=5, event={"event": "heartbeat", "data": "still here"})

    async def stream(self) -> AsyncIterator[ServerSentEvent]:
        while True:
            now = timezone.localtime()
            yield ServerSentEvent({"time": now}, event="tick", id=str(int(now.timestamp())))
            # Wait until the next full second, so that the clock does not drift.
            await asyncio.sleep(1 - timezone.now().microsecond / 1_000_000)


class Orders(SSEView):
    """Send the newest orders, then each order as it is created or changed.

    ``signals.py`` publishes each order, whether the page, the admin, a shell or (with the database
    or Redis as the broker) another process has saved it.
    """

    permission_classes = [IsAuthenticated]
    recheck_period = 5  # seconds: the stream of a user who has logged out ends
    topics = ["orders"]
    events = {"snapshot": Order, "created": Order, "changed": Order}
    newest = 8  # orders in the snapshot

    async def snapshot(self) -> AsyncIterator[ServerSentEvent]:
        orders = Order.objects.select_related("customer", "product").order_by("-pk")
        for order in reversed([order async for order in orders[: self.newest]]):
            yield ServerSentEvent(order, event="snapshot")


class Token(TypedDict):
    """A word of the answer, and the space behind it."""

    token: str


class Generate(SSEView):
    """Send a prompt back word by word, as a language model's answer arrives."""

    events = {None: Token | str}  # the text is [DONE]
    http_method_names = ["post", "options"]
    serializer_class = PromptSerializer  # for the form of the stream's page
    pause = 0.08  # seconds between two words

    async def connect(self) -> None:
        prompt = self.serializer_class(data=self.request.data)
        prompt.is_valid(raise_exception=True)
        self.prompt: str = prompt.validated_data["prompt"]

    async def stream(self) -> None:
        # Each word keeps the space behind it, so that the joined tokens are the prompt.
        for token in re.findall(r"\S+\s*", self.prompt):
            await self.send({"token": token})
            await asyncio.sleep(self.pause)
        await self.send("[DONE]")
