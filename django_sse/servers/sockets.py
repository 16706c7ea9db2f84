"""The sockets of a server that keeps them to itself: found among the process's own, on Linux."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any

from .base import send_queue

#: Where the file descriptors of this process are listed.
DESCRIPTORS = "/proc/self/fd"
#: Seconds for which the queues that were read once serve all who ask: looking costs about 5 µs
#: for each open file.
FRESH_SECONDS = 0.2

# A connection: the client's host and port, and the server's port.
_Address = tuple[str, int, int]

_queues: dict[_Address, int | None] = {}
_read_at = float("-inf")
# What is to be closed, by the event loop that said so: all of one turn are looked for at once.
_doomed: dict[asyncio.AbstractEventLoop, set[_Address]] = {}


def queued(scope: Mapping[str, Any]) -> int | None:
    """Return how many bytes a connection's peer has not acknowledged; ``None`` if unknown.

    Unknown is what cannot be found: on other systems than Linux, on Unix sockets, or where the
    scope names another client than the one that is connected.
    """
    global _queues, _read_at
    address = _address_of(scope)
    if address is None:
        return None
    now = time.monotonic()
    if now - _read_at > FRESH_SECONDS:
        found: dict[_Address, int | None] = {}
        for it, connection in _connections():
            with contextlib.suppress(OSError):  # A socket of UDP has no such queue.
                found[it] = send_queue(connection.fileno())
        _queues, _read_at = found, now
    return _queues.get(address)


def close_soon(scope: Mapping[str, Any]) -> None:
    """Close a connection without waiting for its peer; does nothing where it cannot be found."""
    address = _address_of(scope)
    if address is not None:
        loop = asyncio.get_running_loop()
        if loop not in _doomed:
            _doomed[loop] = set()
            loop.call_soon(_close_doomed, loop)
        _doomed[loop].add(address)


def _close_doomed(loop: asyncio.AbstractEventLoop) -> None:
    doomed = _doomed.pop(loop)
    for address, connection in _connections():
        if address in doomed:
            # What waits to be sent is dropped with the last descriptor of the connection; who
            # holds that is woken up, and finds it closed.
            with contextlib.suppress(OSError):  # Its peer was faster.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)


def _connections() -> Iterator[tuple[_Address, socket.socket]]:
    """Yield what this process is connected with over TCP; each is a copy, closed after its turn."""
    try:
        numbers = os.listdir(DESCRIPTORS)  # noqa: PTH208
    except OSError:
        return
    for number in numbers:
        # The number may be another file's by now: what is looked at is what is used, our copy.
        try:
            copy = os.dup(int(number))
        except OSError:
            continue
        try:
            connection = _socket_of(copy)
        except OSError:
            os.close(copy)  # Not a socket.
            continue
        with connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            try:
                peer, own = connection.getpeername(), connection.getsockname()
                yield (str(peer[0]), int(peer[1]), int(own[1])), connection
            except OSError:
                continue  # Not connected, or not any more.


def _socket_of(descriptor: int) -> socket.socket:
    # With a default time limit, a new object makes the descriptor non-blocking, and with it all
    # copies, which are others'.
    if socket.getdefaulttimeout() is not None:
        raise OSError("Sockets cannot be looked at where they have a default time limit.")
    return socket.socket(fileno=descriptor)


def _address_of(scope: Mapping[str, Any]) -> _Address | None:
    client, server = scope.get("client"), scope.get("server")
    if not (client and client[1] and server and server[1]):
        return None
    return str(client[0]), int(client[1]), int(server[1])
