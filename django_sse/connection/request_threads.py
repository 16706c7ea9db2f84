"""The thread of a request: taken from those that are idle, where asgiref would start one and end it.

Django gives each request a thread for its synchronous work: middleware, signals, the database. To
start one, and another one that waits for its end, costs more than the rest of a stream's handshake.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from functools import partial
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import connections

P = ParamSpec("P")
T = TypeVar("T")

#: How many threads wait for the next request, and for how many seconds each of them.
MOST_IDLE = 8
IDLE_SECONDS = 1.0

_Call = tuple[Future[Any], Callable[[], Any]]


class RequestThread(Executor):
    """The one thread in which ``sync_to_async`` runs within an ``async with`` block.

    Where the block is within another one of its kind or of asgiref's, that one's thread is used. It
    does one call at a time, in the order in which they came. The first call takes the thread. At
    its end the block waits for calls that still run, as asgiref's own does.
    """

    def __init__(self) -> None:
        """Begin without a thread."""
        self._worker: _Worker | None = None
        self._running: set[Future[Any]] = set()
        self._context = ThreadSensitiveContext()
        self._token: Any = None

    async def __aenter__(self) -> RequestThread:
        """Let ``sync_to_async`` use the thread, in this task and those that it starts."""
        if SyncToAsync.thread_sensitive_context.get(None) is not None:
            return self
        SyncToAsync.context_to_thread_executor[self._context] = self
        self._token = SyncToAsync.thread_sensitive_context.set(self._context)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give the thread back."""
        if self._token is None:
            return
        SyncToAsync.thread_sensitive_context.reset(self._token)
        SyncToAsync.context_to_thread_executor.pop(self._context, None)
        worker, self._worker = self._worker, None
        if worker is None:
            return
        # First of all: a thread that is not told waits for ever.
        worker.calls.put(None)
        running = [asyncio.wrap_future(future) for future in tuple(self._running)]
        if running:
            await asyncio.wait(running)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` in the thread. Raises ``RuntimeError`` where the system has no
        more threads.
        """
        future: Future[T] = Future()
        if self._worker is None:
            self._worker = _take()
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        self._worker.calls.put((future, partial(fn, *args, **kwargs)))
        return future


class _Worker:
    """A thread that serves one request after another."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        # A daemon, since a loop that was stopped never gives back the threads of its requests. A
        # process that ends waits for what they do at that moment.
        threading.Thread(target=self._run, name="django_sse request", daemon=True).start()

    def _run(self) -> None:
        while self._serve() and self._wait():
            pass

    def _serve(self) -> bool:
        """Do the calls of one request; return whether the thread can have another one."""
        while (call := self.calls.get()) is not None:
            _do(*call)
            # Nothing of the call stays while the thread waits.
            del call
        # A connection that stays open ends with its request's thread, as it does without us.
        return not any(c.connection is not None for c in connections.all(initialized_only=True))

    def _wait(self) -> bool:
        """Wait for the next request; return whether there is one."""
        with _lock:
            if len(_idle) >= MOST_IDLE:
                return False
            _idle.append(self)
        # Whoever takes the worker takes it from the list, and puts a call into its queue.
        try:
            call = self.calls.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            pass
        else:
            assert call is not None  # A request takes a thread for its first call.
            _do(*call)
            return True
        with _lock:
            if self in _idle:
                _idle.remove(self)
                return False
        return True


def _do(future: Future[Any] | None, call: Callable[[], Any]) -> None:
    assert future is not None
    if not future.set_running_or_notify_cancel():
        return
    _at_work.add(future)
    try:
        result = call()
    except BaseException as error:
        _at_work.discard(future)
        future.set_exception(error)
        # The exception's traceback has this frame: do not make a circle.
        future = None
    else:
        _at_work.discard(future)
        future.set_result(result)


_idle: list[_Worker] = []
_at_work: set[Future[Any]] = set()
_lock = threading.Lock()


def _take() -> _Worker:
    with _lock:
        if _idle:
            # The one that has waited least; the others may end.
            return _idle.pop()
    return _Worker()


def _forget() -> None:
    """Forget the threads that a forked child does not have."""
    global _lock  # noqa: PLW0603 - it may have been held as the process forked
    _lock = threading.Lock()
    _idle.clear()
    _at_work.clear()


os.register_at_fork(after_in_child=_forget)


@atexit.register
def _let_work_end() -> None:
    """Wait for calls that run, as the threads of ``concurrent.futures`` do at the process's end."""
    wait(tuple(_at_work))
