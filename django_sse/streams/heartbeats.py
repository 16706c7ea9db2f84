"""Heartbeats of one stream: what keeps proxies from closing a quiet stream, and shows that a client has gone."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from datetime import timedelta
from typing import Any, Protocol

from django_sse.conf import FROM_SETTINGS, FromSettings, conf
from django_sse.connection.outbox import body_message, frame
from django_sse.connection.tasks import settle, stop
from django_sse.exceptions import StreamClosed
from django_sse.monitoring.reports import log_error
from django_sse.wire.events import ServerSentEvent
from django_sse.wire.heartbeat import EventProvider, Heartbeat

from .sending import Sending, T

logger = logging.getLogger("django_sse")

#: Into how many moments the beats of one period are spread.
SLOTS = 64


class Beating(Sending[T]):
    """A stream with a heartbeat."""

    #: The heartbeat of this view; ``None`` turns it off. By default, the setting's.
    heartbeat: Heartbeat | None = FROM_SETTINGS

    _pulse: Pulse | Slot | None = None
    # The task of a heartbeat that was stopped while its callable ran.
    _last_beat: asyncio.Task[Any] | None = None
    # The task of a heartbeat whose event is an object.
    _object_beat: asyncio.Task[None] | None = None

    def start_heartbeat(
        self, period: float | timedelta | Heartbeat | None = None, event: Any = None
    ) -> None:
        """Begin to beat, or beat differently from now on.

        Takes a ``Heartbeat``, or its ``period`` (seconds or a ``timedelta``; ``0`` is off) and
        ``event``. What is not given is the view's own, or the setting's where the view's is off.
        Raises ``ImproperlyConfigured`` for a wrong one, ``TypeError`` for a ``Heartbeat`` with an
        event beside it, and ``StreamClosed`` unless the stream is open.
        """
        if not self.is_open:
            raise StreamClosed(self._closed_text())
        if isinstance(period, Heartbeat):
            if event is not None:
                raise TypeError("start_heartbeat() takes a Heartbeat alone: it has its own event.")
            heartbeat = period
        else:
            # A view without one of its own begins with the setting's.
            own = self._own_heartbeat() or conf.heartbeat
            heartbeat = Heartbeat(
                own.period if period is None else period, own.event if event is None else event
            )
        self.stop_heartbeat()
        if heartbeat:
            loop = asyncio.get_running_loop()
            if heartbeat.encoded is None:
                self._pulse = Pulse(heartbeat, self._on_beat, loop, self._context)
            else:
                self._pulse = rounds(loop, heartbeat.period, heartbeat.encoded).join(self)

    def stop_heartbeat(self) -> None:
        """Stop to beat; does nothing where there is no heartbeat."""
        pulse, self._pulse = self._pulse, None
        if isinstance(pulse, Slot):
            pulse.leave(self)
        elif pulse is not None:
            self._last_beat = pulse.stop() or self._last_beat

    def _own_heartbeat(self) -> Heartbeat:
        own = self.heartbeat
        if isinstance(own, FromSettings):
            return conf.heartbeat
        return Heartbeat(None) if own is None else own

    @property
    def _beats_still(self) -> bool:
        sending = self._object_beat is not None and not self._object_beat.done()
        return self._last_beat is not None or sending

    async def _let_beats_end(self) -> None:
        if self._last_beat is not None:
            await settle(self._last_beat)
        if self._object_beat is not None:
            await stop(self._object_beat)

    def on_round(self, message: dict[str, Any], size: int, chunk: bytes) -> None:
        """Write a beat that other streams share, as ``Outbox.write()`` takes it."""
        self.notice_loss()
        outbox = self._outbox
        # A connection that takes nothing needs no sign of life, and its memory is bounded.
        if outbox is not None and self.close_reason is None:
            outbox.write(message, size, chunk)

    def _on_beat(self, beat: ServerSentEvent) -> None:
        self.notice_loss()
        outbox = self._outbox
        if outbox is None or outbox.blocked or self.close_reason is not None:
            return
        if beat.data is None or isinstance(beat.data, str):
            outbox.put(beat.encode())
        elif self._object_beat is None or self._object_beat.done():
            # send() may take a thread for an object; the next beat waits for this one.
            self._object_beat = asyncio.get_running_loop().create_task(
                self._send_beat(beat), context=self._context
            )

    async def _send_beat(self, beat: ServerSentEvent) -> None:
        try:
            if self._held:
                self._beat = beat
            with suppress(StreamClosed):
                await self.send(beat)
        except Exception as error:
            log_error(self, "The heartbeat of %s failed.", error=error)


class Beats(Protocol):
    """The attributes and methods of a stream that a round of heartbeats uses."""

    def on_round(self, message: dict[str, Any], size: int, chunk: bytes) -> None:
        """Write the beat."""


class Rounds:
    """The streams of one event loop that beat with the same bytes and the same period, in seconds.

    The period is divided into ``SLOTS``, each with one timer for all of its streams, which get the
    same bytes from one callback. A stream has its place at random, so that the beats of many are
    spread; the first one comes within a period, and not in its first eighth.
    """

    __slots__ = ("_begun", "_loop", "_slots", "chunk", "message", "period", "size")

    def __init__(self, loop: asyncio.AbstractEventLoop, period: float, encoded: bytes) -> None:
        """Begin without streams."""
        self._loop = loop
        self._begun = loop.time()
        self._slots: dict[int, Slot] = {}
        self.period = period
        self.message = body_message(encoded)
        self.size = len(encoded)
        self.chunk = frame(encoded)

    def join(self, stream: Beats) -> Slot:
        """Let a stream beat until it leaves its slot, which is returned."""
        now = self._loop.time()
        # None of those that are next: a stream that has just opened needs no beat yet.
        next_one = int((now - self._begun) % self.period / self.period * SLOTS)
        further = SLOTS // 8 + random.randrange(SLOTS - SLOTS // 8)  # noqa: S311 - spreads load
        number = (next_one + further) % SLOTS
        slot = self._slots.get(number)
        if slot is None:
            # The next moment of this slot, at most a period from now.
            offset = self.period * (number + 1) / SLOTS
            due = now + ((self._begun + offset - now) % self.period or self.period)
            slot = self._slots[number] = Slot(self, number, self._loop, due)
        slot.add(stream)
        return slot

    def remove(self, number: int) -> None:
        """Forget a slot that has no streams any more."""
        del self._slots[number]
        if not self._slots:
            for key, it in list(_rounds.items()):
                if it is self:
                    del _rounds[key]


class Slot:
    """The streams that beat in the same moment."""

    __slots__ = ("_due", "_loop", "_number", "_rounds", "_streams", "_timer")

    def __init__(
        self, rounds: Rounds, number: int, loop: asyncio.AbstractEventLoop, due: float
    ) -> None:
        """Start the timer; ``due`` is a moment of the loop's clock."""
        self._rounds = rounds
        self._number = number
        self._loop = loop
        self._streams: dict[Beats, None] = {}
        # Keep the moment: uvloop returns a plain handle without when() for a timer that is due at
        # once.
        self._due = due
        # The context of no stream: the timer may outlive the one that started it.
        self._timer: asyncio.Handle = loop.call_at(due, self._fire, context=Context())

    def add(self, stream: Beats) -> None:
        """Let a stream beat."""
        self._streams[stream] = None

    def leave(self, stream: Beats) -> None:
        """Let a stream beat no more."""
        del self._streams[stream]
        if not self._streams:
            self._timer.cancel()
            self._rounds.remove(self._number)

    def _fire(self) -> None:
        rounds = self._rounds
        # From the planned moment, so that beats don't drift.
        self._due = max(self._due + rounds.period, self._loop.time())
        self._timer = self._loop.call_at(self._due, self._fire, context=Context())
        for stream in tuple(self._streams):
            if stream not in self._streams:
                continue  # An earlier one's beat has ended it.
            try:
                stream.on_round(rounds.message, rounds.size, rounds.chunk)
            except Exception:
                # Catch the error here, so that the others still beat.
                logger.exception("The heartbeat of %s failed.", type(stream).__qualname__)


