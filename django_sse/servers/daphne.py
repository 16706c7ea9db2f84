"""Shortcuts past a server's ``send()``, for bytes that go to many connections at once.

Most of what a small event costs is its server's: a coroutine, the checks, the framing. Here the
same framed chunk is handed to the transports of all connections. A shortcut is taken only while
everything is as it expects: a chunked HTTP/1.1 response that has begun, nothing waiting before it.
Otherwise it declines, and the event goes by the server's ``send()``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from .flow_control import Send

#: Takes a framed chunk and the size of what is in it; False where it must go another way.
Shortcut = Callable[[bytes, int], bool]


def frame(data: bytes) -> bytes:
    """Return ``data`` as one chunk of a chunked response (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def shortcut_for(send: Send) -> Shortcut:
    """Return the shortcut behind a server's ``send``; one that always declines, where there is none."""
    if isinstance(send, functools.partial) and len(send.args) == 1:
        request = send.args[0]
        if _is(request, "daphne.http_protocol", "WebRequest") and _has(request, _Daphne.NEEDS):
            return _Daphne(request)
    cycle: Any = getattr(send, "__self__", None)
    if (
        _is(cycle, "uvicorn.protocols.http.httptools_impl", "RequestResponseCycle")
        and _has(cycle, _Uvicorn.NEEDS)
        and hasattr(cycle.flow, "write_paused")
    ):
        return _Uvicorn(cycle)
    return _decline


def _is(thing: object, module: str, name: str) -> bool:
    return type(thing).__module__ == module and type(thing).__qualname__ == name


def _has(thing: object, names: Iterable[str]) -> bool:
    """Return whether a server still has what is used of it, which is its own affair."""
    return all(hasattr(thing, name) for name in names)


def _decline(chunk: bytes, size: int) -> bool:
    return False


class _Uvicorn:
    """Uvicorn with httptools: the transport that its ``send()`` would write to."""

    NEEDS = (
        "chunked_encoding",
        "disconnected",
        "flow",
        "response_complete",
        "response_started",
        "transport",
    )

    __slots__ = ("_cycle",)

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle

    def __call__(self, chunk: bytes, size: int) -> bool:
        cycle = self._cycle
        if (
            not cycle.response_started
            or cycle.response_complete
            or not cycle.chunked_encoding
            or cycle.disconnected
            or cycle.flow.write_paused
        ):
            return False
        cycle.transport.write(chunk)
        return True


class _Daphne:
    """Daphne over plain TCP: its socket first, for most of a write's cost is Twisted's waiting.

    What the socket does not take goes to the transport, which pauses the producer as ever. TLS and
    HTTP/2 have other transports, and are declined.
    """

    NEEDS = ("_disconnected", "channel", "chunked", "finished", "sentLength", "startedWriting")
    TRANSPORT_NEEDS = ("TLS", "_tempDataBuffer", "connected", "dataBuffer", "disconnecting")

    __slots__ = ("_request", "_transport_is_known")

    def __init__(self, request: Any) -> None:
        self._request = request
        self._transport_is_known = False

    def __call__(self, chunk: bytes, size: int) -> bool:
        request = self._request
        channel = request.channel
        if (
            not _is(channel, "twisted.web.http", "HTTPChannel")
            or request._disconnected
            or request.finished
            or not request.startedWriting
            or not request.chunked
        ):
            return False
        transport = channel.transport
        if not self._transport_is_known:
            self._transport_is_known = _is(transport, "twisted.internet.tcp", "Server") and _has(
                transport, self.TRANSPORT_NEEDS
            )
        if (
            not self._transport_is_known
            or transport.TLS
            or not transport.connected
            or transport.disconnecting
            or transport.dataBuffer
            or transport._tempDataBuffer
        ):
            return False
        try:
            sent = transport.socket.send(chunk)
        except OSError:
            # Full, or broken: the transport finds out which.
            sent = 0
        if sent < len(chunk):
            transport.write(chunk[sent:])
        request.sentLength += size
        return True
