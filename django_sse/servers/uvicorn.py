"""Uvicorn, also as gunicorn's worker.

Private to Uvicorn, as seen in 0.54:

- ``send`` is a method of ``RequestResponseCycle`` in ``uvicorn.protocols.http``, with httptools or
  h11: ``transport``, ``disconnected``, ``response_started``, ``response_complete``, ``keep_alive``,
  ``flow.write_paused``, and with httptools ``chunked_encoding``;
- the transport's protocol: ``config.limit_max_requests``, ``server_state.total_requests`` and
  ``.connections``, ``limit_concurrency``.

Where one of them is missing, Uvicorn is served without the feature that needs it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from .base import AsyncioServer, Limit, Receive, Send, Sign, has_all, is_instance

_CYCLE = (
    "chunked_encoding",
    "disconnected",
    "flow",
    "response_complete",
    "response_started",
    "transport",
)


class Uvicorn(AsyncioServer):
    """A connection of Uvicorn; its ``send()`` waits while the connection is full."""

    __slots__ = ("_cycle", "_cycle_is_known")

    may_be_stepped = True

    def __init__(self, send: Send, scope: Mapping[str, Any]) -> None:
        """Take a ``send`` that ``owns()`` has accepted, and the scope of its connection."""
        super().__init__(send, scope)
        self._cycle: Any = send.__self__  # type: ignore[attr-defined] # owns() has seen it
        # Checked at the first write, since many streams never make one.
        self._cycle_is_known: bool | None = None

    @classmethod
    def owns(cls, send: Send) -> bool:
        """Return whether ``send`` is a method of one of Uvicorn's protocols."""
        return _is_uvicorns(send)

    @classmethod
    def keeps_cancelled(cls, receive: Receive) -> bool:
        """Return whether ``receive`` is Uvicorn's: no cancellation was seen to harm it."""
        return _is_uvicorns(receive)

    def transport(self) -> Any:
        """Return the cycle's transport."""
        return getattr(self._cycle, "transport", None)

    def write(self, chunk: bytes, size: int) -> bool:
        """Write to the transport that ``send()`` would write to; known with httptools."""
        cycle = self._cycle
        if self._cycle_is_known is None:
            self._cycle_is_known = (
                is_instance(cycle, "uvicorn.protocols.http.httptools_impl", "RequestResponseCycle")
                and has_all(cycle, _CYCLE)
                and hasattr(cycle.flow, "write_paused")
            )
        if (
            not self._cycle_is_known
            or not cycle.response_started
            or cycle.response_complete
            or not cycle.chunked_encoding
            or cycle.disconnected
            or cycle.flow.write_paused
        ):
            return False
        cycle.transport.write(chunk)
        return True

    def note_gone(self) -> None:
        """Mark the response as disconnected.

        Uvicorn tells only the newest request of a connection that its client left. For an older,
        pipelined one it would fail to write an end, and log that the end is missing.
        """
        if getattr(self._cycle, "disconnected", None) is False:
            self._cycle.disconnected = True

    def ending(self) -> Sign | None:
        """Foresee the end of a worker that has served its ``--limit-max-requests``.

        Uvicorn ends such a worker by itself and then waits for its streams.
        """
        protocol = self._protocol()
        if getattr(getattr(protocol, "config", None), "limit_max_requests", None) is None:
            return None
        return Sign(functools.partial(_is_ending, protocol))

    def limit(self) -> Limit | None:
        """Return ``--limit-concurrency``."""
        limit = getattr(self._protocol(), "limit_concurrency", None)
        if not isinstance(limit, int):
            return None
        return Limit(limit, "Uvicorn's --limit-concurrency", "are answered with 503")

    def _protocol(self) -> Any:
        get_protocol = getattr(self.transport(), "get_protocol", None)
        return get_protocol() if callable(get_protocol) else None


def _is_uvicorns(method: Any) -> bool:
    owner = getattr(method, "__self__", None)
    return type(owner).__module__.startswith("uvicorn.protocols.")


def _is_ending(protocol: Any) -> bool:
    state = protocol.server_state
    if state.total_requests < protocol.config.limit_max_requests:
        return False
    # The limit may have a random part, which the server keeps to itself. As it ends, it lets no
    # response keep its connection.
    cycles = [it.cycle for it in list(state.connections) if getattr(it, "cycle", None) is not None]
    return not any(cycle.keep_alive for cycle in cycles if not cycle.response_complete)
