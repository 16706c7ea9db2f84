"""A stream that treats each connection of a client as the address says."""

from __future__ import annotations

import asyncio

from rest_framework.exceptions import APIException

from django_sse import ServerSentEvent, SSEView, StreamFinished, sse_path
from tests.project.journal import record


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


urlpatterns = [sse_path("scripted/", Scripted)]
