"""One server process: ``python -m benchmarks.serve uvicorn|daphne|granian|hypercorn module:application core``.

It listens on a free port of 127.0.0.1 and says which on its standard output.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

from .machine import allow_many_connections, pin


def load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def certificate() -> tuple[str, str] | None:
    """Return the files of a key and of a certificate, where TLS is to be spoken."""
    given = os.environ.get("BENCHMARK_TLS")
    return None if given is None else (f"{given}/key.pem", f"{given}/certificate.pem")


def say(port: int) -> None:
    print(port, flush=True)


def serve_with_uvicorn(application: str) -> None:
    import uvicorn  # noqa: PLC0415 - a server process has one server only

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    key, its_certificate = certificate() or (None, None)
    config = uvicorn.Config(
        load(application),
        access_log=False,
        log_level="warning",
        lifespan="off",
        backlog=2048,
        ssl_keyfile=key,
        ssl_certfile=its_certificate,
    )
    say(listener.getsockname()[1])
    uvicorn.Server(config).run(sockets=[listener])


def serve_with_daphne(application: str) -> None:
    # Daphne chooses Twisted's reactor when it is imported, so it comes before the application.
    from daphne.server import Server  # noqa: PLC0415

    server = Server(
        load(application),
        endpoints=["tcp:port=0:interface=127.0.0.1:backlog=2048"],
        ready_callable=lambda: say(server.listening_addresses[0][1]),
        verbosity=0,
        server_name="",
    )
    server.run()


def serve_with_granian(application: str) -> None:
    from granian import Granian  # noqa: PLC0415
    from granian.constants import Interfaces  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    key, its_certificate = (Path(it) for it in found) if (found := certificate()) else (None, None)
    server = Granian(
        application,
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGI,
        backlog=2048,
        backpressure=20_000,
        log_enabled=False,
        ssl_key=key,
        ssl_cert=its_certificate,
    )
    server.on_startup(lambda: say(port))
    server.serve()


def serve_with_hypercorn(application: str) -> None:
    from hypercorn.asyncio import serve  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415

    config = Config()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    say(listener.getsockname()[1])
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "ERROR"
    if (found := certificate()) is not None:
        config.keyfile, config.certfile = found
    asyncio.run(serve(load(application), config))


if __name__ == "__main__":
    kind, path, core = sys.argv[1:]
    pin(int(core))
    allow_many_connections()
    {
        "uvicorn": serve_with_uvicorn,
        "daphne": serve_with_daphne,
        "granian": serve_with_granian,
        "hypercorn": serve_with_hypercorn,
    }[kind](path)
