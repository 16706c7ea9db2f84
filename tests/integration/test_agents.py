"""Streams in applications that error trackers and performance agents have wrapped from within."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.urls import path

from django_sse import SSEView
from django_sse.connection.roster import roster
from django_sse.handshake import response as response_module
from django_sse.testing import connect
from tests.project import agents, streams, urls
from tests.project.journal import Journal
from tests.support.http_client import Client
from tests.support.servers import SERVERS, Server

from .test_servers import OBJECTS

Make = Callable[..., Any]
Serve = Callable[..., Server]


@pytest.mark.parametrize("name", SERVERS)
def test_stream_is_whole_where_an_agent_wraps_everything(
    serve: Serve, journal: Journal, name: str
) -> None:
    middleware = "copies_request", "wraps_request", "wraps_response", "copies_response"
    server = serve(
        name,
        "tests.project.observed:application",
        env={"OBSERVED_BY": ",".join(middleware)},
    )
    with Client(server.address) as client:
        client.request("/serialization/")
        assert client.status == 200
        assert "content-encoding" not in client.headers
        assert client.body() == OBJECTS
        # The connection serves another one.
        client.request("/quiet/")
        assert client.piece() == b":\n\n"
    assert journal.wait_for("disconnect")[0]["reason"] == "client"
    # Hypercorn tells of its end by its own send() alone. Behind a wrapper, streams end as Hypercorn
    # cancels them, and it logs that.
    if name != "hypercorn":
        with Client(server.address) as client:
            client.request("/quiet/", headers={"Connection": "close"})
            client.piece()
            os.kill(server.pid, signal.SIGTERM)
            assert b"retry:" in client.body()
        server.stop()
    # Each stream was taken over: none holds a thread.
    assert "holds a" not in server.log()


@pytest.mark.parametrize(
    "middleware", ["copies_request", "wraps_request", "copies_response", "wraps_response"]
)
@pytest.mark.parametrize("wrap", [lambda app: app, agents.around], ids=["bare", "around"])
async def test_connection_is_taken_over_from_behind_wrappers(
    application: Make,
    recorded: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    middleware: str,
    wrap: Any,
) -> None:
    monkeypatch.setattr(response_module, "_warned", set())
    app = wrap(application(MIDDLEWARE=[f"tests.project.agents.{middleware}"]))
    with caplog.at_level(logging.WARNING, logger="django_sse"):
        async with connect(app, "/quiet/") as stream:
            assert stream.status_code == 200
            assert "content-encoding" not in stream.headers
            await stream.receive_block()
            assert len(roster) == 1
    assert caplog.records == []
    assert [entry["reason"] for entry in recorded("disconnect")] == ["client"]
    assert len(roster) == 0


async def test_view_that_is_wrapped_by_a_function_streams(
    application: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = agents.wraps_view(streams.Echo.as_view())
    monkeypatch.setattr(urls, "urlpatterns", [path("wrapped/", view)])
    async with connect(application(MIDDLEWARE=[]), "/wrapped/") as stream:
        assert (await stream.receive()).data


async def test_user_of_a_wrapped_request_is_checked_again(
    application: Make, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams.Private, "recheck_period", 0.05)
    app = application(MIDDLEWARE=["…", "tests.project.agents.wraps_request"])
    async with connect(app, "/private/", user=ada) as stream:
        assert (await stream.receive()).data == "open"
        await User.objects.filter(pk=ada.pk).aupdate(is_active=False)
        assert (await stream.receive()).event == "revoked"
        await stream.receive_end()


async def test_methods_of_the_base_class_may_be_wrapped(
    application: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Anew:
        """Wraps a method, with another wrapper at each look."""

        def __init__(self, method: Any) -> None:
            self.method = method

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            def wrapper(*args: Any) -> Any:
                return self.method(*args) if instance is None else self.method(instance, *args)

            return wrapper

    for name in ("stream", "get_topics", "get_groups", "disconnect", "end", "live"):
        monkeypatch.setattr(SSEView, name, Anew(getattr(SSEView, name)))

    class Greeting(SSEView):
        async def stream(self) -> None:
            await self.send("hello")

    async with connect(Greeting) as stream:
        assert (await stream.receive()).data == "hello"
        await stream.receive_end()


@pytest.mark.parametrize(
    "name", ["Content-Length", "content-length", "Transfer-Encoding", "Connection"]
)
async def test_header_that_frames_the_response_is_refused(
    application: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async def connect_with_header(self: Any) -> None:
        self.headers[name] = "0"

    monkeypatch.setattr(streams.Quiet, "connect", connect_with_header)
    async with connect(application(), "/quiet/") as answer:
        assert answer.status_code == 500
    assert f"must not have {name!r}" in caplog.text
    assert len(roster) == 0
