"""A handshake in which nothing may wait needs no thread; any other has one."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.test import RequestFactory
from rest_framework.authentication import TokenAuthentication
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.request import Request
from rest_framework.throttling import AnonRateThrottle
from rest_framework.versioning import QueryParameterVersioning

from django_sse import SSEView
from django_sse.testing import connect


class Open(SSEView):
    """For everybody."""

    authentication_classes: Any = []
    heartbeat = None

    async def stream(self) -> None:
        await self.send("hello")


class OwnHook(Open):
    def check_permissions(self, request: Request) -> None:
        super().check_permissions(request)


class Mixin:
    def initial(self, *args: Any, **kwargs: Any) -> None:
        super().initial(*args, **kwargs)  # type: ignore[misc]


class OwnMixin(Mixin, Open):
    pass


class OwnNegotiation(DefaultContentNegotiation):
    pass


@pytest.mark.parametrize(
    ("view", "headers", "at_once"),
    [
        (Open, {}, True),
        (Open.as_view(permission_classes=[AllowAny]), {}, True),
        (Open.as_view(authentication_classes=[TokenAuthentication]), {}, False),
        (Open.as_view(throttle_classes=[AnonRateThrottle]), {}, False),
        (Open.as_view(versioning_class=QueryParameterVersioning), {}, False),
        (Open.as_view(content_negotiation_class=OwnNegotiation), {}, False),
        (OwnHook, {}, False),
        (OwnMixin, {}, False),
        (SSEView.as_view(topics=["a"], heartbeat=None), {}, False),
    ],
)
async def test_policies_run_in_a_thread_unless_they_ask_nobody(
    view: Any, headers: dict[str, str], at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    negotiate = SSEView.perform_content_negotiation

    def noting(self: SSEView, *args: Any, **kwargs: Any) -> Any:
        threads.append(threading.get_ident())
        return negotiate(self, *args, **kwargs)

    monkeypatch.setattr("django_sse.handshake.view.Handshake.perform_content_negotiation", noting)
    async with connect(view, headers=headers) as stream:
        assert stream.status_code == 200
    assert [it == threading.get_ident() for it in threads] == [at_once]


@pytest.mark.parametrize(
    "query", ["", "?format=event-stream", "?format=json", "?%66ormat=json", "?page=1", "?a=%20"]
)
@pytest.mark.parametrize(
    "accept",
    [None, "*/*", "text/event-stream", "text/event-stream; charset=utf-8", "text/*", "text/plain"],
)
async def test_negotiation_has_the_result_that_it_has_without_a_short_way(
    accept: str | None, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    initial = SSEView.initial

    def noting(self: SSEView, *args: Any, **kwargs: Any) -> None:
        initial(self, *args, **kwargs)
        results.append(self.request.accepted_media_type)  # type: ignore[attr-defined]

    monkeypatch.setattr("django_sse.handshake.view.Handshake.initial", noting, raising=False)
    headers = {} if accept is None else {"Accept": accept}
    answers = []
    for view in (Open, Open.as_view(content_negotiation_class=OwnNegotiation)):
        async with connect(view, f"/{query}", headers=headers) as stream:
            answers.append((stream.status_code, [*results]))
        results.clear()
    assert answers[0] == answers[1]


@pytest.mark.parametrize("override", ["format", None])
async def test_a_query_of_too_many_fields_is_refused_before_the_stream_begins(
    override: str | None, settings: Any
) -> None:
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "URL_FORMAT_OVERRIDE": override}
    settings.DATA_UPLOAD_MAX_NUMBER_FIELDS = 3
    async with connect(Open, "/?a&a&a&a", headers={"Accept": "text/event-stream"}) as stream:
        assert stream.status_code == 400


async def test_who_is_refused_by_an_open_view_gets_its_answer() -> None:
    for method, headers, status in (
        ("GET", {"Accept": "application/json"}, 406),
        ("PUT", {}, 405),
        ("OPTIONS", {}, 200),
        ("HEAD", {}, 200),
    ):
        async with connect(Open, method=method, headers=headers) as stream:
            assert stream.status_code == status
    async with connect(Open.as_view(permission_classes=[IsAuthenticated])) as stream:
        assert stream.status_code in {401, 403}


async def test_a_session_that_is_there_is_loaded_in_a_thread(db: None) -> None:
    from django.contrib.sessions.backends.db import SessionStore  # noqa: PLC0415

    from django_sse.handshake.shortcuts import can_run_inline  # noqa: PLC0415

    request = RequestFactory().get("/")
    request.session = SessionStore()
    assert can_run_inline(Open(), request)
    request.session = SessionStore("a-key-of-a-cookie")
    assert not can_run_inline(Open(), request)
