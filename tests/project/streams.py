"""Streams that behave in every way that a test wants to see through to the client."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_not_required, login_required
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import Http404
from django.utils import timezone, translation
from django.utils.decorators import method_decorator
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication, TokenAuthentication
from rest_framework.permissions import BasePermission, IsAdminUser, IsAuthenticated
from rest_framework.throttling import SimpleRateThrottle
from rest_framework.views import exception_handler

from django_sse import SSEView, StreamFinished

from .journal import record


class Recorded(SSEView):
    """A stream whose end a test can see."""

    async def disconnect(self) -> None:
        key = self.request.GET.get("key")
        record("disconnect", stream=type(self).__name__, reason=self.close_reason, key=key)


class Quiet(Recorded):
    """Say something, and nothing more."""

    async def stream(self) -> None:
        await self.send("open")
        await asyncio.Event().wait()


class Private(Quiet):
    """For users only."""

    permission_classes = [IsAuthenticated]


class Steps(Recorded):
    """Send an event each time somebody asks for it."""

    gate = asyncio.Event()

    async def stream(self) -> None:
        for number in range(3):
            await self.send(str(number), event="step", id=str(number))
            await self.gate.wait()
            self.gate.clear()


class Busy(Recorded):
    """Send small events for ever, without a pause of its own."""

    async def stream(self) -> None:
        number = 0
        while True:
            await self.send(str(number))
            number += 1


class Flood(Recorded):
    """Send 64 KiB at a time for ever, and tell how far it came."""

    async def stream(self) -> None:
        sent = 0
        while True:
            await self.send("x" * 65536)
            sent += 1
            if sent % 16 == 0:
                record("flood", megabytes=sent // 16, key=self.request.GET.get("key"))


class Slow(Recorded):
    """Do 0.1 s of synchronous work with the database, when told to, and say where."""

    start = asyncio.Event()

    async def stream(self) -> None:
        await self.send("ready")
        await self.start.wait()
        name, thread = await sync_to_async(self.work)()
        await self.send({"thread": name, "ident": thread})
        await asyncio.Event().wait()

    def work(self) -> tuple[str, int]:
        User.objects.count()
        time.sleep(0.1)
        return threading.current_thread().name, threading.get_ident()


class Echo(Recorded):
    """Send what can be read of the request while the stream runs. Lazy things would raise here."""

    http_method_names = ["get", "head", "options", "post", "put"]
    greeting = "none"

    async def stream(self) -> None:
        request: Any = self.request
        auth = request.auth
        await self.send(
            {
                "method": request.method,
                "user": self.user.get_username(),
                "auth": getattr(auth, "key", auth),
                "data": request.data,
                "query": request.query_params,
                "session": dict(getattr(request, "session", {})).get("basket"),
                "args": self.args,
                "kwargs": self.kwargs,
                "greeting": self.greeting,
                "last_event_id": self.last_event_id,
                "language": translation.get_language(),
                "time_zone": timezone.get_current_timezone_name(),
            }
        )


class HeaderUser(BaseAuthentication):
    """Authentication of a project's own: the user is named by a header."""

    def authenticate(self, request: Any) -> Any:
        name = request.headers.get("X-User")
        if name is None:
            return None
        user = User.objects.filter(username=name).first()
        if user is None:
            raise exceptions.AuthenticationFailed("Nobody of this name.")
        return user, f"header {name}"

    def authenticate_header(self, request: Any) -> str:
        return "X-User"


class ByHeader(Echo):
    authentication_classes = [HeaderUser]
    permission_classes = [IsAuthenticated]


class ByToken(Echo):
    authentication_classes = [TokenAuthentication]
    permission_classes = [IsAuthenticated]


class AdminsOnly(Echo):
    permission_classes = [IsAdminUser]


class EvenOnly(BasePermission):
    """A permission with a message of its own, which looks at the view."""

    message = "Odd numbers stay outside."

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(view.kwargs.get("number", 0) % 2 == 0)


