"""The thread of a request: taken from those that are idle, where asgiref would start one and end it.

Django gives each request a thread for its synchronous work: middleware, signals, the database. To
start one, and another one that waits for its end, costs more than the rest of a stream's handshake.

A connection to the database belongs to its thread, so under Django's own handler it never lives
longer than its request. Here, one that ``CONN_MAX_AGE`` allows to be kept serves the next request
that takes the thread.
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
from typing import Any, ParamSpec, TypeVar, cast

from asgiref.sync import SyncToAsync, ThreadSensitiveContext

from .databases import close_all, close_due, may_be_kept, opened, seconds_to_keep

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
        #: Calls that begin the request in its thread, while nothing else was asked of the thread.
        self.first: tuple[Callable[[], Any], ...] = ()
        #: Whether what is submitted is known to be what ``first`` has, and need not be done now.
        self.postpones = False
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
        if self.postpones:
            future.set_result(cast("T", []))
            return future
        call: Callable[[], T] = partial(fn, *args, **kwargs)
        if self._worker is None:
            self._worker = _take()
            if self.first:
                call = partial(_after, self.first, call)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        self._worker.calls.put((future, call))
        return future


def _after(first: tuple[Callable[[], Any], ...], call: Callable[[], T]) -> T:
    for each in first:
        each()
    return call()


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
        close_all()

    def _serve(self) -> bool:
        """Do the calls of one request; return whether the thread can have another one."""
        while (call := self.calls.get()) is not None:
            _do(*call)
            # Nothing of the call stays while the thread waits.
            del call
        # A connection that is still open and may not be kept ends with its request's thread, as it
        # does without us.
        close_due()
        return all(may_be_kept(connection) for connection in opened())

    def _wait(self) -> bool:
        """Wait for the next request; return whether there is one."""
        with _lock:
            if len(_idle) >= MOST_IDLE:
                return False
            _idle.append(self)
        # Whoever takes the worker takes it from the list, and puts a call into its queue.
        patience: float | None = IDLE_SECONDS
        while patience != 0:
            try:
                call = self.calls.get(timeout=patience)
            except queue.Empty:
                close_due()
                patience = seconds_to_keep(IDLE_SECONDS)
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


async def settle() -> None:
    """Close the database connections that idle threads keep, now; for tests."""
    with _lock:
        workers = [*_idle]
        _idle.clear()
    for worker in workers:
        closed: Future[Any] = Future()
        worker.calls.put((closed, close_all))
        worker.calls.put(None)
        await asyncio.wrap_future(closed)


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
