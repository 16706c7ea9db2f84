"""Hypercorn.

Private to Hypercorn, as seen in 0.18:

- ``send`` is a method of ``hypercorn.protocol.http_stream.HTTPStream``: ``context.terminated``, an
  event with ``wait()``, ``state``, ``closed``, and ``send``, a method of the protocol;
- the protocol of HTTP/1.1, of the module ``hypercorn.protocol.h11``: ``connection``, of h11, whose
  ``_writer`` is a ``ChunkedWriter`` where chunks are sent; ``send``, a method of the ``TCPServer``
  with ``send_lock``, whose ``writer`` has the transport.

Where one of them is missing, Hypercorn is served without the feature that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import AsyncioServer, Send, has_all, is_instance


class Hypercorn(AsyncioServer):
    """A connection of Hypercorn; its ``send()`` waits while the connection is full."""

    __slots__ = ("_its",)

    may_be_stepped = True

    def __init__(self, send: Send, scope: Mapping[str, Any]) -> None:
        """Take a ``send`` that ``owns()`` has accepted, and the scope of its connection."""
        super().__init__(send, scope)
        # The stream, its protocol and the protocol's TCPServer; looked for at the first write,
        # since many streams never make one. Empty where they are not as expected.
        self._its: tuple[Any, ...] | None = None

    @classmethod
    def owns(cls, send: Send) -> bool:
        """Return whether ``send`` is a method of Hypercorn's stream."""
        return type(getattr(send, "__self__", None)).__module__ == "hypercorn.protocol.http_stream"

    def transport(self) -> Any:
        """Return the transport of HTTP/1.1; ``None`` with HTTP/2, where other streams share it."""
        _, server = self._protocol_and_server()
        return getattr(getattr(server, "writer", None), "transport", None)

    def write(self, chunk: bytes, size: int) -> bool:
        """Write to the transport that ``send()`` would write to, unless something waits there."""
        if self._its is None:
            self._its = self._known()
        if not self._its:
            return False
        stream, protocol, server = self._its
        transport = server.writer.transport
        if (
            stream.closed
            or stream.state.name != "RESPONSE"
            or not is_instance(protocol.connection._writer, "h11._writers", "ChunkedWriter")
            or server.send_lock.locked()
            or transport.is_closing()
            or transport.get_write_buffer_size()
        ):
            return False
        transport.write(chunk)
        return True

    def ending(self) -> Any:
        """Return the event that a worker's parent sets: the worker itself gets no signal."""
        return getattr(getattr(self._stream(), "context", None), "terminated", None)

    def _stream(self) -> Any:
        return self.send.__self__  # type: ignore[attr-defined] # owns() has seen it

    def _protocol_and_server(self) -> tuple[Any, Any]:
        """Return the protocol of HTTP/1.1 and its ``TCPServer``; ``None`` twice with HTTP/2."""
        protocol = getattr(getattr(self._stream(), "send", None), "__self__", None)
        if type(protocol).__module__ != "hypercorn.protocol.h11":
            return None, None
        return protocol, getattr(getattr(protocol, "send", None), "__self__", None)

    def _known(self) -> tuple[Any, ...]:
        stream = self._stream()
        protocol, server = self._protocol_and_server()
        known = (
            has_all(stream, ("closed", "state"))
            and hasattr(stream.state, "name")
            and hasattr(getattr(protocol, "connection", None), "_writer")
            and has_all(getattr(server, "send_lock", None), ("locked",))
            and has_all(self.transport(), ("get_write_buffer_size", "is_closing", "write"))
        )
        return (stream, protocol, server) if known else ()
