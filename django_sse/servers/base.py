"""What each server tells of a connection that is full, behind one small face."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, MutableMapping
from types import CoroutineType
from typing import Any, Protocol

from .sockets import close_soon, queued

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("django_sse")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Pausable(Protocol):
    """A writer that is told when its connection is full, when it is empty, and when it is gone."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abandon(self) -> None: ...


class Producer:
    """Daphne's flow control: its ``send()`` never waits, but Twisted's transport tells a producer.

    Source: Twisted's ``IPushProducer``.
    """

    __slots__ = ("_request", "_writer")

    def __init__(self, request: Any, writer: Pausable) -> None:
        self._request = request
        self._writer = writer
        request.registerProducer(self, True)

    def release(self) -> None:
        """Take the producer off, which Twisted wants before a response ends."""
        # The request loses its channel when the client leaves, and its producer with it.
        if self._request.channel is not None:
            self._request.unregisterProducer()

    # The names are Twisted's.

    def pauseProducing(self) -> None:  # noqa: N802
        self._writer.pause()

    def resumeProducing(self) -> None:  # noqa: N802
        self._writer.resume()

    def stopProducing(self) -> None:  # noqa: N802
        self._writer.abandon()


def bare(send: Send) -> Send:
    """Return the ``send`` behind that of Channels' sessions, which ``AuthMiddlewareStack`` brings.

    Theirs acts on the start of a response only, and hides the server. Other wrappers are left
    alone, since they may act on what is sent: behind one, Daphne has no flow control.
    """
    wrapper: Any = getattr(send, "__self__", None)
    while _class_of(wrapper) == _SESSIONS:
        send = wrapper.real_send
        wrapper = getattr(send, "__self__", None)
    return send


_SESSIONS = ("channels.sessions", "InstanceSessionWrapper")


def _class_of(thing: Any) -> tuple[str, str]:
    return type(thing).__module__, type(thing).__qualname__


def producer_for(send: Send, writer: Pausable) -> Producer | None:
    """Register ``writer`` with the transport behind Daphne's ``send``; ``None`` on other servers."""
    if isinstance(send, functools.partial) and is_daphnes(send):
        request = send.args[0]
        try:
            if request.channel is not None:
                return Producer(request, writer)
        except (AttributeError, RuntimeError, TypeError, ValueError):
            # Another Daphne than those that are known, or somebody else's producer.
            logger.warning("Daphne has no flow control for this stream.", exc_info=True)
    return None


def is_daphnes(send: Send) -> bool:
    """Return whether ``send`` is Daphne's own."""
    if isinstance(send, functools.partial) and len(send.args) == 1:
        return type(send.args[0]).__module__ == "daphne.http_protocol"
    return False


def unsent(send: Send, scope: Mapping[str, Any]) -> int | None:
    """Return how many bytes of a connection its peer has not acknowledged; ``None`` if unknown.

    Known on Linux, and not for HTTP/2: what the server holds (Granian keeps that to itself), and
    the socket's send queue.
    """
    if is_granians(send):
        return None if _shared(scope) else queued(scope)
    transport = _transport(send)
    if transport is None or fcntl is None:
        return None
    try:
        if hasattr(transport, "get_write_buffer_size"):
            held = transport.get_write_buffer_size()
            descriptor = transport.get_extra_info("socket").fileno()
        else:
            held = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
            descriptor = transport.fileno()
        queue = fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4)
    except (AttributeError, OSError, TypeError, ValueError):
        return None
    return int(held) + int.from_bytes(queue, sys.byteorder)


def abort(send: Send, scope: Mapping[str, Any]) -> None:
    """Close a connection without waiting for its peer, where we can; else do nothing.

    Nothing is done for HTTP/2, whose connection is that of other streams as well.
    """
    transport = _transport(send)
    for name in ("abort", "abortConnection"):
        if hasattr(transport, name):
            getattr(transport, name)()
            return
    if is_granians(send) and not _shared(scope):
        close_soon(scope)


def lost(send: Send) -> bool:
    """Return whether the connection behind ``send`` is closed, whatever the server told of it.

    Uvicorn tells only the newest request of a connection that its client left: a stream with another
    request behind it, pipelined, would never hear of it.
    """
    transport = _transport(send)
    return hasattr(transport, "is_closing") and bool(transport.is_closing())


def note_loss(send: Send) -> None:
    """Note on a lost connection's response what Uvicorn notes on the newest one's only.

    It would log that this one has no end, and fail to write one.
    """
    cycle: Any = getattr(send, "__self__", None)
    if getattr(cycle, "disconnected", None) is False:
        cycle.disconnected = True


def ending(send: Send) -> Any:
    """Return what waits, by its ``wait()``, for a server that ends without a signal, or ``None``.

    Hypercorn's workers get no signal: a process above them does, and tells them through shared
    memory. Uvicorn and gunicorn end a worker by themselves once it has served its number of
    requests (``--limit-max-requests``, ``--max-requests``), and then wait for its streams.
    """
    stream = getattr(send, "__self__", None)
    if type(stream).__module__ == "hypercorn.protocol.http_stream":
        return getattr(getattr(stream, "context", None), "terminated", None)
    if type(stream).__module__.startswith("uvicorn.protocols."):
        protocol = _protocol_of(getattr(stream, "transport", None))
        if getattr(getattr(protocol, "config", None), "limit_max_requests", None) is not None:
            return Sign(functools.partial(_uvicorn_ends, protocol))
    protocol = gunicorns_protocol(send)
    if protocol is not None and getattr(protocol.worker, "max_requests", 0) < sys.maxsize:
        return Sign(functools.partial(_gunicorn_ends, protocol.worker))
    return None


