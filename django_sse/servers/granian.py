"""Granian.

Private to Granian, as seen in 2.8.7:

- ``send`` is a method of a class of the module ``granian._granian``, written in Rust, which keeps
  its transport to itself. The socket is found among those of the process by the addresses in the
  scope (Linux);
- ``send()`` hands a message over to Granian's own threads, and returns a ``PyEmptyAwaitable`` where
  they have taken it;
- ``receive`` is a method of a class of a module whose name begins with ``granian.``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import Limit, Receive, Send, Server, is_instance, is_shared
from .sockets import close_soon, queued


class Granian(Server):
    """A connection of Granian; its ``send()`` waits while the connection is full."""

    __slots__ = ()

    @classmethod
    def owns(cls, send: Send) -> bool:
        """Return whether ``send`` is a method of Granian's protocol."""
        return type(getattr(send, "__self__", None)).__module__ == "granian._granian"

    @classmethod
    def keeps_cancelled(cls, receive: Receive) -> bool:
        """Return whether ``receive`` is Granian's: no cancellation was seen to harm it."""
        return type(getattr(receive, "__self__", None)).__module__.startswith("granian.")

    def is_done(self, sending: Any) -> bool:
        """Return whether Granian's threads have taken a message: most of a task is saved so."""
        return is_instance(sending, "granian._granian", "PyEmptyAwaitable")

    def unsent(self) -> int | None:
        """Return what the socket has not sent; what Granian itself holds is unknown."""
        return None if is_shared(self.scope) else queued(self.scope)

    def abort(self) -> None:
        """Close the socket, unless other streams share it."""
        if not is_shared(self.scope):
            close_soon(self.scope)

    def limit(self) -> Limit | None:
        """Return what each worker takes, as far as Granian's command line says it."""
        number = backpressure(sys.argv, os.environ)
        if number is None:
            return None
        name = "what Granian takes for each worker (--backpressure, or --backlog / --workers)"
        return Limit(number, name, "wait without an answer")


def backpressure(arguments: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """Return how many connections each of Granian's workers takes, by how Granian was started.

    ``None`` where Granian's command did not start the process: then the number is not known.
    """
    if "granian" not in Path(arguments[0]).parts[-2:] and Path(arguments[0]).name != "granian":
        return None
    found = {"backpressure": "", "backlog": "1024", "workers": "1"}
    for name, default in list(found.items()):
        found[name] = environment.get(f"GRANIAN_{name.upper()}", default)
        for option, following in zip(arguments, [*arguments[1:], ""], strict=True):
            if option == f"--{name}":
                found[name] = following
            elif option.startswith(f"--{name}="):
                found[name] = option.partition("=")[2]
    try:
        if found["backpressure"]:
            return int(found["backpressure"])
        return max(1, int(found["backlog"]) // int(found["workers"]))
    except (ValueError, ZeroDivisionError):
        return None
