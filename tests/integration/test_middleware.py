"""Streams behind the middleware and decorators that projects have."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from rest_framework.authtoken.models import Token

from django_sse.handshake import response as response_module
from django_sse.testing import connect

Make = Callable[..., Any]
Recorded = Callable[..., list[dict[str, Any]]]

STREAM = {"Accept": "text/event-stream"}
LOGIN_REQUIRED = ["…", "django.contrib.auth.middleware.LoginRequiredMiddleware"]


async def test_headers_of_middleware_are_on_the_stream(application: Make) -> None:
    app = application(
        MIDDLEWARE=[
            "tests.project.middleware.sync_header",
            "…",
            "tests.project.middleware.async_header",
        ],
        CORS_ALLOWED_ORIGINS=["https://shop.example"],
        SECURE_REFERRER_POLICY="origin",
        SECURE_HSTS_SECONDS=60,
    )
    headers = {"Origin": "https://shop.example"}
    async with connect(app, "/dressed/", headers=headers) as stream:
        assert stream.status_code == 200
        assert stream.headers["access-control-allow-origin"] == "https://shop.example"
        assert stream.headers["x-content-type-options"] == "nosniff"
        assert stream.headers["referrer-policy"] == "origin"
        assert stream.headers["x-frame-options"] == "DENY"
        assert stream.headers["x-sync"] == stream.headers["x-async"] == "yes"
        assert stream.headers["x-shop"] == "eu"
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store, no-transform"
        assert [cookie.partition(";")[0] for cookie in stream.cookies] == ["seen=yes"]
        assert (await stream.receive()).data == "hello"


async def test_cors_preflight_is_answered_by_its_middleware(application: Make) -> None:
    app = application(CORS_ALLOWED_ORIGINS=["https://shop.example"])
    headers = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "last-event-id",
    }
    async with connect(app, "/private/", method="OPTIONS", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"


async def test_secure_redirect_comes_before_the_stream(
    application: Make, recorded: Recorded
) -> None:
    app = application(SECURE_SSL_REDIRECT=True)
    async with connect(app, "/quiet/", headers=STREAM) as answer:
        assert answer.status_code == 301
        assert answer.headers["location"] == "https://testserver/quiet/"
    assert recorded("disconnect") == []


async def test_language_and_time_zone_hold_inside_the_stream(application: Make) -> None:
    app = application(MIDDLEWARE=["…", "tests.project.middleware.time_zone"])
    for language, zone in [("de", "Asia/Tokyo"), ("fr", "America/Lima"), ("en", "UTC")]:
        headers = {"Accept-Language": language}
        if zone != "UTC":
            headers["X-Time-Zone"] = zone
        async with connect(app, "/echo/", headers=headers) as stream:
            assert stream.headers["content-language"] == language
            found = json.loads((await stream.receive()).data)
        assert (found["language"], found["time_zone"]) == (language, zone)


async def test_gzip_leaves_streams_alone(application: Make, recorded: Recorded) -> None:
    app = application(MIDDLEWARE=["django.middleware.gzip.GZipMiddleware", "…"])
    headers = {"Accept-Encoding": "gzip, br"}
    async with connect(app, "/quiet/", headers=headers) as stream:
        assert "content-encoding" not in stream.headers
        assert (await stream.receive()).data == "open"
        assert stream.received == b":\n\ndata: open\n\n"
        # Taken over: the request is finished while the stream is open.
        assert len(recorded("request finished")) == 1
    async with connect(app, "/", headers=headers) as page:
        assert page.headers["content-encoding"] == "gzip"
        await page.read()


# Who may come in where a login is required everywhere.


@pytest.mark.parametrize(("path", "status"), [("/quiet/", 403), ("/by-token/", 401)])
async def test_login_required_middleware_refuses_the_anonymous_as_json(
    application: Make, recorded: Recorded, path: str, status: int
) -> None:
    async with connect(application(MIDDLEWARE=LOGIN_REQUIRED), path, headers=STREAM) as answer:
        assert answer.status_code == status
        assert await answer.json() == {"detail": "Authentication credentials were not provided."}
    assert recorded("disconnect") == []


async def test_login_required_middleware_lets_users_pass(application: Make, ada: User) -> None:
    app = application(MIDDLEWARE=LOGIN_REQUIRED)
    token = await Token.objects.acreate(user=ada)
    async with connect(app, "/echo/", user=ada) as stream:
        assert json.loads((await stream.receive()).data)["user"] == "ada"
    headers = {"Authorization": f"Token {token.key}"}
    async with connect(app, "/echo/", headers=headers) as stream:
        assert json.loads((await stream.receive()).data)["user"] == "ada"


@pytest.mark.parametrize("path", ["/opened/", "/open-to-all/"])
async def test_login_not_required_opens_a_stream(application: Make, path: str) -> None:
    async with connect(application(MIDDLEWARE=LOGIN_REQUIRED), path) as stream:
        assert stream.status_code == 200
        assert json.loads((await stream.receive()).data)["user"] == ""


async def test_login_required_middleware_guards_decorated_streams_too(application: Make) -> None:
    app = application(MIDDLEWARE=LOGIN_REQUIRED)
    async with connect(app, "/never-cache/", headers=STREAM) as answer:
        assert answer.status_code == 403


# Decorators and transactions.


async def test_login_required_decorator_redirects(application: Make, ada: User) -> None:
    app = application()
    async with connect(app, "/login-required/", headers=STREAM) as answer:
        assert answer.status_code == 302
        assert answer.headers["location"].startswith("/login/?next=")
    async with connect(app, "/login-required/", user=ada) as stream:
        assert json.loads((await stream.receive()).data)["user"] == "ada"


async def test_method_decorator_guards_the_dispatch(application: Make, ada: User) -> None:
    app = application()
    async with connect(app, "/guarded/", headers=STREAM) as answer:
        assert answer.status_code == 302
    async with connect(app, "/guarded/", user=ada) as stream:
        assert json.loads((await stream.receive()).data)["user"] == "ada"


async def test_never_cache_decorator_adds_its_headers(application: Make) -> None:
    async with connect(application(), "/never-cache/") as stream:
        assert stream.status_code == 200
        assert "expires" in stream.headers
        assert "no-store" in stream.headers["cache-control"]
        assert (await stream.receive()).data


async def test_atomic_requests_do_not_apply_to_streams(
    application: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    app = application()
    for path in ("/transactional/", "/never-cache/", "/opened/", "/login-required/"):
        async with connect(app, path) as stream:
            assert stream.status_code == (302 if path == "/login-required/" else 200)
            if path == "/transactional/":
                assert stream.headers["x-atomic"] == "False"
                assert (await stream.receive()).data


# Middleware that does more than add headers.


async def test_wrapped_content_streams_with_a_warning(
    application: Make,
    recorded: Recorded,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(response_module, "_warned", set())
    app = application(MIDDLEWARE=["…", "tests.project.middleware.shouting"])
    with caplog.at_level(logging.WARNING, "django_sse"):
        for _ in range(2):
            async with connect(app, "/quiet/") as stream:
                assert stream.status_code == 200
                assert "content-encoding" not in stream.headers
                assert (await stream.receive()).data == "Open"
            assert recorded("disconnect")[-1]["reason"] == "client"
        async with connect(app, "/dressed/") as stream:
            assert await stream.read() == b":\n\ndata: hellO\n\n"
    assert [entry["reason"] for entry in recorded("disconnect")] == [
        "client",
        "client",
        "completed",
    ]
    [logged] = [entry for entry in caplog.records if entry.name == "django_sse"]
    assert "A middleware wraps the content of a stream's response" in logged.getMessage()


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [("maintenance", 503, b"back soon"), ("other_stream", 200, b"something else")],
)
async def test_replaced_response_ends_the_stream(
    application: Make, recorded: Recorded, name: str, status: int, body: bytes
) -> None:
    app = application(MIDDLEWARE=["…", f"tests.project.middleware.{name}"])
    async with connect(app, "/quiet/") as answer:
        assert answer.status_code == status
        assert await answer.read() == body
    assert [entry["reason"] for entry in recorded("disconnect")] == ["closed"]


async def test_middleware_that_fails_ends_the_stream(application: Make, recorded: Recorded) -> None:
    app = application(MIDDLEWARE=["…", "tests.project.middleware.broken"])
    async with connect(app, "/quiet/") as answer:
        assert answer.status_code == 500
        await answer.read()
    assert len(recorded("disconnect")) == 1


async def test_djangos_own_handler_serves_the_same_streams(
    application: Make,
    recorded: Recorded,
    ada: User,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(response_module, "_warned", set())
    application()
    app = ASGIHandler()
    async with connect(app, "/private/", headers=STREAM) as answer:
        assert answer.status_code == 403
    with caplog.at_level(logging.WARNING, "django_sse"):
        for _ in range(2):
            async with connect(app, "/private/", user=ada) as stream:
                assert (await stream.receive()).data == "open"
                # What keeps GZipMiddleware off is not for clients.
                assert "content-encoding" not in stream.headers
    assert [entry["reason"] for entry in recorded("disconnect")] == ["client", "client"]
    [logged] = [entry for entry in caplog.records if entry.name == "django_sse"]
    assert "django_sse.asgi.get_asgi_application()" in logged.getMessage()
