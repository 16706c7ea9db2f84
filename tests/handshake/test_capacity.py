"""What is said of a server whose connections streams may take all of."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import resource
import sys
from typing import Any

import pytest

from django_sse.handshake import capacity
from django_sse.handshake.capacity import compare_limits
from django_sse.servers import server_for
from django_sse.servers.granian import Granian
from tests.support.connections import held, under_hypercorn, under_uvicorn


@pytest.mark.parametrize(
    ("limit", "streams", "files", "said"),
    [
        (100, None, None, ["--limit-concurrency is 100, and", "is None. Pages", "with 503"]),
        (100, 100, None, ["--limit-concurrency is 100, and", "is 100. Pages"]),
        (100, 99, None, []),
        (None, None, 10, []),
        (None, 500, 400, ["open files (ulimit -n) is 400", "is 500. Pages", "no connection"]),
        (None, 500, 501, []),
        (None, 500, resource.RLIM_INFINITY, []),
        (None, 500, "Windows", []),
    ],
)
async def test_limits_of_a_server_are_compared_once(
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    caplog: pytest.LogCaptureFixture,
    limit: int | None,
    streams: int | None,
    files: Any,
    said: list[str],
) -> None:
    monkeypatch.setattr(capacity, "_compared_in", set())
    settings.DJANGO_SSE = {"MAX_CONNECTIONS": streams}
    if files == "Windows":
        monkeypatch.setattr(capacity, "resource", None)
    elif files is not None:
        monkeypatch.setattr(resource, "getrlimit", lambda which: (files, files))
    async with held(under_uvicorn) as (application, _):
        protocol = application.send.__self__.transport.get_protocol()
        protocol.limit_concurrency = limit
        with caplog.at_level(logging.WARNING, "django_sse"):
            compare_limits(server_for(application.send, {}))
            compare_limits(server_for(application.send, {}))
    assert len(caplog.records) == bool(said)
    assert all(text in caplog.text for text in said)


def test_module_loads_where_there_is_no_limit_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    spec = importlib.util.spec_from_file_location("django_sse.without_resource", capacity.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module._files_limit() is None


async def test_server_without_a_limit_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def send(message: Any) -> None:
        await asyncio.sleep(0)

    async with held(under_hypercorn) as (application, _):
        for it in (application.send, send):
            monkeypatch.setattr(capacity, "_compared_in", set())
            compare_limits(server_for(it, {}))
    assert caplog.records == []


async def test_granians_number_is_compared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for arguments, records in ((["granian"], 1), (["manage.py"], 1)):
        monkeypatch.setattr(capacity, "_compared_in", set())
        monkeypatch.setattr("sys.argv", arguments)
        compare_limits(Granian(nowhere, {}))
        assert len(caplog.records) == records
    assert "wait without an answer" in caplog.text


async def nowhere(message: Any) -> None:
    """Send nothing."""
