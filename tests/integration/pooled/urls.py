"""Streams that query again and again, and a page that queries once."""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection
from django.http import HttpResponse
from django.urls import path
from rest_framework.permissions import BasePermission

from django_sse import SSEView, sse_path


def one() -> Any:
    """Ask the database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
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


def page(request: Any) -> HttpResponse:
    return HttpResponse(str(one()))


urlpatterns = [sse_path("poll/", Poll), path("page/", page)]
