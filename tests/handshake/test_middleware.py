"""Middleware that shares trips to the thread: it does what it does in Django's own chain."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import MiddlewareNotUsed, PermissionDenied
from django.core.handlers.asgi import ASGIHandler as DjangoHandler
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from django.utils.deprecation import MiddlewareMixin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import IsAuthenticated

from django_sse import SSEView, sse_path
from django_sse.asgi import ASGIHandler
from django_sse.connection.request_threads import RequestThread
from django_sse.topics.hub import close_idle_hub, get_hub
from django_sse.topics.orders import CONTROL

Log = list[tuple[Any, ...]]

seen: Log = []
last: ContextVar[str] = ContextVar("last", default="")


def note(name: str, method: str, request: HttpRequest) -> None:
    """Write down who was called, where, after whom, and what it knows of the view."""
    on_loop = threading.current_thread() is threading.main_thread()
    known = request.resolver_match is not None
    seen.append((name, method, on_loop, last.get(), known))
    last.set(f"{name}.{method}")


def view(request: HttpRequest) -> HttpResponse:
    note("view", "call", request)
    return HttpResponse("view")


async def async_view(request: HttpRequest) -> HttpResponse:
    note("view", "await", request)
    return HttpResponse("view")


def failing_view(request: HttpRequest) -> HttpResponse:
    note("view", "call", request)
    raise PermissionDenied


class Noting(BaseAuthentication):
    """Notes where a stream's policies are applied."""

    def authenticate(self, request: Any) -> None:
        note("view", "authenticate", request)


class Brief(SSEView):
    """A stream that ends by itself."""

    authentication_classes = [Noting]
    permission_classes: Any = []
    heartbeat = None

    async def connect(self) -> None:
        note("view", "connect", self.request._request)

    async def stream(self) -> None:
        await self.send("view")


class Refused(Brief):
    permission_classes = [IsAuthenticated]


urlpatterns = [
    path("sync/", view),
    path("async/", async_view),
    path("failing/", failing_view),
    sse_path("stream/", Brief),
    sse_path("refused/", Refused),
]


def act(what: str, name: str) -> HttpResponse | None:
    if what == "raise":
        raise PermissionDenied
    if what == "fail":
        raise ValueError(name)
    return HttpResponse(name, status=202) if what == "answer" else None


def mixin(name: str, does: dict[str, str], kind: str) -> type:
    """Return a middleware with these methods, of a kind that may or may not share a trip."""

    def process_request(self: Any, request: HttpRequest) -> HttpResponse | None:
        note(name, "request", request)
        return act(does["request"], name)

    def process_view(
        self: Any, request: HttpRequest, view: Any, args: Any, kwargs: Any
    ) -> HttpResponse | None:
        note(name, "view", request)
        return act(does["view"], name)

    def process_response(self: Any, request: HttpRequest, response: Any) -> Any:
        note(name, "response", request)
        response = act(does["response"], name) or response
        response["Trail"] = f"{response.get('Trail', '')} {name}"
        return response

    class Own:
        """Not MiddlewareMixin: asynchronous by itself, with a process_view() as it likes."""

        sync_capable, async_capable = False, True

        def __init__(self, get_response: Any) -> None:
            self.get_response = get_response
            markcoroutinefunction(self)

        async def __call__(self, request: HttpRequest) -> Any:
            note(name, "own", request)
            response = await self.get_response(request)
            note(name, "own end", request)
            return response

    class OnlySync:
        def __init__(self, get_response: Any) -> None:
            self.get_response = get_response

        def __call__(self, request: HttpRequest) -> Any:
            note(name, "sync", request)
            response = self.get_response(request)
            note(name, "sync end", request)
            return response

    class Calls(MiddlewareMixin):
        async def __acall__(self, request: HttpRequest) -> Any:
            note(name, "acall", request)
            return await super().__acall__(request)

    class Called(MiddlewareMixin):
        def __call__(self, request: HttpRequest) -> Any:
            note(name, "called", request)
            return super().__call__(request)

    class Wraps(MiddlewareMixin):
        def __init__(self, get_response: Any) -> None:
            async def between(request: HttpRequest) -> Any:
                note(name, "between", request)
                return await get_response(request)

            is_async = iscoroutinefunction(get_response)
            super().__init__(between if is_async else get_response)

    class Unused(MiddlewareMixin):
        def __init__(self, get_response: Any) -> None:
            raise MiddlewareNotUsed

    async def process_view_async(
        self: Any, request: HttpRequest, view: Any, args: Any, kwargs: Any
    ) -> HttpResponse | None:
        note(name, "view async", request)
        return act(does["view"], name)

    methods: dict[str, Any] = {
        "request": process_request,
        "view": process_view,
        "response": process_response,
    }
    base: Any = {
        "own": Own,
        "sync": OnlySync,
        "calls": Calls,
        "called": Called,
        "wraps": Wraps,
        "unused": Unused,
        "mixin": MiddlewareMixin,
    }[kind]
    has = {f"process_{it}": method for it, method in methods.items() if does[it] != "lack"}
    if kind == "own" and "process_view" in has:
        has["process_view"] = process_view_async
    return type(name, (base,), has)


