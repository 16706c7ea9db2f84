"""Streams for clients: one that treats each connection as its address says, and a page's own."""

from __future__ import annotations

import asyncio

from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, Template
from django.urls import path
from django.views import View
from rest_framework.exceptions import APIException

from django_sse import ServerSentEvent, SSEView, StreamFinished, publish, sse_path
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


urlpatterns = [
    *tricky.urlpatterns,
    sse_path("scripted/", Scripted),
    sse_path("scripted-for-datastar/", Scripted.as_view(named="datastar-merge-fragments")),
    sse_path("orders/", News, name="order-events"),
    path("orders/rename/", Board.as_view()),
]
