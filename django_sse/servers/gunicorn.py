"""gunicorn's own ASGI worker. (With Uvicorn's worker, gunicorn's connections are Uvicorn's.)

Private to gunicorn, as seen in 27.0:

- ``send`` is a function of the module ``gunicorn.asgi.protocol`` that closes over ``self``, the
  protocol;
- the protocol: ``transport``, ``worker``, and with HTTP/2 ``_h2_writer_protocol``;
- the worker: ``alive`` and ``max_requests`` (``sys.maxsize`` for no limit);
- ``receive`` answers ``http.disconnect`` for ever once a call of it was cancelled.

Where one of them is missing, gunicorn is served without the feature that needs it.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from .base import AsyncioServer, Send, Sign


class Gunicorn(AsyncioServer):
    """A connection of gunicorn's ASGI worker; its ``send()`` waits while the connection is full."""

    __slots__ = ()

    @classmethod
    def owns(cls, send: Send) -> bool:
        """Return whether ``send`` is the function that gunicorn's protocol makes for a request."""
        return protocol_of(send) is not None

    def transport(self) -> Any:
        """Return the protocol's transport; ``None`` with HTTP/2, where other streams share it."""
        protocol = protocol_of(self.send)
        shared = getattr(protocol, "_h2_writer_protocol", None) is not None
        return None if shared else getattr(protocol, "transport", None)

    def ending(self) -> Sign | None:
        """Foresee the end of a worker that has served its ``--max-requests``.

        gunicorn ends such a worker by itself and then waits for its streams.
        """
        worker = protocol_of(self.send).worker
        if getattr(worker, "max_requests", 0) >= sys.maxsize:
            return None
        return Sign(functools.partial(_is_ending, worker))


def protocol_of(send: Send) -> Any:
    """Return the protocol behind gunicorn's ``send``, or ``None``."""
    code = getattr(send, "__code__", None)
    if getattr(send, "__module__", None) != "gunicorn.asgi.protocol" or code is None:
        return None
    cells: dict[str, Any] = dict(zip(code.co_freevars, send.__closure__ or (), strict=True))
    protocol = cells["self"].cell_contents if "self" in cells else None
    return protocol if hasattr(protocol, "worker") else None


def _is_ending(worker: Any) -> bool:
    return not worker.alive
