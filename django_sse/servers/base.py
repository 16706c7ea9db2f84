"""The face of a server: what a connection may ask of it, and the answers of any ASGI server.

Each module beside this one describes one server. It names at its top what is private to that server
and the version in which it was seen, and it checks for those attributes before it uses them.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple, Protocol

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("django_sse")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]


class Writer(Protocol):
    """Writes to one connection, and is told when the connection is full, ready again, or gone."""

    def pause(self) -> None:
        """Stop writing: the connection is full."""

    def resume(self) -> None:
        """Go on writing: the connection takes more."""

    def abandon(self) -> None:
        """Drop everything: the client is gone."""


class Limit(NamedTuple):
    """How many connections a server takes, what sets that number, and what happens beyond it."""

    connections: int
    name: str
    beyond: str


class Server:
    """One connection of an ASGI server about which nothing else is known.

    Every method has the answer that is right for any server; the classes of known servers override
    what they know better. All methods belong to the connection's event loop, and none of them
    waits.
    """

    __slots__ = ("scope", "send")

    #: Whether a coroutine of ``send`` may run up to where it blocks without a task of its own.
    #: Unknown code may ask for its task, as ``asyncio.timeout()`` does.
    may_be_stepped = False
    #: Whether the server, as it ends, waits for its applications only until one of them ends as
    #: cancelled.
    stops_waiting_at_cancelled = False

    def __init__(self, send: Send, scope: Mapping[str, Any]) -> None:
        """Take a ``send`` that ``owns()`` has accepted, and the scope of its connection."""
        #: The server's own ``send``.
        self.send = send
        #: The connection's ASGI scope.
        self.scope = scope

    @classmethod
    def owns(cls, send: Send) -> bool:
        """Return whether ``send`` is this server's own."""
        return True

    @classmethod
    def keeps_cancelled(cls, receive: Receive) -> bool:
        """Return whether ``receive`` still works after a call of it was cancelled.

        ASGI does not promise that. The ``get()`` of an ``asyncio.Queue`` does (Daphne, Hypercorn).
        """
        return type(getattr(receive, "__self__", None)) is asyncio.Queue

    def attach(self, writer: Writer) -> None:
        """Tell ``writer`` from now on when the connection is full.

        A server whose ``send`` waits while the connection is full tells nothing: waiting is enough.
        """

    def detach(self) -> None:
        """Undo ``attach()``; called before the response ends, and when the client is gone."""

    def is_done(self, sending: Any) -> bool:
        """Return whether what ``send()`` returned is done already, and need not be awaited."""
        return False

    def write(self, chunk: bytes, size: int) -> bool:
        """Write a chunk that is framed for HTTP/1.1 past ``send``; return whether it was written.

        ``size`` is the number of bytes in the chunk without its frame. Most of what a small event
        costs is its server's coroutine, checks and framing, so many connections share one framed
        chunk.
        """
        return False

    def unsent(self) -> int | None:
        """Return how many bytes the client has not acknowledged; ``None`` if that is unknown."""
        return None

    def abort(self) -> None:
        """Close the connection without waiting for the client; do nothing where that is impossible.

        A connection of HTTP/2 stays open, because other streams use it too.
        """

    def is_gone(self) -> bool:
        """Return whether the connection is closed although the server has not said so."""
        return False

    def note_gone(self) -> None:
        """Keep the server from writing the end of a response whose connection ``is_gone()``."""

    def ending(self) -> Any:
        """Return an object whose ``wait()`` returns when the server ends without a signal, or ``None``."""
        return None

    def limit(self) -> Limit | None:
        """Return how many connections this process takes; ``None`` for any number, or unknown."""
        return None


class AsyncioServer(Server):
    """A connection over an asyncio transport that the server lets be found."""

    __slots__ = ()

    def transport(self) -> Any:
        """Return the transport, or ``None`` where several streams share it or it cannot be found."""
        raise NotImplementedError

    def unsent(self) -> int | None:
        """Return what the transport holds and what the socket has not sent; known on Linux."""
        transport = self.transport()
        if transport is None:
            return None
        try:
            held = transport.get_write_buffer_size()
            queue = send_queue(transport.get_extra_info("socket").fileno())
        except (AttributeError, OSError, TypeError, ValueError):
            return None
        return None if queue is None else int(held) + queue

    def abort(self) -> None:
        """Abort the transport."""
        abort = getattr(self.transport(), "abort", None)
        if abort is not None:
            abort()

    def is_gone(self) -> bool:
        """Return whether the transport is closing."""
        is_closing = getattr(self.transport(), "is_closing", None)
        return is_closing is not None and bool(is_closing())


class Sign:
    """Waits until a server is about to end, and looks at the server twice a second for that."""

    #: Seconds between two looks.
    SECONDS = 0.5

    def __init__(self, is_ending: Callable[[], bool]) -> None:
        """Take a function that returns whether the server is about to end."""
        self._is_ending = is_ending

    async def wait(self) -> None:
        """Return once the server ends; never return where the server is not as expected."""
        try:
            while not self._is_ending():  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(self.SECONDS)
        except (AttributeError, TypeError):
            logger.warning("The end of this server cannot be foreseen.", exc_info=True)
            await asyncio.get_running_loop().create_future()


def send_queue(descriptor: int) -> int | None:
    """Return how many bytes of a socket the peer has not acknowledged; ``None`` except on Linux.

    Raises ``OSError`` for a descriptor that is closed, or no socket of TCP.
    """
    if fcntl is None:
        return None
    return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)


def is_shared(scope: Mapping[str, Any]) -> bool:
    """Return whether a request may share its connection with others, as from HTTP/2 on."""
    return str(scope.get("http_version", "")) not in ("1.0", "1.1", "")


def is_instance(thing: object, module: str, name: str) -> bool:
    """Return whether an object is of the class of that name, without importing its module."""
    return type(thing).__module__ == module and type(thing).__qualname__ == name


def has_all(thing: object, names: Iterable[str]) -> bool:
    """Return whether an object has all of these attributes."""
    return all(hasattr(thing, name) for name in names)
