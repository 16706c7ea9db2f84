"""What each server tells of a connection that is full, behind one small face."""

from __future__ import annotations

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
    if _is_granian(send):
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
    if _is_granian(send) and not _shared(scope):
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
    """Return the event that Hypercorn sets when it begins to end; ``None`` on other servers.

    Its workers get no signal: a process above them does, and tells them through shared memory.
    """
    stream = getattr(send, "__self__", None)
    if type(stream).__module__ == "hypercorn.protocol.http_stream":
        return getattr(getattr(stream, "context", None), "terminated", None)
    return None


def _transport(send: Send) -> Any:
    """Return the asyncio or Twisted transport behind a server's ``send``, or ``None``."""
    if isinstance(send, functools.partial) and len(send.args) == 1:
        return getattr(getattr(send.args[0], "channel", None), "transport", None)
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


def _is_granian(send: Send) -> bool:
    return type(getattr(send, "__self__", None)).__module__ == "granian._granian"


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
