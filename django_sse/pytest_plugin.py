"""Fixtures for the tests of projects that use ``django_sse``; loaded by pytest on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .testing import Published, StreamClient


@pytest.fixture
def sse_connect() -> Callable[..., AbstractAsyncContextManager[StreamClient]]:
    """``async with sse_connect("/orders/", user=user) as stream:`` — by the project's application.

    Takes what ``django_sse.testing.connect()`` does, without the application.
    """
    # Loaded only when a test asks for it: the plugin is active in projects without Django too.
    from .testing import connect, project_application  # noqa: PLC0415

    def start(path: str, **kwargs: Any) -> AbstractAsyncContextManager[StreamClient]:
        return connect(project_application(), path, **kwargs)

    return start


@pytest.fixture
def sse_published() -> Iterator[list[Published]]:
    """The list of what the test published so far; no broker need run.

    Each is a ``django_sse.testing.Published``: ``topics``, ``event`` (a ``ServerSentEvent``),
    ``key``.
    """
    from .testing import capture_published  # noqa: PLC0415

    with capture_published() as published:
        yield published
