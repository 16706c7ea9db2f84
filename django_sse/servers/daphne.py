"""Daphne.

Private to Daphne and Twisted, as seen in Daphne 4.2.3 and Twisted 26.10:

- ``send`` is a ``functools.partial`` of one argument, the ``daphne.http_protocol.WebRequest``;
- ``WebRequest``: ``_disconnected``, and of Twisted's ``Request`` ``channel``, ``chunked``,
  ``finished``, ``sentLength``, ``startedWriting``, ``registerProducer()`` and
  ``unregisterProducer()``;
- the transport of a plain TCP connection: ``TLS``, ``connected``, ``disconnecting``,
  ``dataBuffer``, ``offset``, ``_tempDataBuffer`` and ``_tempDataLen`` (bytes that wait),
  ``producer``, ``producerPaused``, ``socket``, ``abortConnection()``.

Where one of them is missing, Daphne is served without the feature that needs it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

from .base import Send, Server, Writer, has_all, is_instance, send_queue

logger = logging.getLogger("django_sse")

_REQUEST = ("_disconnected", "channel", "chunked", "finished", "sentLength", "startedWriting")
_TRANSPORT = ("TLS", "_tempDataBuffer", "connected", "dataBuffer", "disconnecting")


class Daphne(Server):
    """A connection of Daphne, and the producer that Twisted's transport pauses and resumes.

    Daphne's ``send()`` never waits, so without a producer a slow client would cost any amount of
    memory. A request has one by ``registerProducer()``. But each of its two objects then has an
    attribute more than a class shares with its instances, which takes 3 kB (Python 3.11). So over
    plain TCP, this producer takes the place of the request's channel, and calls it.

    Source: Twisted's ``IPushProducer``.
    """

    __slots__ = ("_replaced", "_request", "_request_is_known", "_transport_is_known", "_writer")

    may_be_stepped = True
    stops_waiting_at_cancelled = True

    def __init__(self, send: Send, scope: Mapping[str, Any]) -> None:
        """Take a ``send`` that ``owns()`` has accepted, and the scope of its connection."""
        super().__init__(send, scope)
        self._request: Any = send.args[0]  # type: ignore[attr-defined] # owns() has seen it
        self._writer: Writer | None = None
        # The producer of the transport that this one stands for.
        self._replaced: Any = None
        # Checked at the first write, since many streams never make one.
        self._request_is_known: bool | None = None
        self._transport_is_known = False

    @classmethod
    def owns(cls, send: Send) -> bool:
        """Return whether ``send`` is a partial of Daphne's request."""
        if isinstance(send, functools.partial) and len(send.args) == 1:
            return type(send.args[0]).__module__ == "daphne.http_protocol"
        return False

    def attach(self, writer: Writer) -> None:
        """Register as the producer of the connection, or of Daphne's request."""
        try:
            channel = self._request.channel
            if channel is None:
                return
            self._writer = writer
            transport = channel.transport
            if is_plain(transport) and getattr(transport, "producer", None) is channel:
                transport.unregisterProducer()
                transport.registerProducer(self, True)
                self._replaced = channel
                if transport.producerPaused:
                    writer.pause()
            else:
                self._request.registerProducer(self, True)
        except (AttributeError, RuntimeError, TypeError, ValueError):
            # Another Daphne than those that are known, or a middleware has a producer here.
            self._writer = None
            logger.warning("Daphne has no flow control for this stream.", exc_info=True)

    def detach(self) -> None:
        """Unregister, as Twisted demands before a response ends."""
        writer, self._writer = self._writer, None
        channel, self._replaced = self._replaced, None
        if channel is not None:
            transport = channel.transport
            # A transport that is lost, or is told to close, has let go of its producer.
            if transport is not None and transport.producer is self:
                transport.unregisterProducer()
                transport.registerProducer(channel, True)
        # When the client leaves, the request loses its channel, and its producer with it.
        elif writer is not None and self._request.channel is not None:
            self._request.unregisterProducer()

    # The names are Twisted's.

    def pauseProducing(self) -> None:  # noqa: N802
        """Take Twisted's word that the connection is full."""
        if self._replaced is not None:
            self._replaced.pauseProducing()
        if self._writer is not None:
            self._writer.pause()

    def resumeProducing(self) -> None:  # noqa: N802
        """Take Twisted's word that the connection is ready again."""
        if self._replaced is not None:
            self._replaced.resumeProducing()
        if self._writer is not None:
            self._writer.resume()

    def stopProducing(self) -> None:  # noqa: N802
        """Take Twisted's word that the client is gone."""
        if self._replaced is not None:
            self._replaced.stopProducing()
        if self._writer is not None:
            self._writer.abandon()

    def write(self, chunk: bytes, size: int) -> bool:
        """Write to the socket, since Twisted's waiting is most of what a write costs.

        The transport gets what the socket does not take, and pauses the producer as ever.
        Connections over TLS and HTTP/2 have other transports, and go by ``send()``.
        """
        request = self._request
        if self._request_is_known is None:
            self._request_is_known = is_instance(
                request, "daphne.http_protocol", "WebRequest"
            ) and has_all(request, _REQUEST)
        if not self._request_is_known:
            return False
        channel = request.channel
        if (
            not is_instance(channel, "twisted.web.http", "HTTPChannel")
            or request._disconnected
            or request.finished
            or not request.startedWriting
            or not request.chunked
        ):
            return False
        transport = channel.transport
        if not self._transport_is_known:
            self._transport_is_known = is_plain(transport) and has_all(transport, _TRANSPORT)
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
            # The socket is full or broken. The transport finds out which of the two.
            sent = 0
        if sent < len(chunk):
            transport.write(chunk[sent:])
        request.sentLength += size
        return True

    def unsent(self) -> int | None:
        """Return what Twisted's transport holds and what the socket has not sent; known on Linux."""
        transport = self._transport()
        if transport is None:
            return None
        try:
            held = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
            queue = send_queue(transport.fileno())
        except (AttributeError, OSError, TypeError, ValueError):
            return None
        return None if queue is None else int(held) + queue

    def abort(self) -> None:
        """Abort the connection of Twisted's transport."""
        abort = getattr(self._transport(), "abortConnection", None)
        if abort is not None:
            abort()

    def _transport(self) -> Any:
        return getattr(getattr(self._request, "channel", None), "transport", None)


def is_plain(transport: Any) -> bool:
    """Return whether a transport is one of plain TCP."""
    return is_instance(transport, "twisted.internet.tcp", "Server")
