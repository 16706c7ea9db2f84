"""The sockets of a server that does not give them out, found among those of the process, on Linux."""

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
#: Seconds for which the queues that were read once are answered from memory. Reading costs about 5
#: µs for each open file.
FRESH_SECONDS = 0.2

# A connection: the client's host and port, and the server's port.
_Address = tuple[str, int, int]

_queues: dict[_Address, int | None] = {}
_read_at = float("-inf")
# The connections to close, for each event loop. All those of one turn of the loop are looked up at
# once.
_doomed: dict[asyncio.AbstractEventLoop, set[_Address]] = {}


def queued(scope: Mapping[str, Any]) -> int | None:
    """Return how many bytes the peer of a connection has not acknowledged; ``None`` if unknown.

    It is unknown where the socket cannot be found: on other systems than Linux, for Unix sockets,
    and where the scope names another client than the one that is connected.
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
    """Close a connection without waiting for its peer; do nothing where it cannot be found."""
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
            # With SO_LINGER, the system drops the bytes that wait when the last descriptor of the
            # connection is closed. shutdown() wakes up the server, which holds that one, and finds
            # it closed.
            with contextlib.suppress(OSError):  # The peer has closed it first.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)


def _connections() -> Iterator[tuple[_Address, socket.socket]]:
    """Yield the TCP connections of this process; each is a copy that is closed after its turn."""
    try:
        numbers = os.listdir(DESCRIPTORS)  # noqa: PTH208
    except OSError:
        return
    for number in numbers:
        # By now, the number may belong to another file. Make a copy first, and look at the copy.
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
    # With a default time limit, a new socket object would make the descriptor non-blocking, and
    # with it the server's own.
    if socket.getdefaulttimeout() is not None:
        raise OSError("Sockets cannot be looked at where they have a default time limit.")
    return socket.socket(fileno=descriptor)


def _address_of(scope: Mapping[str, Any]) -> _Address | None:
    client, server = scope.get("client"), scope.get("server")
    if not (client and client[1] and server and server[1]):
        return None
    return str(client[0]), int(client[1]), int(server[1])
