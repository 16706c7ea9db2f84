"""Who may listen, while listening; and how long."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django import test
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.utils.decorators import sync_only_middleware
from rest_framework.authtoken.models import Token

from django_sse.asgi import get_asgi_application
from django_sse.brokers import use_broker
from django_sse.brokers.base import Broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.brokers.redis import RedisBroker
from django_sse.testing import connect
from django_sse.topics.hub import get_hub
from django_sse.topics.orders import aclose_streams, close_streams
from tests.project.journal import recorded
from tests.support.browser import open_page
from tests.support.http_client import Client
from tests.support.redis_server import RedisServer
from tests.support.servers import Server

from .conftest import Serve
from .project.streams import Quiet

REVOKED = b"event: revoked\ndata: {}\n\n"


@pytest.fixture
def application(settings: Any) -> Any:
    settings.ROOT_URLCONF = "tests.integration.health.project.urls"
    return get_asgi_application()


def _delete_session(user: User) -> None:
    Session.objects.all().delete()


def _deactivate(user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def _change_password(user: User) -> None:
    user.set_password("another")
    user.save()


def _delete(user: User) -> None:
    user.delete()


def _delete_token(user: User) -> None:
    Token.objects.filter(user=user).delete()


def _take_permission(user: User) -> None:
    user.user_permissions.clear()


def _leave_as_it_is(user: User) -> None:
    user.first_name = "Ada"
    user.save()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("path", "by_token", "loses", "status"),
    [
        ("/checked/", False, _delete_session, 403),
        ("/checked/", False, _deactivate, 403),
        ("/checked/", False, _change_password, 403),
        ("/checked/", False, _delete, 403),
        ("/checked/", True, _deactivate, 401),
        ("/checked/", True, _delete_token, 401),
        ("/checked/permission/", False, _take_permission, 403),
        ("/checked/permission/", True, _take_permission, 403),
    ],
)
async def test_stream_ends_when_its_user_may_not_listen_any_more(
    application: Any, path: str, by_token: bool, loses: Callable[[User], None], status: int
) -> None:
    user, headers = await sync_to_async(_enter)(by_token)
    async with connect(application, path, headers=headers) as stream:
        assert (await stream.receive()).data == "open"
        await sync_to_async(_leave_as_it_is)(user)
        await stream.receive_nothing(0.5)
        await sync_to_async(loses)(user)
        assert (await stream.receive()).event == "revoked"
        await stream.receive_end()
        assert stream.received.endswith(REVOKED)
    assert recorded("disconnect")[-1]["reason"] == "revoked"
    # What makes an EventSource give up.
    async with connect(application, path, headers=headers) as stream:
        refusal = 401 if path == "/checked/" and by_token else status
        # SessionAuthentication comes first, and has no way to ask who somebody is.
        assert stream.status_code in (refusal, 403)
        assert b"event" not in await stream.read()


def _enter(by_token: bool) -> tuple[User, dict[str, str]]:
    """Return a user who may do all that is asked for, and a client's headers."""
    user = User.objects.create_user("ann", password="secret")
    user.user_permissions.add(Permission.objects.get(codename="view_user"))
    if by_token:
        return user, {"Authorization": f"Token {Token.objects.create(user=user).key}"}
    client = test.Client()
    client.force_login(user)
    return user, {"Cookie": f"sessionid={client.cookies['sessionid'].value}"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("leaves", [False, True])
async def test_user_that_a_middleware_found_is_asked_for_again(settings: Any, leaves: bool) -> None:
    settings.ROOT_URLCONF = "tests.integration.health.project.urls"
    settings.MIDDLEWARE = [f"{__name__}.user_of_header"]
    await User.objects.acreate_user("ann")
    headers = {"X-User": "ann"}
    async with connect(get_asgi_application(), "/checked/", headers=headers) as stream:
        assert (await stream.receive()).data == "open"
        await stream.receive_nothing(0.5)
        if leaves:
            await User.objects.filter(username="ann").aupdate(is_active=False)
            assert (await stream.receive()).event == "revoked"


@sync_only_middleware
def user_of_header(get_response: Any) -> Any:
    """Trust a header, as behind a proxy that authenticates."""

    def middleware(request: Any) -> Any:
        request.user = User.objects.filter(username=request.headers["X-User"]).first()
        return get_response(request)

    return middleware


async def test_check_that_fails_of_itself_cuts_nobody_off(
    application: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before = len(recorded("asked"))
    async with connect(application, "/checked/in-vain/") as stream:
        assert (await stream.receive()).data == "open"
        # The handshake's, and three that fail.
        for _ in range(200):
            if len(recorded("asked")) - before >= 4:
                break
            await asyncio.sleep(0.02)
        await stream.receive_nothing()
    assert recorded("disconnect")[-1]["reason"] == "client"
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) >= 3
    assert {record.name for record in errors} == {"django_sse"}
    assert all("CheckedInVain could not check its user again" in r.message for r in errors)
    assert all(r.exc_info and "directory of users is away" in str(r.exc_info[1]) for r in errors)


async def test_stream_without_rechecks_has_no_timer_for_them(application: Any) -> None:
    def timers() -> list[float]:
        scheduled = vars(asyncio.get_running_loop())["_scheduled"]
        mine = (timer for timer in scheduled if "Deadlines._begin_check" in repr(timer))
        return [timer.when() for timer in mine if not timer.cancelled()]

    async with connect(application, "/quiet/") as stream:
        await stream.receive()
        assert timers() == []


async def test_rechecks_are_spread(application: Any, settings: Any) -> None:
    settings.DJANGO_SSE = {"RECHECK_PERIOD": 1000}
    loop = asyncio.get_running_loop()
    now = loop.time()
    async with AsyncExitStack() as stack:
        for _ in range(12):
            stream = await stack.enter_async_context(connect(application, "/quiet/"))
            await stream.receive()
        mine = [it for it in vars(loop)["_scheduled"] if "Deadlines._begin_check" in repr(it)]
        after = [timer.when() - now for timer in mine if not timer.cancelled()]
    assert len(after) == 12
    assert max(after) <= 1010
    # By chance, all within a tenth: once in 10^10 times.
    assert max(after) - min(after) > 100


async def test_stream_expires(application: Any) -> None:
    began = time.monotonic()
    async with connect(application, "/brief/") as stream:
        await stream.receive()
        await stream.receive_end()
    assert time.monotonic() - began >= 0.4
    assert recorded("disconnect")[-1]["reason"] == "expired"


def test_browser_stops_when_its_user_was_logged_out(serve: Serve) -> None:
    server = serve("daphne", HEARTBEAT={"PERIOD": None})
    with open_page() as page:
        page.goto(f"{server.url}/sign-in/ann/")
        page.evaluate(
            """() => {
                window.seen = [];
                const source = window.source = new EventSource("/checked/");
                source.onmessage = event => window.seen.push(event.data);
                source.addEventListener("revoked", event => window.seen.push(event.type));
            }"""
        )
        page.wait_for_function("window.seen.length == 1")
        # In another tab, whose streams the recheck ends with all others of the session.
        page.evaluate("() => fetch('/sign-out/').then(response => response.text())")
        page.wait_for_function("window.source.readyState == EventSource.CLOSED", timeout=20_000)
        assert page.evaluate("window.seen") == ["open", "revoked"]


# Ending streams in all processes.


def test_streams_of_a_user_or_topic_are_closed_in_all_processes(
    serve: Serve, tmp_path: Path
) -> None:
    with RedisServer(tmp_path) as redis:
        backend = {"BACKEND": "django_sse.brokers.redis.RedisBroker", "LOCATION": redis.url()}
        options = {"BROKER": backend, "HEARTBEAT": {"PERIOD": None}}
        servers = [serve(name, **options) for name in ("daphne", "uvicorn")]
        ann, ann_headers = _sign_in(servers[0], "ann")
        bob, bob_headers = _sign_in(servers[1], "bob")
        opened = [
            (server, path, headers)
            for server in servers
            for path, headers in [
                ("/topics/a/", ann_headers),
                ("/topics/b/", ann_headers),
                ("/topics/a/", bob_headers),
                ("/topics/b/", {}),
            ]
        ]
        clients = [Client(server.address) for server, _, _ in opened]
        broker = RedisBroker(redis.url())
        previous = use_broker(broker)
        try:
            for client, (_, path, headers) in zip(clients, opened, strict=True):
                client.request(path, headers=headers)
                assert client.piece()
                # Their topic's cursor: from here on, they listen.
                assert b"id: " in client.piece()
            for order, closed, left in [
                ({"user": bob, "topic": "b"}, [], 4),
                ({"user": ann, "topic": "a"}, [0, 4], 3),
                ({"topic": "b"}, [1, 3, 5, 7], 1),
                ({"user": str(bob)}, [2, 6], 0),
            ]:
                close_streams(**order)
                for number in closed:
                    assert clients[number].body() == REVOKED
                assert [_open(server) for server in servers] == [left, left]
        finally:
            use_broker(previous)
            broker.close()
            for client in clients:
                client.close()


def _open(server: Server) -> int:
    return int(httpx.get(f"{server.url}/inside/").json()["stats"]["open"])


def _sign_in(server: Server, name: str) -> tuple[int, dict[str, str]]:
    response = httpx.get(f"{server.url}/sign-in/{name}/")
    return response.json()["pk"], {"Cookie": f"sessionid={response.cookies['sessionid']}"}


class Deciding(Quiet):
    """Stops on its way at a gate, in the thread of its policies or in ``connect()``."""

    entered: Any = None
    proceed: Any = None
    place = ""
    permission_classes = []

    def check_permissions(self, request: Any) -> None:
        if self.place == "policies":
            self.wait()

    async def connect(self) -> None:
        if self.place == "connect":
            await asyncio.to_thread(self.wait)

    def wait(self) -> None:
        self.entered.set()
        assert self.proceed.wait(10)

    async def get_topics(self) -> list[str]:
        return ["gated"]


@pytest.mark.parametrize("order", [{"user": 7}, {"topic": "gated"}], ids=["user", "topic"])
@pytest.mark.parametrize("place", ["policies", "connect"])
@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_order_to_close_reaches_the_first_stream_in_its_handshake(
    kind: str, place: str, order: dict[str, Any], tmp_path: Path
) -> None:
    entered, proceed = threading.Event(), threading.Event()
    view = Deciding.as_view(entered=entered, proceed=proceed, place=place)
    with ExitStack() as stack:
        broker: Broker = MemoryBroker()
        if kind == "redis":
            broker = RedisBroker(stack.enter_context(RedisServer(tmp_path)).url())
        previous = use_broker(broker)
        try:

            async def order_meanwhile() -> None:
                await asyncio.to_thread(entered.wait, 10)
                # Of others, who stay.
                await aclose_streams(user=8, topic="gated")
                await aclose_streams(**order)
                proceed.set()

            ordering = asyncio.create_task(order_meanwhile())
            async with connect(view, user=User(pk=7, username="ann")) as stream:
                assert (await stream.receive()).event == "revoked"
                await stream.receive_end()
            await ordering
            # Who comes after it may stay.
            async with connect(view, user=User(pk=7, username="ann")) as stream:
                assert (await stream.receive()).data == "open"
        finally:
            proceed.set()
            await get_hub().aclose()
            use_broker(previous)
            broker.close()


async def test_close_streams_wants_to_know_which() -> None:
    with pytest.raises(TypeError, match="needs a user, a topic or a stream"):
        await aclose_streams()
