"""What is said of a server whose connections streams may take all of."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import resource
import sys
from typing import Any

import pytest

from django_sse.connection import capacity
from django_sse.connection.capacity import compare_limits, granians_backpressure
from tests.support.connections import held, under_hypercorn, under_uvicorn


@pytest.mark.parametrize(
    ("arguments", "environment", "number"),
    [
        (["/venv/bin/granian", "app:app"], {}, 1024),
        (["/venv/lib/granian/__main__.py", "--workers", "4", "app:app"], {}, 256),
        (["granian", "--backlog", "128"], {}, 128),
        (["granian", "--backlog=2048", "--workers=2"], {"GRANIAN_BACKLOG": "128"}, 1024),
        (["granian"], {"GRANIAN_BACKLOG": "128", "GRANIAN_WORKERS": "200"}, 1),
        (["granian", "--backpressure", "300", "--workers", "4"], {}, 300),
        (["granian"], {"GRANIAN_BACKPRESSURE": "50"}, 50),
        (["granian", "--workers", "many"], {}, None),
        (["granian", "--workers"], {}, None),
        (["manage.py", "serve"], {}, None),
    ],
)
def test_granians_number_is_read_from_how_it_was_started(
    arguments: list[str], environment: dict[str, str], number: int | None
) -> None:
    assert granians_backpressure(arguments, environment) == number


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
            compare_limits(application.send)
            compare_limits(application.send)
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
            compare_limits(it)
    assert caplog.records == []


async def test_granians_number_is_compared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(capacity, "is_granians", lambda send: True)
    for arguments, records in ((["granian"], 1), (["manage.py"], 1)):
        monkeypatch.setattr(capacity, "_compared_in", set())
        monkeypatch.setattr("sys.argv", arguments)
        compare_limits(object())  # type: ignore[arg-type]
        assert len(caplog.records) == records
    assert "wait without an answer" in caplog.text
