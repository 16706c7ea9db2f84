"""The bounded pool of threads in which the synchronous work of all streams runs.

A stream outlives its request, and so the request's thread. asgiref would then run the synchronous
work of all streams in one single thread of the process. Here each stream belongs to one *lane*: a
thread that starts when there is work and ends when there is none.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.core.signals import setting_changed
from django.db import connections

from django_sse.conf import conf

from .databases import close_due, give_back, seconds_to_keep

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds without work after which a lane closes its database connections. It keeps them during a
#: burst of queries, since connecting to PostgreSQL takes milliseconds.
RELEASE_SECONDS = 0.1
#: Seconds without work after which a lane ends its thread.
IDLE_SECONDS = 1.0


class Lane(Executor):
    """One thread, run on demand, with the database connections that belong to it.

    A lane does one call at a time, in the order in which they came. It returns a pool's connection
    to the pool after each call, whatever ``CONN_MAX_AGE`` says. After ``RELEASE_SECONDS`` without
    work, it closes other connections that are past their ``CONN_MAX_AGE``, as Django does at the
    end of a request. After ``IDLE_SECONDS`` the thread ends, unless a connection is still open. No
    connection is closed in a transaction, nor while a query is iterated in pieces
    (``aiterator()``), however long the stream waits between two of them.
    """

    def __init__(self) -> None:
        """Begin without a thread."""
        self.streams = 0
        self._work: deque[tuple[Future[Any], functools.partial[Any]]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._iterating: weakref.WeakSet[Any] = weakref.WeakSet()
        # asgiref looks this object up to find the thread for thread-sensitive work. All streams of
        # the lane share it. It is never entered, so it costs a stream nothing.
        self._sensitive = ThreadSensitiveContext()
        SyncToAsync.context_to_thread_executor[self._sensitive] = self

    def adopt(self, context: contextvars.Context) -> None:
        """Let ``sync_to_async`` in ``context`` use this lane."""
        context.run(SyncToAsync.thread_sensitive_context.set, self._sensitive)

    @property
    def running(self) -> bool:
        """Whether the lane has its thread at the moment."""
        return self._thread is not None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` in the lane's thread, and start the thread if it does not
        run.

        Raises ``RuntimeError`` where the system has no more threads.
        """
        future: Future[T] = Future()
        call = functools.partial(fn, *args, **kwargs)
        with self._wake:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="django_sse", daemon=True)
                # Set self._thread only after start(), which may raise: then the next call tries
                # again.
                thread.start()
                self._thread = thread
            self._work.append((future, call))
            self._wake.notify()
        return future

    def _run(self) -> None:
        patience: float | None = RELEASE_SECONDS
        idle_since = time.monotonic()
        while True:
            with self._wake:
                worked = self._wake.wait_for(lambda: self._work, patience)
            if not worked:
                patience = self._release()
                if patience == 0:
                    patience = max(idle_since + IDLE_SECONDS - time.monotonic(), 0)
                if patience != 0:
                    continue
                with self._wake:
                    if not self._work:
                        self._thread = None
                        return
            patience = RELEASE_SECONDS
            # Call a function for it, so that no local name of this frame keeps the call's objects
            # alive while the thread waits.
            self._do(*self._work.popleft())
            idle_since = time.monotonic()

    def _do(self, future: Future[Any], call: functools.partial[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            self._remember_iterators(call)
            result = call()
        except BaseException as error:
            future.set_exception(error)
            close_due(after_error=True)
        else:
            future.set_result(result)
        if not self._iterating:
            give_back()

    def _release(self) -> float | None:
        """Close the connections that are due.

        Returns for how many seconds to wait for work; ``0`` to end the thread, ``None`` for any
        time.
        """
        if self._iterating:
            return IDLE_SECONDS
        close_due()
        return seconds_to_keep(IDLE_SECONDS)

    def _remember_iterators(self, call: functools.partial[Any]) -> None:
        # Django's asynchronous iteration passes the same generator to one call after another.
        # Closing the connection between two of these calls would break the query.
        for argument in call.args:
            if isinstance(argument, functools.partial):
                self._iterating.update(a for a in argument.args if inspect.isgenerator(a))


class Pool:
    """The lanes of this process: as many as the setting ``THREADS`` says, made when they are needed."""

    def __init__(self) -> None:
        """Begin without lanes."""
        self._lanes: list[Lane] = []
        self._lock = threading.Lock()

    def lease(self) -> Lane:
        """Return the lane with the fewest streams, for a stream that begins."""
        with self._lock:
            while len(self._lanes) < conf.threads:
                self._lanes.append(Lane())
            lane = min(self._lanes, key=_streams)
            lane.streams += 1
            return lane

    def give_back(self, lane: Lane) -> None:
        """Note that a stream of the lane has ended."""
        with self._lock:
            lane.streams -= 1

    async def settle(self) -> None:
        """Close the database connections of lanes without streams now; for tests."""
        idle = [lane for lane in self._lanes if not lane.streams and lane.running]
        for lane in idle:
            await asyncio.wrap_future(lane.submit(connections.close_all))

    def reset(self) -> None:
        """Begin with new lanes, as many as the settings say now; the old ones end by themselves."""
        with self._lock:
            self._lanes = []


def _streams(lane: Lane) -> int:
    return lane.streams


pool = Pool()


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "DJANGO_SSE":
        pool.reset()


setting_changed.connect(_on_setting_changed)
