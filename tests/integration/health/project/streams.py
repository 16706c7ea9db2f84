"""Streams that are ended from without: by servers, limits, clients and those who administer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.permissions import BasePermission, IsAuthenticated

from django_sse import SSEView
from django_sse.tickets import TicketAuthentication
from tests.project.journal import record


class Recorded(SSEView):
    """A stream whose way a test can see."""

    async def disconnect(self) -> None:
        key = self.request.GET.get("key")
        record("disconnect", stream=type(self).__name__, reason=self.close_reason, key=key)


class Quiet(Recorded):
    """Say something, and nothing more until it ends."""

    async def stream(self) -> None:
        await self.send("open")
        await asyncio.Event().wait()


class Pending(Recorded):
    """Send much at once, and then for ever, so that something is always on its way."""

    async def stream(self) -> None:
        self.sent = 0
        try:
            while True:
                await self.send(f"{self.sent} {'x' * 2000}")
                self.sent += 1
                if self.sent % 50 == 0:
                    await asyncio.sleep(0.1)
        finally:
            record("sent", count=self.sent, key=self.request.GET.get("key"))


class Flood(Recorded):
    """Send for ever to whoever takes it, and tell how far it came."""

    async def stream(self) -> None:
        sent = 0
        while True:
            await self.send("x" * 65536)
            sent += 1
            if sent % 16 == 1:
                record("flood", megabytes=sent // 16, key=self.request.GET.get("key"))


class Topical(Recorded):
    """Follow a topic."""

    authentication_classes = [SessionAuthentication, TokenAuthentication]

    async def get_topics(self) -> list[str]:
        return [str(self.kwargs["topic"])]


class Few(Quiet):
    """For one stream per user."""

    max_connections_per_user = 1


class Slowly(BasePermission):
    """Take a while to decide."""

    def has_permission(self, request: Any, view: Any) -> bool:
        record("asked")
        time.sleep(1)
        return True


class Late(Quiet):
    """Decide so late that the process may end meanwhile."""

    permission_classes = [Slowly]


class LateConnect(Quiet):
    """Connect so late that the process may end meanwhile."""

    async def connect(self) -> None:
        record("connect")
        await asyncio.sleep(1)


class LongGoodbye(Quiet):
    """Take a while to clean up."""

    async def disconnect(self) -> None:
        await asyncio.sleep(0.5)
        await super().disconnect()


class MaySee(BasePermission):
    """Let those pass who have the permission ``auth.view_user``."""

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(request.user.has_perm("auth.view_user"))


class Fails(BasePermission):
    """Fail of its own from the second time on."""

    asked = 0

    def has_permission(self, request: Any, view: Any) -> bool:
        record("asked")
        Fails.asked += 1
        if Fails.asked > 1:
            raise RuntimeError("the directory of users is away")
        return True


class Checked(Quiet):
    """For users only, asked again and again."""

    recheck_period = 0.2
    authentication_classes = [SessionAuthentication, TokenAuthentication]
    permission_classes = [IsAuthenticated]


class CheckedPermission(Checked):
    permission_classes = [MaySee]


class CheckedInVain(Checked):
    authentication_classes = []
    permission_classes = [Fails]


class CheckedTicket(Checked):
    authentication_classes = [TicketAuthentication]


class Brief(Quiet):
    """End after half a second, at the latest."""

    max_duration = 0.5


class Breaks(Recorded):
    """Fail in the middle of the stream."""

    async def stream(self) -> None:
        raise RuntimeError("stream() is broken")


class BreaksEarly(Quiet):
    """Fail before the stream."""

    async def connect(self) -> None:
        raise RuntimeError("connect() is broken")


class BreaksLate(Recorded):
    """Fail at the end."""

    async def stream(self) -> None:
        await self.send("done")

    async def disconnect(self) -> None:
        raise RuntimeError("disconnect() is broken")


class Ticketed(Recorded):
    """Tell who the ticket is of, and follow the session where there is no ticket."""

    authentication_classes = [TicketAuthentication, SessionAuthentication]
    permission_classes = [IsAuthenticated]

    async def stream(self) -> AsyncIterator[Any]:
        yield {"user": self.user.get_username(), "auth": self.request.auth, "args": self.kwargs}
        await asyncio.Event().wait()
