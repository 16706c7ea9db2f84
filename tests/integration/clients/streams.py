"""Streams for clients: one that treats each connection as its address says, and a page's own."""

from __future__ import annotations

import asyncio
from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, Template
from django.urls import path
from django.views import View
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException, PermissionDenied
from rest_framework.permissions import IsAuthenticated

from django_sse import ServerSentEvent, SSEView, StreamFinished, apublish, publish, sse_path
from django_sse.tickets import TicketAuthentication, TicketView
from tests.docs.pages import ROOT, blocks
from tests.project.journal import record

from . import tricky


class BadGateway(APIException):
    """What a proxy answers while its server restarts."""

    status_code = 502


class Scripted(SSEView):
    """Do the next of ``?script=…`` for each connection of ``?key=…``; then stay open.

    ``ends`` sends an event and ends, ``finishes`` says before that there will be no more, ``502``
    and ``204`` refuse.
    """

    authentication_classes = []
    permission_classes = []
    done: dict[str, int] = {}
    named: str | None = None

    async def connect(self) -> None:
        key = self.request.GET["key"]
        number = self.done.get(key, 0)
        self.done[key] = number + 1
        steps = self.request.GET["script"].split(",")
        self.step = steps[number] if number < len(steps) else "stays"
        sent = self.request.headers.get("Authorization")
        record("connect", key=key, step=self.step, last=self.last_event_id, authorization=sent)
        if self.step == "502":
            raise BadGateway
        if self.step == "204":
            raise StreamFinished

    async def stream(self) -> None:
        if self.step == "ids":
            await self.send("named", id="é-🜁", retry=100)
            return
        if self.step in ("without", "alone"):
            # An event after the one that has an id; or a block with a later id and nothing else.
            await self.send(
                "selector ul\nmergeMode append\nfragments <li data-id=7>1</li>",
                event=self.named,
                id="7",
                retry=100,
            )
            later = (
                {
                    "data": "selector ul\nmergeMode append\nfragments <li data-id=7>2</li>",
                    "event": self.named,
                }
                if self.step == "without"
                else {"id": "8"}
            )
            await self.send(ServerSentEvent(**later))
            return
        number = int(self.last_event_id or 0) + 1
        await self.send(ServerSentEvent(id=f"{number}", retry=100))
        await self.send(f"<b>{number}</b>", id=f"{number}")
        await self.send(f"<i>{number}</i>", event="named", id=f"{number}")
        if self.step == "finishes":
            await self.send("", event="end")
        if self.step == "stays":
            await asyncio.Event().wait()

    async def disconnect(self) -> None:
        record("disconnect", key=self.request.GET["key"], step=self.step)


class News(SSEView):
    """What the board follows."""

    authentication_classes = []
    permission_classes = []
    topics = ["news"]


class Board(View):
    """The page of the documentation that changes something, and follows the changes of others."""

    [text] = [
        block.text
        for block in blocks(ROOT / "docs" / "topics.md")
        if block.path == "shop/templates/shop/board.html"
    ]

    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(Template(self.text).render(RequestContext(request)))

    def post(self, request: HttpRequest) -> HttpResponse:
        publish("news", request.POST["item"], event="renamed", exclude=request)
        return self.get(request)


class Scribbles(SSEView):
    """A topic of ``?key=…`` with a snapshot: how many connections there were."""

    authentication_classes = []
    permission_classes = []
    retry = 100

    async def get_topics(self) -> list[str]:
        return [f"scribbles-{self.key}"]

    async def connect(self) -> None:
        self.key = self.request.GET["key"]
        record("connect", key=self.key, last=self.last_event_id)

    async def snapshot(self) -> None:
        await self.send({"snapshot": self.key}, event="snapshot")

    async def disconnect(self) -> None:
        record("disconnect", key=self.key)


async def scribble(request: HttpRequest) -> HttpResponse:
    """Publish ``?text=…`` to the topic of ``?key=…``."""
    await apublish(f"scribbles-{request.GET['key']}", request.GET["text"], event="line")
    return HttpResponse("ok")


class Bearer(BaseAuthentication):
    """Knows one user, by a header."""

    def authenticate(self, request: Any) -> Any:
        if request.headers.get("Authorization") != "Bearer demo":
            return None
        return User.objects.get(username="demo"), None


class Tickets(TicketView):
    """Keeps count of the tickets that it gives."""

    authentication_classes = [Bearer]

    def post(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        record("ticket", path=request.data["path"])
        return super().post(request, *args, **kwargs)


class Ticketed(Scripted):
    """The same as ``Scripted``, for users with a ticket; ``403`` refuses one."""

    authentication_classes = [TicketAuthentication]
    permission_classes = [IsAuthenticated]

    async def connect(self) -> None:
        await super().connect()
        if self.step == "403":
            raise PermissionDenied


class Heavy(SSEView):
    """Send 600 events of 100 kB, and keep the number of the last one."""

    authentication_classes = []
    permission_classes = []

    async def stream(self) -> None:
        for number in range(600):
            await self.send({"number": number, "padding": "." * 100_000})
            record("sent", key="heavy", number=number)


urlpatterns = [
    *tricky.urlpatterns,
    sse_path("scripted/", Scripted),
    sse_path("scripted-for-datastar/", Scripted.as_view(named="datastar-merge-fragments")),
    sse_path("scribbles/", Scribbles),
    path("scribble/", scribble),
    path("tickets/", Tickets.as_view()),
    sse_path("ticketed/", Ticketed),
    sse_path("heavy/", Heavy),
    sse_path("orders/", News, name="order-events"),
    path("orders/rename/", Board.as_view()),
]
