"""The application of ``make demo``: the project, its static files, and slow responses on request."""

from __future__ import annotations

import asyncio
from typing import Any

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

from testproject.asgi import application as project

#: Bytes a second of a response whose address has ``slow=1``.
SLOW = 20_000

#: Bytes that a slow response sends at once.
PIECE = 2000


class SlowLine:
    """Sends some responses as slowly as a slow network, by waiting after each piece.

    A browser on the same machine buffers megabytes, so a page that reads slowly does not make the
    stream wait. With this middleware the stream waits, as it does for a phone with a bad connection.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass the request on."""

        async def send_slowly(message: dict[str, Any]) -> None:
            body = message.get("body", b"")
            for start in range(0, len(body) - PIECE, PIECE):
                await send(message | {"body": body[start : start + PIECE], "more_body": True})
                await asyncio.sleep(PIECE / SLOW)
                message = message | {"body": body[start + PIECE :]}
            await send(message)
            await asyncio.sleep(len(message.get("body", b"")) / SLOW)

        is_slow = b"slow=1" in scope.get("query_string", b"").split(b"&")
        await self.application(scope, receive, send_slowly if is_slow else send)


application = SlowLine(ASGIStaticFilesHandler(project))
