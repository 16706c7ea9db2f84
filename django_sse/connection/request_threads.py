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
from concurrent.futures import CancelledError as CancelledCall
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext

from .databases import close_all, close_due, may_be_kept, opened, seconds_to_keep

P = ParamSpec("P")
T = TypeVar("T")

#: How many threads wait for the next request, and for how many seconds each of them.
MOST_IDLE = 8
IDLE_SECONDS = 1.0


class _Call:
    """One piece of work for a request's thread, and the future that its event loop awaits."""

    __slots__ = ("_loop", "_running", "ended", "future", "work")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: Callable[[], Any], running: set[_Call]
    ) -> None:
        """Take the work, and the calls of the same request that have not ended."""
        self.work = work
        self._running = running
        running.add(self)
        self._loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        #: Set after the work, if the end of the process waits for it.
        self.ended: threading.Event | None = None

    def end(self, result: Any, error: BaseException | None) -> None:
        """Give the future its outcome, from the thread."""
        self._running.discard(self)
        _at_work.discard(self)
        if self.ended is not None:
            self.ended.set()
        # If the loop was closed meanwhile, nothing waits for the outcome any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_settle, self.future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return  # It was cancelled while the thread was at work.
    if error is None:
        future.set_result(result)
        return
    if isinstance(error, CancelledCall):
        # asyncio converts it where it wraps a future of concurrent.futures.
        error = asyncio.CancelledError(*error.args)
    elif isinstance(error, StopIteration):
        # Before Python 3.12, a future refuses it, and the request would wait for ever.
        stopped, error = error, RuntimeError("Synchronous code raised StopIteration.")
        error.__cause__ = stopped
    future.set_exception(error)
    if isinstance(error, asyncio.CancelledError):
        # asgiref does not take the outcome where the client left meanwhile, and asyncio would log it.
        future.exception()


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
        #: A task whose calls need no thread from now on.
        self.freed: asyncio.Task[Any] | None = None
        self._worker: _Worker | None = None
        self._running: set[_Call] = set()
        self._over = False
        # Another thread that has copied the request's context may submit from a loop of its own.
        self._lock = threading.Lock()
        self._context = ThreadSensitiveContext()
        self._token: Any = None

    @property
    def is_used(self) -> bool:
        """Whether ``sync_to_async`` runs here, and not in the thread of an outer block or caller."""
        # A synchronous caller that waits in async_to_sync() has its own thread do the work.
        return self._token is not None and getattr(AsyncToSync.executors, "current", None) is None

    @property
    def is_taken(self) -> bool:
        """Whether the request has used its thread."""
        return self._worker is not None

    async def __aenter__(self) -> RequestThread:
        """Let ``sync_to_async`` use the thread, in this task and in tasks that it starts."""
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
        with self._lock:
            self._over = True
            worker, self._worker = self._worker, None
        if worker is None:
            return
        if not self._running:
            worker.calls.put(None)
            return
        last = _Call(asyncio.get_running_loop(), _nothing, self._running)
        worker.calls.put(last)
        # Tell the thread before anything is awaited: one that is not told waits for ever.
        worker.calls.put(None)
        await last.future

    def submit(  # type: ignore[override]  # see below
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Run ``fn(*args, **kwargs)`` in the thread, or at once for a task that needs none any more.

        Raises ``RuntimeError`` where the system has no more threads, and after the block.

        The event loop's ``run_in_executor()`` takes a future of the loop as it is. A future of
        ``concurrent.futures``, which it would have to wrap, costs 10 µs more for each call.
        """
        loop = asyncio.get_running_loop()
        if self.freed is not None and self.freed is asyncio.current_task():
            return _done(loop, partial(fn, *args, **kwargs))
        with self._lock:
            if self._over:
                # Nothing would end a thread that is taken now.
                raise RuntimeError("The request is over, and its thread with it.")
            if self._worker is None:
                self._worker = _take()
                fn = partial(_after, self.first, fn) if self.first else fn
            call = _Call(loop, partial(fn, *args, **kwargs), self._running)
            self._worker.calls.put(call)
        return call.future


def _nothing() -> None:
    pass


def _done(loop: asyncio.AbstractEventLoop, work: Callable[[], T]) -> asyncio.Future[T]:
    future: asyncio.Future[T] = loop.create_future()
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
    return future


def _after(
    first: tuple[Callable[[], Any], ...], call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    for each in first:
        each()
    return call(*args, **kwargs)


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
            _do(call)
            # Nothing of the call stays while the thread waits.
            del call
        # A connection that is still open and may not be kept ends with its request's thread, as it
        # does without us.
        if opened():
            close_due()
        return all(may_be_kept(connection) for connection in opened())

    def _wait(self) -> bool:
        """Wait for the next request; return whether there is one."""
        with _lock:
            if len(_idle) >= MOST_IDLE:
                return False
            _idle.append(self)
        # A request that takes this worker removes it from the list, and puts a call into its queue.
        patience: float | None = IDLE_SECONDS
        while patience != 0:
            try:
                call = self.calls.get(timeout=patience)
            except queue.Empty:
                close_due()
                patience = seconds_to_keep(IDLE_SECONDS)
            else:
                assert call is not None  # A request takes a thread for its first call.
                _do(call)
                return True
        with _lock:
            if self in _idle:
                _idle.remove(self)
                return False
        return True


def _do(call: _Call | None) -> None:
    assert call is not None
    _at_work.add(call)
    try:
        # Nothing waits for a call that was cancelled before its turn.
        result = None if call.future.cancelled() else call.work()
    except BaseException as error:
        call.end(None, error)
        # The exception's traceback has this frame: do not make a circle.
        call = None
    else:
        call.end(result, None)


_idle: list[_Worker] = []
_at_work: set[_Call] = set()
_lock = threading.Lock()


def _take() -> _Worker:
    with _lock:
        if _idle:
            # Take the one that has waited least, so that the others can end.
            return _idle.pop()
    return _Worker()


async def settle() -> None:
    """Close the database connections that idle threads keep, now; for tests."""
    with _lock:
        workers = [*_idle]
        _idle.clear()
    for worker in workers:
        last = _Call(asyncio.get_running_loop(), close_all, set())
        worker.calls.put(last)
        worker.calls.put(None)
        await last.future


def _forget() -> None:
    """Forget the threads that a forked child does not have."""
    global _lock  # noqa: PLW0603 - it may have been held as the process forked
    _lock = threading.Lock()
    _idle.clear()
    _at_work.clear()


os.register_at_fork(after_in_child=_forget)


@atexit.register
def _let_work_end() -> None:
    """Wait, at the process's end, for calls that run. Calls that still wait are not made."""
    for call in tuple(_at_work):
        call.ended = threading.Event()
        # The thread looks for the event after it has taken the call out.
        if call in _at_work:
            call.ended.wait()
