"""Streams that follow whatever topics their address names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from django.contrib.auth.models import User
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from django_sse import ServerSentEvent, SSEView


class Numbers(SSEView):
    """Follow ``?topics=a,b``; the snapshot is one event, which says that it is one."""

    async def get_topics(self) -> list[str]:
        return str(self.request.GET["topics"]).split(",")

    async def snapshot(self) -> AsyncIterator[ServerSentEvent]:
        await asyncio.sleep(float(self.request.GET.get("delay", 0)))
        yield ServerSentEvent("everything so far", event="snapshot")


class Forgetful(Numbers):
    """Tell a slow client how much it did not get."""

    overflow = "drop_oldest"


class Newest(Numbers):
    """Give a slow client the newest of each key."""

    overflow = "latest"


class ByNumber(BaseAuthentication):
    """Believe the client who it is: ``?user=7``."""

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        number = request.GET.get("user")
        return None if number is None else (User(pk=int(number), username=number), None)


class Room(Numbers):
    """Show who is there."""

    presence = True
    authentication_classes = [ByNumber]
