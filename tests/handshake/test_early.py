"""Policies applied, and requests ended, in trips that middleware makes to the thread anyway."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from django.core.cache import cache
from django.core.signals import got_request_exception, request_finished
from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.http import HttpRequest, HttpResponse
from django.urls import get_urlconf, path, reverse
from django.utils.deprecation import MiddlewareMixin
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import IsAuthenticated
from rest_framework.throttling import SimpleRateThrottle

from django_sse import SSEView, aclose_streams, sse_path
from django_sse.asgi import get_asgi_application
from django_sse.connection import request_threads
from django_sse.testing import connect
from django_sse.topics.hub import get_hub
from django_sse.topics.orders import CONTROL

calls: list[str] = []
#: Where the request's synchronous work was done, and its connections to the database.
thread: set[int] = set()
used: list[Any] = []


class User:
    pk = 7
    is_authenticated = True


class Authentication(BaseAuthentication):
    """Finds a user by the query, and notes the thread that it is asked in."""

    def authenticate(self, request: Any) -> Any:
        calls.append("authenticate")
        thread.add(threading.get_ident())
        if "bug" in request.GET:
            raise KeyError("bug")
        return (User(), None) if "known" in request.GET else None

    def authenticate_header(self, request: Any) -> str:
        return "Query"


class Twice(SimpleRateThrottle):
    rate = "2/hour"
    timer = staticmethod(lambda: 0.0)

    def get_cache_key(self, request: Any, view: Any) -> str:
        return "twice"


class Private(SSEView):
    heartbeat = None
    authentication_classes = [Authentication]
    permission_classes = [IsAuthenticated]

    async def connect(self) -> None:
        calls.append("connect")

    async def stream(self) -> None:
        await self.send("open")
        await asyncio.Event().wait()


class Throttled(Private):
    throttle_classes = [Twice]


class OwnDispatch(Private):
    async def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        calls.append("dispatch")
        return await super().dispatch(request, *args, **kwargs)


class OwnSetup(Private):
    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        calls.append("setup")
        super().setup(request, *args, **kwargs)


class Named(Private):
    """Sends the number of its address, by an address of the request's own URLconf."""

    async def stream(self) -> None:
        await self.send(reverse("named", kwargs={"number": self.kwargs["number"]}))


