"""Hypercorn.

Private to Hypercorn, as seen in 0.18:

- ``send`` is a method of ``hypercorn.protocol.http_stream.HTTPStream``: ``context.terminated``, an
  event with ``wait()``, and ``send``, a method of the protocol;
- the protocol of HTTP/1.1, of the module ``hypercorn.protocol.h11``: ``send``, a method of the
  ``TCPServer`` whose ``writer`` has the transport.

Where one of them is missing, Hypercorn is served without the feature that needs it.
"""

from __future__ import annotations

from typing import Any

from .base import AsyncioServer, Send


class Hypercorn(AsyncioServer):
    """A connection of Hypercorn; its ``send()`` waits while the connection is full."""

    __slots__ = ()

    @classmethod
    def owns(cls, send: Send) -> bool:
        """Return whether ``send`` is a method of Hypercorn's stream."""
        return type(getattr(send, "__self__", None)).__module__ == "hypercorn.protocol.http_stream"

    def transport(self) -> Any:
        """Return the transport of HTTP/1.1; ``None`` with HTTP/2, where other streams share it."""
        stream: Any = self.send.__self__  # type: ignore[attr-defined] # owns() has seen it
        protocol = getattr(getattr(stream, "send", None), "__self__", None)
        if type(protocol).__module__ != "hypercorn.protocol.h11":
            return None
        server = getattr(getattr(protocol, "send", None), "__self__", None)
        return getattr(getattr(server, "writer", None), "transport", None)

    def ending(self) -> Any:
        """Return the event that a worker's parent sets: the worker itself gets no signal."""
        stream: Any = self.send.__self__  # type: ignore[attr-defined] # owns() has seen it
        return getattr(getattr(stream, "context", None), "terminated", None)
