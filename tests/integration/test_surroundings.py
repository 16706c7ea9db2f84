"""The same streams where they are not taken over, and in other frameworks' hands."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.auth.models import User
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.test import AsyncClient, Client
from django.urls import path

from django_sse.testing import connect
from tests.project import streams
from tests.support.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[..., Any]
Recorded = Callable[..., list[dict[str, Any]]]


# Django's test clients.


async def test_async_client_reads_a_stream_and_ends_it(
    application: Make, recorded: Recorded, ada: User, caplog: pytest.LogCaptureFixture
) -> None:
    application()
    client = AsyncClient()
    await client.aforce_login(ada)
    with caplog.at_level(logging.WARNING, "django_sse"):
        response = await client.get("/private/")
        assert response.status_code == 200
        assert response["Content-Type"] == "text/event-stream"
        content = aiter(response)
        assert await anext(content) == b":\n\n"
        assert await anext(content) == b"data: open\n\n"
        assert recorded("disconnect") == []
        await sync_to_async(response.close)()
        await eventually(lambda: recorded("disconnect"))
    assert recorded("disconnect")[0]["reason"] == "client"
    # It is no server, so it needs no advice on servers.
    assert caplog.records == []


async def test_async_client_that_never_reads_ends_the_stream_too(
    application: Make, recorded: Recorded
) -> None:
    application()
    response = await AsyncClient().get("/quiet/")
    assert recorded("disconnect") == []
    await sync_to_async(response.close)()
    await eventually(lambda: recorded("disconnect"))
    assert [entry["reason"] for entry in recorded("disconnect")] == ["client"]


async def test_async_client_reads_a_stream_to_its_end(
    application: Make, recorded: Recorded
) -> None:
    application()
    response = await AsyncClient().get("/dressed/")
    assert response["X-Shop"] == "eu"
    assert b"".join([chunk async for chunk in response]) == b":\n\ndata: hello\n\n"
    await sync_to_async(response.close)()
    assert [entry["reason"] for entry in recorded("disconnect")] == ["completed"]


async def test_async_client_gets_refusals(application: Make) -> None:
    application()
    response = await AsyncClient().get("/private/", headers={"accept": "text/event-stream"})
    assert (response.status_code, response["Content-Type"]) == (403, "application/json")


def test_wsgi_test_client_is_told_to_use_asgi(application: Make, recorded: Recorded) -> None:
    application()
    response = Client().get("/quiet/", headers={"accept": "text/event-stream"})
    assert response.status_code == 503
    assert "ASGI_APPLICATION" in response.json()["detail"]
    assert recorded("stream") == recorded("disconnect") == []


def test_wsgi_server_answers_503_and_what_to_do(application: Make) -> None:
    application()
    environ: dict[str, Any] = {"PATH_INFO": "/quiet/", "HTTP_HOST": "testserver"}
    setup_testing_defaults(environ)
    answers: list[Any] = []
    body = get_wsgi_application()(environ, lambda *answer: answers.append(answer))
    text = json.loads(b"".join(body))["detail"]
    body.close()
    [(status, headers)] = answers
    assert status == "503 Service Unavailable"
    assert ("Content-Type", "application/json") in headers
    for word in ("WSGI", "ASGI_APPLICATION", "Daphne", "Uvicorn", '"daphne" first'):
        assert word in text


# Channels.


def _routed() -> Any:
    return ProtocolTypeRouter(
        {
            "http": AuthMiddlewareStack(
                URLRouter(
                    [
                        path("channels/<int:number>/", streams.Echo.as_asgi(greeting="routed")),
                        path("private/", streams.Private.as_asgi()),
                        path("fails/<str:error>/", streams.Raises.as_asgi()),
                        path("chat/<int:room>/", streams.Chat.as_asgi()),
                    ]
                )
            )
        }
    )


async def test_channels_router_runs_the_same_handshake(
    application: Make, recorded: Recorded, ada: User
) -> None:
    application()
    app = _routed()
    async with connect(app, "/channels/7/?a=b", user=ada) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        found = json.loads((await stream.receive()).data)
    assert (found["user"], found["kwargs"], found["greeting"]) == ("ada", {"number": 7}, "routed")
    assert found["query"] == {"a": "b"}
    async with connect(app, "/private/", user=ada) as stream:
        assert (await stream.receive()).data == "open"
    assert [entry["reason"] for entry in recorded("disconnect")] == ["completed", "client"]
    headers = {"Accept": "text/event-stream"}
    async with connect(app, "/private/", headers=headers) as answer:
        assert answer.status_code == 403
        assert "detail" in await answer.json()
    async with connect(app, "/channels/1/", headers={"Accept": "application/json"}) as answer:
        assert answer.status_code == 406
    for error, status in (("404", 404), ("204", 204), ("500", 500)):
        async with connect(app, f"/fails/{error}/", headers=headers) as answer:
            assert answer.status_code == status
            await answer.read()


async def test_channels_session_is_readable_while_streaming(application: Make, ada: User) -> None:
    application()
    client = AsyncClient()
    await client.aforce_login(ada)
    session = await client.asession()
    await session.aset("basket", [3])
    await session.asave()
    cookie = {"Cookie": f"sessionid={client.cookies['sessionid'].value}"}
    async with connect(_routed(), "/channels/1/", headers=cookie) as stream:
        assert json.loads((await stream.receive()).data)["session"] == [3]


async def test_channels_router_delivers_group_messages(application: Make) -> None:
    from channels.layers import get_channel_layer  # noqa: PLC0415 - after the settings

    application(CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}})
    async with connect(_routed(), "/chat/5/") as stream:
        assert (await stream.receive()).data == "joined"
        await get_channel_layer().group_send("room-5", {"type": "chat.said", "text": "hi"})
        assert (await stream.receive()).data == "hi"


# What a stream still has of its request.


async def test_nothing_lazy_is_left_for_the_stream(
    application: Make, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = application()
    headers = {"Content-Type": "application/json", "Cookie": "csrftoken=" + "a" * 32}
    headers["X-CSRFToken"] = "a" * 32
    queries: list[str] = []
    original = sqlite3.connect
    unblock = asyncio.Event()

    async def stream(self: Any) -> None:
        await unblock.wait()
        request = self.request
        await self.send(
            [
                request.data,
                request.user.get_username(),
                request.auth,
                dict(request.session).get("_auth_user_id"),
                request._request.user.pk,
                request.query_params,
                request.version,
                request.accepted_media_type,
                request.build_absolute_uri(),
            ]
        )

    def refused(*args: Any, **kwargs: Any) -> Any:
        queries.append("connected")
        return original(*args, **kwargs)

    monkeypatch.setattr(streams.Echo, "stream", stream)
    async with connect(
        app, "/echo/?a=1", method="POST", json={"b": 2}, user=ada, headers=headers
    ) as opened:
        # The request's own connections are closed, so that any query would open one.
        monkeypatch.setattr(connection.Database, "connect", refused)
        unblock.set()
        found = json.loads((await opened.receive()).data)
    assert found == [
        {"b": 2},
        "ada",
        None,
        str(ada.pk),
        ada.pk,
        {"a": "1"},
        None,
        "text/event-stream",
        "http://testserver/echo/?a=1",
    ]
    assert queries == []
