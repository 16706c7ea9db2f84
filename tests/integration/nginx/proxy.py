"""A real nginx in front of a server, with the configuration that the documentation shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.integration.proxies.proxy import Proxy


class Nginx(Proxy):
    """``with Nginx(directory, server.port):`` serves the documented configuration on ``port``.

    ``changes`` replaces parts of it, each of which must be there; ``extra`` stands before it in
    ``http { … }``.
    """

    def __init__(
        self,
        directory: Path,
        upstream: int,
        *,
        changes: Mapping[str, str] | None = None,
        extra: str = "",
    ) -> None:
        super().__init__("nginx", directory, upstream, changes=changes, extra=extra)
