"""Fixtures for tests that send requests through Django's handler, without a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.cache import cache

from django_sse.asgi import get_asgi_application
from tests.project import journal


@pytest.fixture
def recorded(settings: Any) -> Callable[..., list[dict[str, Any]]]:
    """What the streams of this test have recorded."""
    journal.entries.clear()
    return journal.recorded


@pytest.fixture
def application(
    settings: Any,
    recorded: Callable[..., list[dict[str, Any]]],
) -> Callable[..., Any]:
    """``application(MIDDLEWARE=[…])`` makes that of ``tests.project``, with these settings.

    Tests that need the database ask for it besides: a stream of itself does not. A ``"…"`` in
    ``MIDDLEWARE`` stands for the project's own.
    """
    project = list(settings.MIDDLEWARE)
    cache.clear()

    def make(**changes: Any) -> Any:
        changes = {
            "ROOT_URLCONF": "tests.project.urls",
            "DJANGO_SSE": {"HEARTBEAT": None},
            "DEBUG": False,
        } | changes
        middleware = changes.get("MIDDLEWARE", ["…"])
        changes["MIDDLEWARE"] = [
            path for given in middleware for path in (project if given == "…" else [given])
        ]
        for name, value in changes.items():
            setattr(settings, name, value)
        return get_asgi_application()

    return make


@pytest.fixture
async def ada(transactional_db: None) -> User:
    """A user without special rights."""
    return await sync_to_async(User.objects.create_user)("ada", password="secret")