class Even(Echo):
    authentication_classes = []
    permission_classes = [EvenOnly]


class TwicePerHour(SimpleRateThrottle):
    rate = "2/hour"
    scope = "twice"

    def get_cache_key(self, request: Any, view: Any) -> str:
        return "twice"


class Throttled(Echo):
    throttle_classes = [TwicePerHour]


class OwnErrors(Recorded):
    """Errors in a shape of the project's own."""

    permission_classes = [IsAuthenticated]
    topics = ["own"]

    def get_exception_handler(self) -> Any:
        return own_errors


def own_errors(error: Exception, context: Any) -> Any:
    """What a project sets as ``EXCEPTION_HANDLER``."""
    response = exception_handler(error, context)
    if response is not None:
        response.data = {"problem": type(error).__name__, "view": type(context["view"]).__name__}
        response["X-Problem"] = "yes"
    return response


class Raises(Recorded):
    """Raise in ``connect()`` what the address says."""

    errors: dict[str, Any] = {
        "404": Http404("No such shop."),
        "403": PermissionDenied("Closed."),
        "401": exceptions.NotAuthenticated(),
        "400": exceptions.ValidationError({"shop": ["Unknown."]}),
        "204": StreamFinished(),
        "500": RuntimeError("connect() is broken"),
    }

    async def connect(self) -> None:
        self.headers["X-Seen"] = "connect"
        raise self.errors[self.kwargs["error"]]

    async def stream(self) -> None:
        record("stream", stream="Raises")


class Breaks(Recorded):
    """Raise in the middle of the stream."""

    async def stream(self) -> None:
        await self.send("before")
        raise RuntimeError("stream() is broken")


class Busywork(Recorded):
    """Send from several tasks, and from handlers, while it leaves at any moment."""

    async def stream(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for name in "abc":
                tasks.create_task(self.count(name))

    async def count(self, name: str) -> None:
        for number in range(1000):
            await self.send(f"{name}{number}", comments="x" * 100)


class Hesitant(Recorded):
    """Take its time in ``connect()``."""

    async def connect(self) -> None:
        record("connect", stream="Hesitant")
        try:
            await asyncio.Event().wait()
        finally:
            record("left", stream="Hesitant")

    async def stream(self) -> None:
        record("stream", stream="Hesitant")


class Dressed(Recorded):
    """Set headers in ``connect()``."""

    async def connect(self) -> None:
        self.headers["X-Shop"] = "eu"

    async def stream(self) -> None:
        await self.send("hello")


class Stoppable:
    """A handler that comes with a mixin."""

    async def chat_stop(self, message: Any) -> None:
        await self.close()  # type: ignore[attr-defined]


class Chat(Stoppable, Recorded):
    """Pass on what its groups are told, while it streams."""

    async def get_groups(self) -> list[str]:
        return [f"room-{self.kwargs['room']}", "everywhere"]

    async def stream(self) -> None:
        await self.send("joined")
        await asyncio.Event().wait()

    async def chat_said(self, message: Any) -> None:
        await self.send(message["text"], event="said")

    async def chat_fail(self, message: Any) -> None:
        raise RuntimeError("the handler is broken")

    async def _x(self, message: Any) -> None:
        record("spoofed")

    def helper(self, message: Any) -> None:
        record("spoofed")


@method_decorator(login_not_required, name="dispatch")
class OpenToAll(Echo):
    """Open where ``LoginRequiredMiddleware`` is installed."""


@method_decorator(login_required, name="dispatch")
class Guarded(Echo):
    """Behind Django's decorator, the way that its class-based views have it."""


class Transactional(Echo):
    """Tell in ``connect()`` whether the request runs in a transaction."""

    async def connect(self) -> None:
        self.headers["X-Atomic"] = str(await sync_to_async(lambda: connection.in_atomic_block)())
