"""What policies may say when they are asked again; what users may lose is in ``tests/integration/health``."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import aget_user
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import Http404
from django.utils.decorators import async_only_middleware
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException, Throttled
from rest_framework.permissions import BasePermission

from django_sse import SSEView, sse_path
from django_sse.asgi import get_asgi_application
from django_sse.monitoring import reports
from django_sse.testing import connect
from tests.support.waiting import eventually


class Away(APIException):
    status_code = 503
    default_detail = "The directory is away."


class Moody(BasePermission):
    """Lets everybody pass while it is in no mood."""

    mood: Any = None

    def has_permission(self, request: Any, view: Any) -> bool:
        if Moody.mood is not None:
            raise Moody.mood
        return True


class Badge:
    """A user who is not of the database, and may be thrown out."""

    pk = 7
    is_authenticated = True


class Checked(SSEView):
    recheck_period = 0.02
    heartbeat = None

    async def stream(self) -> None:
        await self.send(str(getattr(self.user, "username", "")))
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def nobody_is_moody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moody, "mood", None)
    monkeypatch.setattr(Badge, "is_authenticated", True)


@pytest.mark.parametrize(
    ("mood", "ends"),
    [
        (PermissionDenied("not any more"), True),
        (Http404("it is gone"), True),
        (Throttled(), True),
        (Away(), False),
        (RuntimeError("the database is away"), False),
    ],
)
async def test_policy_says_whether_a_stream_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mood: Exception,
    ends: bool,
) -> None:
    async with connect(Checked.as_view(permission_classes=[Moody])) as stream:
        await stream.receive()
        await stream.receive_nothing(0.1)
        monkeypatch.setattr(Moody, "mood", mood)
        if ends:
            assert (await stream.receive()).event == "revoked"
            await stream.receive_end()
        else:
            await stream.receive_nothing(0.1)
    assert ("could not check its user again" in caplog.text) is not ends


async def test_a_database_that_is_away_is_not_logged_for_each_of_many_streams(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    view = Checked.as_view(permission_classes=[Moody])
    asked = 0

    class Absent(Exception):
        """The server does not answer."""

    def count(*args: Any) -> bool:
        nonlocal asked
        asked += 1
        raise Absent

    async with AsyncExitStack() as stack:
        for _ in range(15):
            await (await stack.enter_async_context(connect(view))).receive()
        monkeypatch.setattr(Moody, "has_permission", count)
        await eventually(lambda: asked > 30)
        assert caplog.text.count("could not check its user again") == reports.REPEATS
        caplog.clear()
        monkeypatch.setattr(reports, "REPEAT_SECONDS", 0)
        await eventually(lambda: "more such errors were not logged" in caplog.text)
    assert caplog.records[0].exc_info[1].__class__ is Absent  # type: ignore[index,union-attr]


class ByBadge(BaseAuthentication):
    badge = Badge()

    def authenticate(self, request: Any) -> Any:
        return self.badge, None


@async_only_middleware
def acting_as_another(get_response: Any) -> Any:
    """A middleware by which staff sees the site as another user does."""

    async def middleware(request: Any) -> Any:
        request.user = await aget_user(request)
        if request.user.is_staff:
            request.user = await User.objects.aget(username="ann")
        return await get_response(request)

    return middleware


class WhileBadged(BaseAuthentication):
    def authenticate(self, request: Any) -> Any:
        return (User(pk=1), None) if Badge.is_authenticated else None


urlpatterns = [
    sse_path("demanded/", Checked.as_view(authentication_classes=[WhileBadged])),
    sse_path("badge/", Checked.as_view(authentication_classes=[ByBadge])),
    sse_path("acting/", Checked),
]


async def test_login_required_middleware_is_asked_again(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    async with connect(get_asgi_application(), "/badge/") as stream:
        await stream.receive()
        await stream.receive_nothing(0.1)
        monkeypatch.setattr(Badge, "is_authenticated", False)
        assert (await stream.receive()).event == "revoked"
    async with connect(get_asgi_application(), "/badge/") as stream:
        assert stream.status_code == 403


@pytest.mark.django_db(transaction=True)
async def test_user_as_whom_another_acts_is_asked_for_again(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        f"{__name__}.acting_as_another",
    ]
    ann = await sync_to_async(User.objects.create_user)("ann")
    root = await sync_to_async(User.objects.create_superuser)("root")
    async with connect(get_asgi_application(), "/acting/", user=root) as stream:
        assert (await stream.receive()).data == "ann"
        await stream.receive_nothing(0.2)
        await ann.adelete()
        assert (await stream.receive()).event == "revoked"


async def test_nobody_is_none_where_a_login_is_demanded(settings: Any) -> None:
    """DRF says ``None`` for who is not authenticated, where its settings want that."""
    settings.ROOT_URLCONF = __name__
    settings.REST_FRAMEWORK = {"UNAUTHENTICATED_USER": None}
    settings.MIDDLEWARE = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]

    application = get_asgi_application()
    async with connect(application, "/demanded/") as stream:
        await stream.receive()
        Badge.is_authenticated = False
        assert (await stream.receive()).event == "revoked"
        await stream.receive_end()
    async with connect(application, "/demanded/") as refused:
        assert refused.status_code == 403
