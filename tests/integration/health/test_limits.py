"""How many streams there may be, and how those above the limit come back."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User

from django_sse.asgi import get_asgi_application
from django_sse.testing import connect
from tests.support.browser import open_page
from tests.support.http_client import Client

from .conftest import Serve

#: Seconds in which a browser has come back: it is told up to 5, and adds some of its own.
BACK = 20

BROWSER = {"Accept": "text/event-stream"}
OTHER = {"Accept": "*/*"}


@pytest.fixture
def application(settings: Any) -> Any:
    settings.ROOT_URLCONF = "tests.integration.health.project.urls"
    return get_asgi_application()


async def _assert_refused(application: Any, path: str, status: int, user: Any = None) -> None:
    async with connect(application, path, headers=BROWSER, user=user) as stream:
        # An EventSource would take any other status for final.
        assert stream.status_code == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store, no-transform"
        await stream.read()
        assert stream.retry is not None
        assert 1000 <= stream.retry <= 5000
        assert [block.data for block in stream.blocks] == [None]
    async with connect(application, path, headers=OTHER, user=user) as stream:
        assert stream.status_code == status
        assert stream.headers["content-type"] == "application/json"
        assert 1 <= int(stream.headers["retry-after"]) <= 5
        assert set(await stream.json()) == {"detail"}


async def test_refusal_that_will_pass_is_neither_compressed_nor_says_so(
    application: Any, settings: Any
) -> None:
    settings.DJANGO_SSE = {"MAX_CONNECTIONS": 1}
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    application = get_asgi_application()
    async with connect(application, "/quiet/"):
        headers = {**BROWSER, "Accept-Encoding": "gzip"}
        async with connect(application, "/quiet/", headers=headers) as stream:
            assert stream.status_code == 200
            assert (await stream.read()).startswith(b"retry: ")
            assert "content-encoding" not in stream.headers


async def test_process_takes_so_many_streams(application: Any, settings: Any) -> None:
    settings.DJANGO_SSE = {"MAX_CONNECTIONS": 2}
    async with connect(application, "/quiet/"):
        async with connect(application, "/quiet/"):
            await _assert_refused(application, "/quiet/", 503)
        async with connect(application, "/quiet/") as stream:
            assert (await stream.receive()).data == "open"


@pytest.mark.django_db(transaction=True)
async def test_user_has_so_many_streams_of_a_view(application: Any) -> None:
    ann = await User.objects.acreate_user("ann")
    bob = await User.objects.acreate_user("bob")
    async with connect(application, "/few/", user=ann):
        await _assert_refused(application, "/few/", 429, ann)
        for path, user in [("/few/", bob), ("/few/", None), ("/quiet/", ann)]:
            async with connect(application, path, user=user) as stream:
                assert (await stream.receive()).data == "open"
    async with connect(application, "/few/", user=ann) as stream:
        assert (await stream.receive()).data == "open"


@pytest.mark.django_db(transaction=True)
async def test_address_has_so_many_anonymous_streams(application: Any, settings: Any) -> None:
    settings.DJANGO_SSE = {"MAX_CONNECTIONS_PER_ADDRESS": 1}
    ann = await User.objects.acreate_user("ann")
    async with connect(application, "/quiet/"):
        await _assert_refused(application, "/few/", 429)
        async with connect(application, "/quiet/", user=ann) as stream:
            assert (await stream.receive()).data == "open"


@pytest.mark.parametrize("path", ["/breaks/", "/breaks-early/", "/breaks-late/", "/refused/"])
async def test_place_is_free_after_a_failure(application: Any, settings: Any, path: str) -> None:
    settings.DJANGO_SSE = {"MAX_CONNECTIONS": 1}
    settings.DEBUG_PROPAGATE_EXCEPTIONS = False
    for _ in range(3):
        with contextlib.suppress(RuntimeError):
            async with connect(application, path, headers=OTHER) as stream:
                assert stream.status_code != 503
                await stream.read()
    async with connect(application, "/quiet/", headers=OTHER) as stream:
        assert (await stream.receive()).data == "open"


async def test_many_who_come_at_once_are_counted(application: Any, settings: Any) -> None:
    settings.DJANGO_SSE = {"MAX_CONNECTIONS": 5}
    leave = asyncio.Event()

    async def one() -> int:
        async with connect(application, "/quiet/", headers=OTHER) as stream:
            if stream.status_code == 200:
                await leave.wait()
            return stream.status_code

    tasks = [asyncio.ensure_future(one()) for _ in range(20)]
    done: set[Any] = set()
    async with asyncio.timeout(10):
        while len(done) < 15:
            finished, _ = await asyncio.wait(set(tasks) - done, return_when=asyncio.FIRST_COMPLETED)
            done |= finished
    leave.set()
    statuses = await asyncio.gather(*tasks)
    assert sorted(statuses) == [200] * 5 + [503] * 15


def test_browser_gets_in_by_itself_when_there_is_room(serve: Serve) -> None:
    server = serve("uvicorn", MAX_CONNECTIONS=2)
    with (
        Client(server.address) as first,
        Client(server.address) as second,
        open_page() as page,
    ):
        for client in (first, second):
            client.request("/quiet/")
            assert client.event().data == "open"
        page.goto(f"{server.url}/inside/")
        page.evaluate(
            """() => {
                window.seen = [];
                window.errors = [];
                const source = new EventSource("/quiet/");
                source.onmessage = event => window.seen.push(event.data);
                source.onerror = () => window.errors.push(source.readyState);
            }"""
        )
        # Told to come back, and still trying.
        page.wait_for_function("window.errors.length >= 2", timeout=BACK * 1000)
        assert page.evaluate("window.seen") == []
        second.close()
        page.wait_for_function("window.seen.length > 0", timeout=BACK * 1000)
        assert page.evaluate("window.seen") == ["open"]
        # EventSource.CONNECTING, each time: never closed for good.
        assert set(page.evaluate("window.errors")) == {0}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("granian", ["--backpressure", "20"]),
        ("uvicorn", ["--limit-concurrency", "20"]),
        ("gunicorn", ["--worker-connections", "20"]),
    ],
)
def test_page_is_answered_where_streams_have_all_that_they_may(
    serve: Serve, name: str, args: list[str]
) -> None:
    server = serve(name, args=args, MAX_CONNECTIONS=10)
    with ExitStack() as stack:
        for _ in range(12):
            client = stack.enter_context(Client(server.address))
            client.request("/quiet/", headers={"Accept": "text/event-stream"})
            assert client.status == 200
        inside = httpx.get(f"{server.url}/inside/", timeout=5).json()
    assert inside["stats"]["open"] == 10
    assert "Streams may take all" not in server.log()


def test_server_that_streams_may_fill_is_told_of(serve: Serve) -> None:
    server = serve("granian", args=["--backlog", "128"])
    with Client(server.address) as client:
        client.request("/quiet/")
        client.event()
    assert "--backlog / --workers) is 128" in server.log()
