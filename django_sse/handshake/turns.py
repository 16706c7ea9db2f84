"""Turns for handshakes: a bounded number is under way at once, and the others wait in line.

After a restart, all clients come back together. Without turns, their handshakes would share the event
loop step by step: each handshake, and each page beside them, would take thousands of times as long.
With turns, all handshakes together take as long as before, and need fewer threads and database
connections. A page waits only for the handshakes that are under way.

``django_sse.asgi`` loads this module before Django is set up, so nothing here needs apps or DRF.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from contextvars import Context
from typing import Any

from django.urls import Resolver404, resolve

from django_sse.conf import conf
from django_sse.connection.shutdown import come_back_milliseconds
from django_sse.monitoring.metrics import counters
from django_sse.servers.base import Send
from django_sse.wire.events import CONTENT_TYPE, encode_fields

#: If the first handshake in line has waited for so many seconds, new clients are told to come back
#: later.
WAIT_SECONDS = 5.0
#: The next handshake in line begins so many rounds of the event loop after the last one, about as
#: many as a handshake needs, or after so many seconds. Otherwise many handshakes would progress in the
#: same round, and uvloop, which accepts one connection in each round, would fall behind.
PACE_ROUNDS = 6
PACE_SECONDS = 0.002

_ACCEPTED = CONTENT_TYPE.encode()
#: The attribute of a stream's view, as ``urls.py`` has it.
_MARK = "opens_event_stream"


def mark(callback: Any) -> None:
    """Mark what ``as_view()`` returns. Decorators that use ``functools.wraps`` copy the mark."""
    setattr(callback, _MARK, True)


def opens_stream(callback: Any) -> bool:
    """Return whether a view of ``urls.py`` opens a stream, as far as can be known."""
    return getattr(callback, _MARK, False) is True


class Turn:
    """The right of one handshake to be under way."""

    __slots__ = ("_line",)

    def __init__(self, line: Line) -> None:
        """Use ``Line.turn()``."""
        self._line: Line | None = line

    def end(self) -> None:
        """Let the next one in line begin; does nothing the second time."""
        line, self._line = self._line, None
        if line is not None:
            line.go_on()


class Line:
    """The handshakes of one event loop that are under way, and those that wait for their turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin empty."""
        self._loop = loop
        self._most = 1
        self._under_way = 0
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        # When the last one began, and how often the loop has gone round since the first one waits.
        self._begun = 0.0
        self._rounds = 0
        self._counting = False

    @property
    def is_overrun(self) -> bool:
        """Whether the first in line has waited for so long that no other request should join it."""
        return bool(self._waiting) and self._loop.time() - self._waiting[0][0] > WAIT_SECONDS

    async def turn(self, most: int) -> Turn:
        """Wait until the earlier handshakes have begun, and fewer than ``most`` are under way."""
        self._most = most
        now = self._loop.time()
        if self._under_way < most and not self._waiting and now - self._begun > PACE_SECONDS:
            self._under_way += 1
            self._begun = now
            return Turn(self)
        begun = self._loop.create_future()
        self._waiting.append((now, begun))
        self._count()
        try:
            await begun
        except asyncio.CancelledError:
            if begun.done() and not begun.cancelled():
                self.go_on()
            raise
        return Turn(self)

    def go_on(self) -> None:
        """End a turn."""
        self._under_way -= 1
        self._count()

    def _count(self) -> None:
        """Let the next in line begin in time, where a request waits."""
        if self._waiting and self._under_way < self._most and not self._counting:
            self._counting = True
            self._loop.call_soon(self._round, context=Context())

    def _round(self) -> None:
        self._counting = False
        self._rounds += 1
        now = self._loop.time()
        due = int((now - self._begun) / PACE_SECONDS) or int(self._rounds >= PACE_ROUNDS)
        while due and self._waiting and self._under_way < self._most:
            _, begun = self._waiting.popleft()
            if not begun.done():
                begun.set_result(None)
                self._under_way += 1
                self._begun, self._rounds = now, 0
                due -= 1
        self._count()


_lines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Line] = weakref.WeakKeyDictionary()


def line_for(scope: Any) -> Line | None:
    """Return the line in which a request has to wait, or ``None``.

    A request waits if it names an event stream in ``Accept``, as an ``EventSource`` does, and
    ``MAX_HANDSHAKES`` is a number.
    """
    if scope.get("method") != "GET" or conf.max_handshakes is None or not _names_stream(scope):
        return None
    loop = asyncio.get_running_loop()
    line = _lines.get(loop)
    if line is None:
        line = _lines[loop] = Line(loop)
    return line


def may_be_refused_here(scope: Any) -> bool:
    """Return whether a request can be told to come back without the help of any middleware.

    Pages of other sites need the headers of CORS: without them, an ``EventSource`` gives up.
    """
    if any(name == b"origin" for name, _ in scope["headers"]):
        return False
    try:
        found = resolve(scope["path"].removeprefix(scope.get("root_path", "")))
    except Resolver404:
        return False
    return opens_stream(found.func)


async def refuse(send: Send) -> None:
    """Tell an ``EventSource`` to come back later."""
    counters.refused += 1
    headers = [
        (b"content-type", _ACCEPTED),
        (b"cache-control", b"no-store, no-transform"),
        (b"x-accel-buffering", b"no"),
    ]
    body = encode_fields(None, retry=come_back_milliseconds())
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _names_stream(scope: Any) -> bool:
    return any(name == b"accept" and _ACCEPTED in value.lower() for name, value in scope["headers"])