_rounds: dict[tuple[asyncio.AbstractEventLoop, float, bytes], Rounds] = {}


def rounds(loop: asyncio.AbstractEventLoop, period: float, encoded: bytes) -> Rounds:
    """Return the rounds of a loop with a period and bytes, made when they are first needed."""
    key = loop, period, encoded
    found = _rounds.get(key)
    if found is None:
        for gone in [other for other in _rounds if other[0].is_closed()]:
            del _rounds[gone]
        found = _rounds[key] = Rounds(loop, period, encoded)
    return found


class Pulse:
    """The timer of one stream's heartbeat whose event a callable makes, and a task while that runs.

    It calls ``beat`` with the event that the callable returned. The first beat comes after a random part of the period, so that the beats of many streams are spread.
    """

    __slots__ = ("_beat", "_context", "_due", "_heartbeat", "_loop", "_provider", "_task", "_timer")

    def __init__(
        self,
        heartbeat: Heartbeat,
        beat: Callable[[ServerSentEvent], None],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        """Start the timer; callables run in ``context``."""
        self._heartbeat = heartbeat
        self._beat = beat
        self._loop = loop
        self._context = context
        self._provider: EventProvider | None = None
        self._task: asyncio.Task[Any] | None = None
        # Keep the moment: uvloop returns a plain handle without when() for a timer that is due at
        # once.
        self._due = loop.time() + heartbeat.period * random.random()  # noqa: S311 - spreads load
        self._timer: asyncio.Handle = loop.call_at(self._due, self._fire, context=context)

    def stop(self) -> asyncio.Task[Any] | None:
        """Stop at once. Return the task of a callable that was running, which the caller waits for."""
        self._timer.cancel()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        return task

    def _fire(self) -> None:
        # Schedule the next beat before anything can fail, and from the planned moment, so that
        # beats don't drift.
        self._due = max(self._due + self._heartbeat.period, self._loop.time())
        self._timer = self._loop.call_at(self._due, self._fire, context=self._context)
        if self._task is not None:
            return  # The callable is slower than the period: leave this beat out.
        try:
            if self._provider is None:
                self._provider = self._heartbeat.provider()
            event = self._provider()
            if inspect.isawaitable(event):
                # A coroutine is not wrapped in another: the inner one would never be awaited, which
                # Python warns of, if the task is cancelled before its first step.
                running = event if inspect.iscoroutine(event) else _awaited(event)
                self._task = self._loop.create_task(running, context=self._context)
                self._task.add_done_callback(self._on_event, context=self._context)
            else:
                self._send(event)
        except Exception:
            self._log()

    def _on_event(self, task: asyncio.Task[Any]) -> None:
        if task is not self._task:
            # The heartbeat was stopped meanwhile. Without this look, asyncio would log the
            # exception of a callable that fails because of it.
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