async def ask(handler: Any, address: str) -> tuple[int, bytes, str]:
    """Send one request to a handler, and return the status, the body, and what middleware left."""
    asked = False
    answer: list[Any] = []
    ended = asyncio.Event()

    async def receive() -> Any:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        answer.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            ended.set()

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": address,
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
        "server": ("testserver", 80),
    }
    # A stream's policies are applied early only where the process hears orders already.
    await get_hub().subscribe([CONTROL])
    await asyncio.wait_for(handler(scope, receive, send), 10)
    await close_idle_hub()
    trail = dict(answer[0]["headers"]).get(b"Trail", b"")
    body = b"".join(message.get("body", b"") for message in answer[1:])
    return answer[0]["status"], body, trail.decode()


def told(handler_class: type[DjangoHandler], address: str) -> tuple[Any, Log, list[str]]:
    """Return the answer, the calls, and the exceptions that the signal told."""
    errors: list[str] = []

    def remember(request: Any, **kwargs: Any) -> None:
        errors.append(repr(sys.exc_info()[1]))

    seen.clear()
    got_request_exception.connect(remember)
    try:
        return asyncio.run(ask(handler_class(), address)), list(seen), errors
    finally:
        got_request_exception.disconnect(remember)


@pytest.fixture
def quiet() -> Iterator[None]:
    logger = logging.getLogger("django.request")
    logger.disabled = True
    yield
    logger.disabled = False


rarely = st.sampled_from(["pass"] * 6 + ["lack"] * 3 + ["answer", "raise", "fail"])
middleware = st.tuples(
    st.sampled_from(["mixin"] * 6 + ["own", "sync", "calls", "called", "wraps", "unused"]),
    st.fixed_dictionaries({"request": rarely, "view": rarely, "response": rarely}),
)


@pytest.mark.usefixtures("quiet")
@given(
    st.lists(middleware, max_size=6),
    st.sampled_from(["/sync/", "/async/", "/failing/", "/none/", "/stream/", "/refused/"]),
)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_middleware_is_called_as_in_djangos_own_chain(
    chain: list[tuple[str, dict[str, str]]], address: str
) -> None:
    module = sys.modules[__name__]
    names = []
    for number, (kind, does) in enumerate(chain):
        names.append(f"{__name__}.M{number}")
        setattr(module, f"M{number}", mixin(f"M{number}", does, kind))
    with override_settings(MIDDLEWARE=names, ROOT_URLCONF=__name__, DEBUG=False):
        assert told(ASGIHandler, address) == told(DjangoHandler, address)


def test_the_usual_middleware_needs_two_trips(monkeypatch: pytest.MonkeyPatch) -> None:
    trips = 0
    submit = RequestThread.submit

    def counted(self: RequestThread, *args: Any, **kwargs: Any) -> Any:
        nonlocal trips
        trips += 1
        return submit(self, *args, **kwargs)

    monkeypatch.setattr(RequestThread, "submit", counted)
    usual = [
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ]
    counts = []
    for names in ([], usual):
        with override_settings(MIDDLEWARE=names, ROOT_URLCONF=__name__):
            trips = 0
            status, _, _ = asyncio.run(ask(ASGIHandler(), "/async/"))
            assert status == 200
            counts.append(trips)
    # Django's own: the signal at the beginning, and the one at the end.
    assert counts == [1, 3]
