"""A stream's address and its DRF policies: the handshake, seen by a client."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.exceptions import (
    BadRequest,
    RequestDataTooBig,
    SuspiciousOperation,
    TooManyFieldsSent,
)
from django.core.signals import got_request_exception
from django.test import AsyncClient, override_settings
from django.urls import reverse
from rest_framework.authtoken.models import Token
from rest_framework.permissions import AllowAny
from rest_framework.versioning import AcceptHeaderVersioning

from django_sse import SSEView, sse_path
from django_sse.testing import connect

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[..., Any]
Recorded = Callable[..., list[dict[str, Any]]]

STREAM = {"Accept": "text/event-stream"}


async def echoed(application: Any, path: str, **options: Any) -> dict[str, Any]:
    """Return what ``Echo`` could read of a request while it streamed."""
    async with connect(application, path, **options) as stream:
        assert stream.status_code == 200, await stream.read()
        found = json.loads((await stream.receive()).data)
        await stream.receive_end()
    assert isinstance(found, dict)
    return found


# Addresses.


async def test_address_with_namespace_converters_and_kwargs(application: Make) -> None:
    app = application()
    address = reverse("eu:order", kwargs={"shop": "north", "number": 7})
    assert address == "/shops/north/orders/7/"
    found = await echoed(app, address)
    assert found["kwargs"] == {"shop": "north", "number": 7, "kind": "order"}
    assert found["args"] == []


async def test_address_with_initkwargs_and_extra_kwargs(application: Make) -> None:
    app = application()
    found = await echoed(app, reverse("eu:greeting", args=["north"]))
    assert found["greeting"] == "hello"
    assert found["kwargs"] == {"shop": "north", "a": 1}
    # Of this route alone: the class is as it was.
    assert (await echoed(app, "/echo/"))["greeting"] == "none"


async def test_address_that_no_converter_takes_is_not_found(application: Make) -> None:
    async with connect(application(), "/shops/north/orders/seven/", headers=STREAM) as answer:
        assert answer.status_code == 404


# Authentication, permissions, throttles.


async def test_session_user_is_known(application: Make, ada: User) -> None:
    found = await echoed(application(), "/echo/", user=ada)
    assert (found["user"], found["auth"]) == ("ada", None)


async def test_session_is_readable_while_streaming(application: Make, ada: User) -> None:
    app = application()
    client = AsyncClient()
    await client.aforce_login(ada)
    session = await client.asession()
    await session.aset("basket", [1, 2])
    await session.asave()
    cookie = f"sessionid={client.cookies['sessionid'].value}"
    for path in ("/echo/", "/by-token/"):
        headers = {"Cookie": cookie}
        if path == "/by-token/":
            # Whose authentication never looks at the session.
            token = await Token.objects.acreate(user=ada)
            headers["Authorization"] = f"Token {token.key}"
        assert (await echoed(app, path, headers=headers))["session"] == [1, 2]


async def test_token_user_is_known(application: Make, ada: User) -> None:
    token = await Token.objects.acreate(user=ada)
    headers = {"Authorization": f"Token {token.key}"}
    found = await echoed(application(), "/by-token/", headers=headers)
    assert (found["user"], found["auth"]) == ("ada", token.key)


async def test_user_of_own_authentication_is_known(application: Make, ada: User) -> None:
    found = await echoed(application(), "/by-header/", headers={"X-User": "ada"})
    assert (found["user"], found["auth"]) == ("ada", "header ada")


@pytest.mark.parametrize(
    ("path", "headers", "status", "detail", "challenge"),
    [
        ("/private/", {}, 403, "Authentication credentials were not provided.", None),
        ("/by-token/", {}, 401, "Authentication credentials were not provided.", "Token"),
        ("/by-token/", {"Authorization": "Token x"}, 401, "Invalid token.", "Token"),
        ("/by-header/", {"X-User": "eve"}, 401, "Nobody of this name.", "X-User"),
        ("/even/3/", {}, 403, "Odd numbers stay outside.", None),
        ("/raises/400/", {}, 400, None, None),
        ("/raises/401/", {}, 403, "Authentication credentials were not provided.", None),
        ("/raises/403/", {}, 403, "Closed.", None),
        ("/raises/404/", {}, 404, "No such shop.", None),
    ],
)
@pytest.mark.parametrize("accept", ["text/event-stream", "*/*"])
async def test_refusal_is_json_with_its_true_status(
    application: Make,
    recorded: Recorded,
    path: str,
    headers: dict[str, str],
    status: int,
    detail: str | None,
    challenge: str | None,
    accept: str,
) -> None:
    async with connect(application(), path, headers={"Accept": accept, **headers}) as answer:
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers.get("www-authenticate") == challenge
        expected = {"shop": ["Unknown."]} if detail is None else {"detail": detail}
        assert await answer.json() == expected
    assert recorded("stream") == recorded("disconnect") == []


async def test_permission_depends_on_the_user(application: Make, ada: User) -> None:
    app = application()
    async with connect(app, "/admins/", user=ada, headers=STREAM) as answer:
        assert answer.status_code == 403
    ada.is_staff = True
    await ada.asave()
    assert (await echoed(app, "/admins/", user=ada))["user"] == "ada"
    assert (await echoed(app, "/even/2/"))["kwargs"] == {"number": 2}


async def test_throttle_says_when_to_come_back(application: Make) -> None:
    app = application()
    for _ in range(2):
        await echoed(app, "/throttled/", headers=STREAM)
    async with connect(app, "/throttled/", headers=STREAM) as answer:
        assert answer.status_code == 429
        assert 3500 < int(answer.headers["retry-after"]) <= 3600
        assert "throttled" in (await answer.json())["detail"]


async def test_exception_handler_of_the_project_is_used(application: Make) -> None:
    async with connect(application(), "/own-errors/", headers=STREAM) as answer:
        assert answer.status_code == 403
        assert answer.headers["x-problem"] == "yes"
        assert await answer.json() == {"problem": "NotAuthenticated", "view": "OwnErrors"}


# Methods, bodies and content negotiation.


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (None, 200),
        ("*/*", 200),
        ("text/*", 200),
        ("text/event-stream", 200),
        ("application/json, text/event-stream", 200),
        ("application/json", 406),
        ("image/png, text/plain", 406),
    ],
)
async def test_who_does_not_accept_a_stream_gets_406(
    application: Make, accept: str | None, status: int
) -> None:
    headers = {} if accept is None else {"Accept": accept}
    async with connect(application(), "/echo/", headers=headers) as answer:
        assert answer.status_code == status
        if status == 406:
            assert answer.headers["content-type"] == "application/json"
            assert "detail" in await answer.json()


async def test_head_has_the_headers_of_a_stream_and_ends(
    application: Make, recorded: Recorded
) -> None:
    app = application()
    async with connect(app, "/dressed/", method="HEAD") as answer:
        assert await answer.read() == b""
        head = dict(answer.headers)
    assert [entry["reason"] for entry in recorded("disconnect")] == ["completed"]
    async with connect(app, "/dressed/") as stream:
        body = dict(stream.headers)
    assert answer.status_code == 200
    # Which CommonMiddleware puts on every response that is not streamed.
    head.pop("Content-Length", None)
    assert head == body
    assert head["X-Shop"] == "eu"


async def test_options_are_those_of_drf(application: Make) -> None:
    async with connect(application(), "/echo/", method="OPTIONS") as answer:
        assert answer.status_code == 200
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST, PUT"
        told = await answer.json()
    assert told["name"] == "Echo"
    assert told["renders"] == ["text/event-stream"]
    assert "application/json" in told["parses"]


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/quiet/", "POST", "GET, HEAD, OPTIONS"),
        ("/quiet/", "DELETE", "GET, HEAD, OPTIONS"),
        ("/quiet/", "BREW", "GET, HEAD, OPTIONS"),
        ("/generate/", "GET", "POST, OPTIONS"),
    ],
)
async def test_method_that_is_not_offered_is_405(
    application: Make, path: str, method: str, allow: str
) -> None:
    async with connect(application(), path, method=method, headers=STREAM) as answer:
        assert answer.status_code == 405
        assert answer.headers["allow"] == allow
        assert await answer.json() == {"detail": f'Method "{method}" not allowed.'}


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        ("application/json", b'{"prompt": ["a", 1]}', {"prompt": ["a", 1]}),
        ("application/x-www-form-urlencoded", b"prompt=a+b", {"prompt": "a b"}),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n--x--\r\n',
            {"prompt": "a"},
        ),
    ],
)
async def test_body_is_readable_while_streaming(
    application: Make, content_type: str, body: bytes, data: Any
) -> None:
    headers = {"Content-Type": content_type}
    found = await echoed(application(), "/echo/", method="POST", headers=headers, body=body)
    assert (found["method"], found["data"]) == ("POST", data)


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [("application/json", b"{", 400), ("text/csv", b"a,b", 415)],
)
async def test_body_that_cannot_be_read_is_refused(
    application: Make, recorded: Recorded, content_type: str, body: bytes, status: int
) -> None:
    headers = {"Content-Type": content_type, **STREAM}
    async with connect(
        application(), "/echo/", method="POST", headers=headers, body=body
    ) as answer:
        assert answer.status_code == status
        assert "detail" in await answer.json()
    assert recorded("disconnect") == []


async def test_session_user_needs_the_csrf_token_to_post(application: Make, ada: User) -> None:
    app = application()
    enforced = {"method": "POST", "json": {"a": 1}, "user": ada, "enforce_csrf_checks": True}
    async with connect(app, "/echo/", headers=STREAM, **enforced) as answer:
        assert answer.status_code == 403
        assert "CSRF" in (await answer.json())["detail"]
    token = "a" * 32
    headers = {"Cookie": f"csrftoken={token}", "X-CSRFToken": token}
    found = await echoed(app, "/echo/", headers=headers, **enforced)
    assert (found["user"], found["data"]) == ("ada", {"a": 1})
    # The testing kit brings one along, as Django's client does without.
    for sessions in (False, True):
        with override_settings(CSRF_USE_SESSIONS=sessions):
            found = await echoed(
                application(), "/echo/", method="POST", json={"n": Decimal(1)}, user=ada
            )
            assert found["data"] == {"n": "1"}
    # DRF enforces it for sessions only.
    key = (await Token.objects.acreate(user=ada)).key
    headers = {"Authorization": f"Token {key}"}
    assert (await echoed(app, "/echo/", method="POST", json={}, headers=headers))["user"] == "ada"


async def test_last_event_id_arrives_as_sent(application: Make) -> None:
    app = application()
    for sent in ("7", "größe-ключ-鍵-🔑", ""):
        found = await echoed(app, "/echo/", headers={"Last-Event-ID": sent})
        assert found["last_event_id"] == sent
    found = await echoed(app, "/echo/?last_event_id=%F0%9F%94%91")
    assert found["last_event_id"] == "🔑"
    found = await echoed(app, "/echo/?last_event_id=query", headers={"Last-Event-ID": "header"})
    assert found["last_event_id"] == "header"
    assert (await echoed(app, "/echo/"))["last_event_id"] is None


async def test_version_in_the_accept_header_is_known() -> None:
    class Versioned(SSEView):
        versioning_class = AcceptHeaderVersioning

        async def stream(self) -> None:
            await self.send(self.request.version)

    view = Versioned.as_view()
    view.cls.versioning_class = type(
        "Versions", (AcceptHeaderVersioning,), {"allowed_versions": ["1", "2"]}
    )
    async with connect(view, headers={"Accept": "text/event-stream; version=2"}) as stream:
        assert (await stream.receive()).data == "2"
    async with connect(view, headers={"Accept": "text/event-stream; version=9"}) as answer:
        assert answer.status_code == 406


async def test_user_is_read_where_authentication_is_put_off(ada: User) -> None:
    class Lazy(SSEView):
        permission_classes = [AllowAny]

        def perform_authentication(self, request: Any) -> None:
            """As DRF's documentation has it."""

        async def stream(self) -> None:
            await self.send(self.user.username)

    async with connect(Lazy, user=ada) as stream:
        assert (await stream.receive()).data == "ada"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequest("secret"), 400),
        (SuspiciousOperation("secret"), 400),
        (TooManyFieldsSent("secret"), 400),
        (RequestDataTooBig("secret"), 413),
    ],
)
async def test_errors_that_django_answers_with_a_page_are_json(
    error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(SSEView):
        async def connect(self) -> None:
            raise error

    async with connect(Refusing, headers=STREAM) as answer:
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
        assert "secret" not in str(await answer.json())
    logged = [record.name for record in caplog.records if record.name.startswith("django.security")]
    assert len(logged) == (not isinstance(error, BadRequest))


# Errors and ends before the stream.


async def test_error_in_connect_goes_through_djangos_error_handling(
    application: Make, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    def on_exception(request: Any = None, **kwargs: Any) -> None:
        seen.append(request.path)

    got_request_exception.connect(on_exception)
    try:
        async with connect(application(), "/raises/500/", headers=STREAM) as answer:
            assert answer.status_code == 500
            await answer.read()
    finally:
        got_request_exception.disconnect(on_exception)
    assert seen == ["/raises/500/"]
    [logged] = [entry for entry in caplog.records if entry.exc_info]
    assert logged.name == "django.request"
    assert recorded("stream") == recorded("disconnect") == []


async def test_finished_stream_answers_204(application: Make, recorded: Recorded) -> None:
    async with connect(application(), "/raises/204/", headers=STREAM) as answer:
        assert answer.status_code == 204
        assert "content-type" not in answer.headers
        assert answer.headers["cache-control"] == "no-store, no-transform"
        assert await answer.read() == b""
    assert recorded("stream") == []


async def test_stream_may_be_named_by_its_view_function(application: Make) -> None:
    from tests.project.streams import Echo  # noqa: PLC0415 - needs no settings of its own

    pattern = sse_path("a/", Echo.as_view(greeting="hi"))
    assert pattern.callback.cls is Echo
    assert await sync_to_async(lambda: pattern.callback.initkwargs)() == {"greeting": "hi"}