def decorated(view: Callable[..., Awaitable[Any]]) -> Any:
    async def decorator(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        calls.append("decorator")
        if "refuse" in request.GET:
            return HttpResponse(status=418)
        return await view(request, *args, **kwargs)

    decorator.__dict__.update(view.__dict__)  # As functools.wraps() does.
    return decorator


class Open(SSEView):
    heartbeat = None
    authentication_classes: Any = []
    permission_classes: Any = []

    async def stream(self) -> None:
        await self.send("open")
        await asyncio.Event().wait()


urlpatterns = [
    sse_path("private/", Private),
    sse_path("throttled/", Throttled),
    sse_path("dispatch/", OwnDispatch),
    sse_path("setup/", OwnSetup),
    path("decorated/", decorated(Private.as_view())),
    sse_path("open/", Open),
]


class OtherUrls:
    urlpatterns = [sse_path("named/<int:number>/", Named, name="named")]


class Plain(MiddlewareMixin):
    """Shares its trips."""

    def process_request(self, request: HttpRequest) -> None:
        thread.add(threading.get_ident())
        if request.path.startswith("/named/"):
            request.urlconf = OtherUrls  # type: ignore[assignment]
        if "query" in request.GET:
            connection.ensure_connection()
            used.append(connections[DEFAULT_DB_ALIAS])

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> None:
        calls.append("process_view")

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        thread.add(threading.get_ident())
        return response


class Slow(MiddlewareMixin):
    """Knows the user, and lets an order come before the view is called."""

    async def __acall__(self, request: Any) -> Any:
        request.user = User()
        await aclose_streams(user=7)
        for _ in range(10):
            await asyncio.sleep(0)
        return await self.get_response(request)  # type: ignore[misc]


@pytest.fixture
def application(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [f"{__name__}.Plain"]
    only_django_listens(monkeypatch)
    cache.clear()
    for log in (calls, thread, used):
        log.clear()
    return get_asgi_application()


def only_django_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disconnect the receivers of other tests' projects."""
    own = [
        entry
        for entry, receiver in zip(
            request_finished.receivers, request_finished._live_receivers(None)[0], strict=True
        )
        if receiver.__module__.startswith("django.")
    ]
    monkeypatch.setattr(request_finished, "receivers", own)


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads of the pieces of work that threads of requests do."""
    done: list[int] = []
    do = request_threads._do

    def count(call: Any) -> None:
        if call.work is not request_threads.close_all:  # What tests do at their end.
            done.append(threading.get_ident())
        do(call)

    monkeypatch.setattr(request_threads, "_do", count)
    return done


async def hear() -> None:
    """Do what the first stream of a process does, whose policies are not applied early."""
    await get_hub().subscribe([CONTROL])


async def test_a_handshake_with_policies_has_two_trips_to_one_thread(
    application: Any, trips: list[int]
) -> None:
    await hear()
    async with connect(application, "/private/?known") as stream:
        assert (await stream.receive()).data == "open"
        assert len(trips) == 2
        assert set(trips) == thread
        assert len(thread) == 1
        assert calls == ["process_view", "authenticate", "connect"]


async def test_the_first_stream_waits_for_orders_before_its_policies_are_applied(
    application: Any, trips: list[int]
) -> None:
    async with connect(application, "/private/?known") as stream:
        assert (await stream.receive()).data == "open"
        assert calls == ["process_view", "authenticate", "connect"]
        assert len(trips) == 3


async def test_a_handshake_without_policies_and_middleware_has_none(
    application: Any, trips: list[int], settings: Any
) -> None:
    settings.MIDDLEWARE = []
    async with connect(get_asgi_application(), "/open/") as stream:
        assert (await stream.receive()).data == "open"
        assert not trips


@pytest.mark.parametrize("hears", [True, False])
async def test_policies_are_applied_once_and_answer_as_ever(application: Any, hears: bool) -> None:
    if hears:
        await hear()
    async with connect(application, "/private/") as stream:
        assert stream.status_code == 401
        assert stream.headers["WWW-Authenticate"] == "Query"
        assert "not provided" in (await stream.json())["detail"]
    for status in (200, 200, 429):
        async with connect(application, "/throttled/?known") as stream:
            assert stream.status_code == status
    assert calls.count("authenticate") == 4
    assert calls.count("connect") == 2


@pytest.mark.parametrize("hears", [True, False])
async def test_an_error_in_a_policy_is_the_views(application: Any, hears: bool) -> None:
    if hears:
        await hear()
    told: list[str] = []

    def tell(request: HttpRequest, **kwargs: Any) -> None:
        told.append(request.path)

    got_request_exception.connect(tell)
    try:
        async with connect(application, "/private/?bug") as stream:
            assert stream.status_code == 500
    finally:
        got_request_exception.disconnect(tell)
    assert told == ["/private/"]
    assert calls == ["process_view", "authenticate"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/dispatch/?known", ["dispatch", "authenticate", "connect"]),
        ("/setup/?known", ["setup", "authenticate", "connect"]),
        ("/decorated/?known", ["decorator", "authenticate", "connect"]),
        ("/decorated/?known&refuse", ["decorator"]),
    ],
)
async def test_what_a_project_puts_around_the_policies_comes_first(
    application: Any, address: str, expected: list[str]
) -> None:
    await hear()
    async with connect(application, address) as stream:
        assert stream.status_code == (418 if "refuse" in address else 200)
    assert calls == ["process_view", *expected]


@pytest.mark.parametrize("address", ["/private/?known", "/decorated/?known"])
async def test_an_order_that_comes_while_middleware_knows_the_user_ends_the_stream(
    application: Any, settings: Any, address: str
) -> None:
    settings.MIDDLEWARE = [f"{__name__}.Slow", f"{__name__}.Plain"]
    await hear()
    async with connect(get_asgi_application(), address) as stream:
        assert (await stream.receive()).event == "revoked"


@pytest.mark.django_db(transaction=True)
async def test_the_requests_connection_is_closed_as_its_stream_begins(
    application: Any, trips: list[int]
) -> None:
    await hear()
    async with connect(application, "/private/?known&query") as stream:
        assert (await stream.receive()).data == "open"
        assert [it.connection for it in used] == [None]
        assert len(trips) == 2


async def test_a_stream_keeps_the_urlconf_of_its_request(
    application: Any, trips: list[int]
) -> None:
    after: list[str | None] = []

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await application(scope, receive, send)
        after.append(get_urlconf())

    await hear()
    async with connect(outer, "/named/5/?known") as stream:
        assert (await stream.receive()).data == "/named/5/"
        assert len(trips) == 2
    # Like that of any other request, it does not outlive the request for others.
    assert after == [None]


async def test_whoever_listens_hears_the_end_once_in_the_requests_thread(
    application: Any, trips: list[int]
) -> None:
    await hear()
    heard: list[int] = []

    def listen(**kwargs: Any) -> None:
        heard.append(threading.get_ident())

    request_finished.connect(listen)
    try:
        async with connect(application, "/private/?known") as stream:
            assert (await stream.receive()).data == "open"
            assert heard == list(thread)
            assert len(trips) == 3
    finally:
        request_finished.disconnect(listen)
    assert len(heard) == 1
