"""Features of ASGI servers beyond ASGI. This is the only package that knows a server.

``connection`` and the packages above it ask ``server_for()``, and know the face in
``servers.base``; this package imports nothing of ``django_sse``. It promises that a server, or a
version of one, that it does not know is served in the general case with full function. To support
one more server, write a module with a subclass of ``base.Server`` and add the class to ``SERVERS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import Receive, Send, Server
from .daphne import Daphne
from .granian import Granian
from .gunicorn import Gunicorn
from .hypercorn import Hypercorn
from .uvicorn import Uvicorn

#: The classes that are asked, in turn, whether a ``send`` is their server's own. The last one takes
#: any.
SERVERS: tuple[type[Server], ...] = (Daphne, Uvicorn, Hypercorn, Granian, Gunicorn, Server)

# The wrappers that Channels' sessions put around ``send``, by module and name.
_SESSIONS = ("channels.sessions", "InstanceSessionWrapper")


def server_for(send: Send, scope: Mapping[str, Any]) -> Server:
    """Return the connection of the server whose own ``send`` this is; the general case for others."""
    return next(server for server in SERVERS if server.owns(send))(send, scope)


def keeps_cancelled(receive: Receive) -> bool:
    """Return whether a server's ``receive`` is known to work after a call of it was cancelled."""
    return any(server.keeps_cancelled(receive) for server in SERVERS)


def bare(send: Send) -> Send:
    """Return the ``send`` behind that of Channels' sessions, which ``AuthMiddlewareStack`` brings.

    Theirs acts on the start of a response only, and hides the server. Other wrappers stay,
    since they may act on what is sent: behind one, Daphne has no flow control.
    """
    wrapper: Any = getattr(send, "__self__", None)
    while (type(wrapper).__module__, type(wrapper).__qualname__) == _SESSIONS:
        send = wrapper.real_send
        wrapper = getattr(send, "__self__", None)
    return send
