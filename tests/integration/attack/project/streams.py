"""Streams that leave much to whoever asks."""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.permissions import BasePermission, IsAuthenticated

from django_sse import SSEView
from django_sse.tickets import TicketAuthentication


class Topical(SSEView):
    """Follow whatever topic the address names."""

    async def get_topics(self) -> list[str]:
        return [self.kwargs["topic"]]


class OwnOnly(BasePermission):
    """Let users follow what is theirs."""

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(view.kwargs["topic"] == f"of:{request.user.username}")


class Private(Topical):
    """Follow topics that are somebody's own."""

    authentication_classes = [SessionAuthentication, TokenAuthentication]
    permission_classes = [OwnOnly]


class Ticketed(Topical):
    authentication_classes = [TicketAuthentication]
    permission_classes = [IsAuthenticated]


class Echo(SSEView):
    """Say what the client says that it has seen."""

    async def stream(self) -> None:
        await self.send({"last_event_id": self.last_event_id})
        await asyncio.Event().wait()


class Ticking(SSEView):
    """Send without end, and clean up."""

    async def stream(self) -> None:
        while True:
            await self.send("tick " * 50, event="tick")
            await asyncio.sleep(0.002)

    async def disconnect(self) -> None:
        await asyncio.sleep(0.001)


class Flood(SSEView):
    """Send more than any client takes."""

    async def stream(self) -> None:
        while True:
            await self.send("x" * 65536)


class Hesitant(Topical):
    """Take a while in every hook, so that clients leave in each of them."""

    async def connect(self) -> None:
        await asyncio.sleep(0.01)
        await sync_to_async(User.objects.count)()

    async def snapshot(self) -> None:
        await self.send(await sync_to_async(User.objects.count)())
        await asyncio.sleep(0.01)

    async def disconnect(self) -> None:
        await sync_to_async(User.objects.count)()


class Headers(SSEView):
    """Put what the client says into a header."""

    async def connect(self) -> None:
        self.headers["X-Given"] = self.request.GET["value"]

    async def stream(self) -> None:
        await self.send("open")


class Posting(SSEView):
    """Is opened by POST."""

    http_method_names = ["post"]
    authentication_classes = [SessionAuthentication]

    async def stream(self) -> None:
        await self.send({"user": self.user.get_username(), "data": self.request.data})


class Chat(SSEView):
    """Pass on what its group is told."""

    groups = ["room"]

    async def stream(self) -> None:
        await self.send("joined")
        await asyncio.Event().wait()

    async def chat_said(self, message: Any) -> None:
        await self.send(message["text"], event="said")

    async def _secret(self, message: Any) -> None:
        await self.send("secret")

    def plain(self, message: Any) -> None:
        raise AssertionError("A message has called what is no handler.")
