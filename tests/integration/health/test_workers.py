"""Several workers of a server, where events are kept in the memory of each."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

import pytest

from django_sse.brokers.siblings import LOOKS
from tests.support.http_client import Client

from .conftest import Serve

WORKERS = {
    "uvicorn": ["--workers"],
    "hypercorn": ["--workers"],
    "granian": ["--workers"],
    "gunicorn": ["-w"],
    "gunicorn-uvicorn": ["-w"],
}


@pytest.mark.skipif(sys.platform != "linux", reason="Processes are looked at on Linux.")
def test_several_workers_with_one_memory_each_are_warned_of(serve: Serve) -> None:
    with ExitStack() as stack:
        servers = [
            (serve(name, args=[*option, number]), number)
            for name, option in WORKERS.items()
            for number in ("1", "2")
        ]
        for server, _ in servers:
            # Each worker gets some of them, most likely, and one is enough.
            for _ in range(4):
                client = stack.enter_context(Client(server.address))
                client.request("/topics/a/")
                client.piece()
        time.sleep(sum(LOOKS) + 1)
        for server, number in servers:
            warned = "processes serve this application" in server.log()
            assert warned is (number == "2"), (server.name, server.log())
