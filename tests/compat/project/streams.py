"""The streams of the bench."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import IsAuthenticated

from django_sse import SSEView

#: How streams have ended: name and reason.
ended: list[tuple[str, str | None]] = []


class Boom(Exception):
    """What the failing stream raises."""


class Remembered(SSEView):
    """A stream whose end is written down."""

    async def disconnect(self) -> None:
        ended.append((type(self).__name__, self.close_reason))


class Open(Remembered):
    """Open to all: what the project's default policies ask for is not asked here."""

    authentication_classes: list[Any] = []
    permission_classes: list[Any] = []
    topics = ["news"]


class Private(Remembered):
    """For users, with the authentication of the settings."""

    permission_classes = [IsAuthenticated]
    topics = ["news"]

    async def snapshot(self) -> None:
        await self.send({"user": self.user.get_username()}, event="snapshot")


class Failing(Open):
    """Raises after its first event."""

    topics: list[str] = []

    async def stream(self) -> None:
        await self.send("first")
        raise Boom("The stream failed on purpose.")
