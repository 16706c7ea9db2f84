"""Heartbeats: what keeps proxies from closing a quiet stream, and shows that a client has gone."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_sse.exceptions import SSEError

from .events import ServerSentEvent

logger = logging.getLogger("django_sse")

EventProvider = Callable[[], ServerSentEvent | Awaitable[ServerSentEvent]]


@dataclass(frozen=True, slots=True, init=False)
class Heartbeat:
    """How often a stream sends a sign of life, and which.

    ``period`` is in seconds, or a ``timedelta``; ``None`` and ``0`` turn heartbeats off.
    ``event`` is a ``ServerSentEvent``, a dict of its fields, a callable that returns a
    ``ServerSentEvent`` (sync, then it must not block; or async), or a callable's dotted path. By
    default it is the comment ``heartbeat``, which browsers ignore.

    Raises ``ImproperlyConfigured`` for anything else, and for an event that cannot be sent.
    """

    period: float
    event: ServerSentEvent | EventProvider | str
    encoded: bytes | None = field(repr=False, compare=False)

    def __init__(
        self,
        period: float | timedelta | None,
        event: ServerSentEvent | Mapping[str, Any] | EventProvider | str | None = None,
    ) -> None:
        object.__setattr__(self, "period", check_period("A heartbeat's period", period))
        object.__setattr__(self, "event", check_event("A heartbeat's event", event))
        # The same bytes for every beat of every stream; only objects need the view's serializer.
        object.__setattr__(self, "encoded", _encoded(self.event))

    def __bool__(self) -> bool:
        return self.period > 0

    def provider(self) -> EventProvider:
        """Return the callable that gives the event of a beat; imports a dotted path."""
        event = self.event
        if isinstance(event, ServerSentEvent):
            return functools.partial(_same, event)
        if isinstance(event, str):
            return _imported(event)
        return event


def check_period(name: str, period: Any) -> float:
    """Return a period in seconds; raise ``ImproperlyConfigured``, by that name, for a wrong one."""
    if period is None:
        return 0.0
    number = period.total_seconds() if isinstance(period, timedelta) else period
    if isinstance(number, bool) or not isinstance(number, int | float):
        number = -1
    if not 0 <= number <= sys.float_info.max:
        raise ImproperlyConfigured(
            f"{name} must be a number of seconds, a timedelta or None (0 and None turn it off), got "
            f"{period!r}."
        )
    return float(number)


def _encoded(event: ServerSentEvent | EventProvider | str) -> bytes | None:
    if not isinstance(event, ServerSentEvent):
        return None
    return event.encode() if event.data is None or isinstance(event.data, str) else None


def _same(event: ServerSentEvent) -> ServerSentEvent:
    return event


def check_event(name: str, event: Any) -> ServerSentEvent | EventProvider | str:
    """Return a beat's event; raise ``ImproperlyConfigured``, by that name, for a wrong one."""
    if event is None:
        return ServerSentEvent(comments="heartbeat")
    if isinstance(event, Mapping):
        try:
            return ServerSentEvent(**event)
        except (TypeError, SSEError) as error:
            raise ImproperlyConfigured(
                f"{name} {dict(event)!r} is not one that can be sent: {error}"
            ) from error
    accepted: ServerSentEvent | EventProvider | str = event
    if isinstance(event, ServerSentEvent) or callable(event) or _is_dotted(event):
        return accepted
    raise ImproperlyConfigured(
        f"{name} must be a ServerSentEvent, a dict of its fields, a callable or the dotted path of "
        f"one, got {event!r}."
    )


def _is_dotted(event: object) -> bool:
    if not isinstance(event, str):
        return False
    parts = event.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def _imported(path: str) -> EventProvider:
    try:
        provider = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"A heartbeat's event {path!r} cannot be imported: {error}"
        ) from error
    if not callable(provider):
        raise ImproperlyConfigured(
            f"A heartbeat's event {path!r} must be a callable that returns a ServerSentEvent, "
            f"it is {provider!r}."
        )
    return provider  # type: ignore[no-any-return]


class Pulse:
    """The beats of one stream: a timer, and a task only while an async provider runs.

    ``beat`` is given the encoded bytes, or the event that a provider returned. The first beat
    comes after a random part of the period, so that the beats of many streams are spread.
    """

    __slots__ = ("_beat", "_context", "_due", "_heartbeat", "_loop", "_provider", "_task", "_timer")

    def __init__(
        self,
        heartbeat: Heartbeat,
        beat: Callable[[bytes | ServerSentEvent], None],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._heartbeat = heartbeat
        self._beat = beat
        self._loop = loop
        self._context = context
        self._provider: EventProvider | None = None
        self._task: asyncio.Task[Any] | None = None
        # Kept here: uvloop returns a plain handle, without when(), for what is due at once.
        self._due = loop.time() + heartbeat.period * random.random()  # noqa: S311 - spreads load
        self._timer: asyncio.Handle = loop.call_at(self._due, self._fire, context=context)

    def stop(self) -> asyncio.Task[Any] | None:
        """Beat no more, at once; return the task of a provider that was running, to wait for."""
        self._timer.cancel()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        return task

    def _fire(self) -> None:
        # Scheduled before anything can fail, and from the planned moment, so that beats don't drift.
        self._due = max(self._due + self._heartbeat.period, self._loop.time())
        self._timer = self._loop.call_at(self._due, self._fire, context=self._context)
        if self._heartbeat.encoded is not None:
            self._beat(self._heartbeat.encoded)
            return
        if self._task is not None:
            return  # The provider is slower than the period: this beat is left out.
        try:
            if self._provider is None:
                self._provider = self._heartbeat.provider()
            event = self._provider()
            if inspect.isawaitable(event):
                # Not wrapped where it is a coroutine: it would never be awaited, which Python
                # warns of, when the task is cancelled before its first step.
                running = event if inspect.iscoroutine(event) else _awaited(event)
                self._task = self._loop.create_task(running, context=self._context)
                self._task.add_done_callback(self._on_event, context=self._context)
            else:
                self._send(event)
        except Exception:
            self._log()

    def _on_event(self, task: asyncio.Task[Any]) -> None:
        if task is not self._task:
            # Stopped meanwhile. What its callable says to that is of no use to anybody.
            if not task.cancelled():
                task.exception()
            return
        self._task = None
        try:
            self._send(task.result())
        except asyncio.CancelledError:
            logger.error("The heartbeat's event %r cancelled itself.", self._heartbeat.event)
        except Exception:
            self._log()

    def _send(self, event: Any) -> None:
        if not isinstance(event, ServerSentEvent):
            raise TypeError(
                f"The heartbeat's event {self._heartbeat.event!r} must return a ServerSentEvent, "
                f"it returned {event!r}."
            )
        self._beat(event)

    def _log(self) -> None:
        logger.exception(
            "The heartbeat's event %r failed; this beat is left out.", self._heartbeat.event
        )


async def _awaited(event: Awaitable[Any]) -> Any:
    return await event
