"""Streams that query again and again, and pages and a stream that query once."""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection
from django.http import HttpResponse
from django.urls import path
from rest_framework.permissions import BasePermission

from django_sse import SSEView, sse_path


def one(question: str = "SELECT 1") -> Any:
    """Ask the database."""
    with connection.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchone()[0]


class Asked(BasePermission):
    """Asks the database."""

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(one())


class Poll(SSEView):
    """Queries twenty times a second, and is checked again."""

    permission_classes = [Asked]
    recheck_period = 0.5

    async def stream(self) -> None:
        while True:
            await self.send({"n": await sync_to_async(one)()})
            await asyncio.sleep(0.05)


class Backend(SSEView):
    """Tells which process of the database has answered the handshake's query."""

    permission_classes = [Asked]

    async def connect(self) -> None:
        self.backend = await sync_to_async(one)("SELECT pg_backend_pid()")

    async def stream(self) -> None:
        await self.send({"n": self.backend})


def backend(request: Any) -> HttpResponse:
    return HttpResponse(str(one("SELECT pg_backend_pid()")))


def page(request: Any) -> HttpResponse:
    return HttpResponse(str(one()))


urlpatterns = [
    sse_path("poll/", Poll),
    sse_path("backend/stream/", Backend),
    path("backend/", backend),
    path("page/", page),
]