class Sign:
    """Waits until a server is about to end, by looking at it twice a second."""

    SECONDS = 0.5

    def __init__(self, is_ending: Callable[[], bool]) -> None:
        self._is_ending = is_ending

    async def wait(self) -> None:
        """Return once the server ends, or is not what it was any more."""
        try:
            while not self._is_ending():  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(self.SECONDS)
        except (AttributeError, TypeError):
            logger.warning("The end of this server cannot be foreseen.", exc_info=True)
            await asyncio.get_running_loop().create_future()


def _uvicorn_ends(protocol: Any) -> bool:
    state = protocol.server_state
    if state.total_requests < protocol.config.limit_max_requests:
        return False
    # The limit may have a random part, which the server keeps to itself. As it ends, it lets no
    # response keep its connection.
    cycles = [it.cycle for it in list(state.connections) if getattr(it, "cycle", None) is not None]
    return not any(cycle.keep_alive for cycle in cycles if not cycle.response_complete)


def _gunicorn_ends(worker: Any) -> bool:
    return not worker.alive


def gunicorns_protocol(send: Send) -> Any:
    """Return the protocol behind the ``send`` of gunicorn's own ASGI worker, or ``None``."""
    code = getattr(send, "__code__", None)
    if getattr(send, "__module__", None) != "gunicorn.asgi.protocol" or code is None:
        return None
    cells = dict(zip(code.co_freevars, send.__closure__ or (), strict=True))
    protocol = cells["self"].cell_contents if "self" in cells else None
    return protocol if hasattr(protocol, "worker") else None


def _protocol_of(transport: Any) -> Any:
    get_protocol = getattr(transport, "get_protocol", None)
    return get_protocol() if callable(get_protocol) else None


def _transport(send: Send) -> Any:
    """Return the asyncio or Twisted transport behind a server's ``send``, or ``None``."""
    if isinstance(send, functools.partial) and len(send.args) == 1:
        return getattr(getattr(send.args[0], "channel", None), "transport", None)
    if (served := gunicorns_protocol(send)) is not None:
        # HTTP/2 shares its connection with other streams.
        shared = getattr(served, "_h2_writer_protocol", None) is not None
        return None if shared else getattr(served, "transport", None)
    owner = getattr(send, "__self__", None)
    if type(owner).__module__ == "hypercorn.protocol.http_stream":
        protocol = getattr(getattr(owner, "send", None), "__self__", None)
        # With HTTP/2, the connection is shared with other streams, which must not be closed.
        if type(protocol).__module__ == "hypercorn.protocol.h11":
            server = getattr(getattr(protocol, "send", None), "__self__", None)
            return getattr(getattr(server, "writer", None), "transport", None)
        return None
    return getattr(owner, "transport", None)


def _shared(scope: Mapping[str, Any]) -> bool:
    return str(scope.get("http_version", "")) not in ("1.0", "1.1", "")


def is_granians(send: Send) -> bool:
    """Return whether ``send`` is Granian's own."""
    return type(getattr(send, "__self__", None)).__module__ == "granian._granian"


def limit_of_uvicorn(send: Send) -> int | None:
    """Return how many connections Uvicorn was told to take; ``None`` for any number, or unknown."""
    owner = getattr(send, "__self__", None)
    if not type(owner).__module__.startswith("uvicorn.protocols."):
        return None
    limit = getattr(_protocol_of(getattr(owner, "transport", None)), "limit_concurrency", None)
    return limit if isinstance(limit, int) else None


def can_be_stepped(send: Send) -> bool:
    """Return whether ``send`` is one of a server's own coroutine functions that we know.

    Such a coroutine may be run up to where it blocks without a task of its own. Unknown code may
    ask for its task (``asyncio.timeout()`` does), and gets one.
    """
    target = send.func if isinstance(send, functools.partial) else send
    module = type(getattr(target, "__self__", None)).__module__
    return module.startswith(("uvicorn.protocols.", "daphne."))


def step(coroutine: CoroutineType[Any, Any, None]) -> Any:
    """Run ``coroutine`` up to where it blocks; return what it waits for, or ``None`` at its end."""
    try:
        return coroutine.send(None)
    except StopIteration:
        return None


class Rest:
    """Awaits the rest of a coroutine that was stepped and has blocked on ``waiting_for``."""

    __slots__ = ("_coroutine", "_waiting_for")

    def __init__(self, coroutine: CoroutineType[Any, Any, None], waiting_for: Any) -> None:
        self._coroutine = coroutine
        self._waiting_for = waiting_for

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine, waiting_for = self._coroutine, self._waiting_for
        try:
            while True:
                try:
                    # The future still carries the mark of its first await, as a task expects.
                    value = yield waiting_for
                except BaseException as error:
                    waiting_for = coroutine.throw(error)
                else:
                    waiting_for = coroutine.send(value)
        except StopIteration:
            return
