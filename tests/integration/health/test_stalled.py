"""Clients that take nothing any more are let go; those that are slow are not."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived

from tests.project.journal import Journal
from tests.support.http_client import Client
from tests.support.servers import SERVERS, free_port

from .conftest import Serve

SEND_TIMEOUT = 1.0
#: What the watchdog may take longer: a quarter of it, and what a busy machine adds.
LATEST = SEND_TIMEOUT * 1.25 + 2
#: What of an endless stream may be kept for clients that do not read, each, in kilobytes.
KEPT = 10_000


# The second is behind Channels' AuthMiddlewareStack, which wraps what the server gives.
@pytest.mark.parametrize("path", ["/flood/", "/channels/flood/"])
@pytest.mark.parametrize("name", SERVERS)
def test_client_that_stops_reading_is_let_go_and_a_slow_one_is_not(
    serve: Serve, journal: Journal, name: str, path: str
) -> None:
    server = serve(name, SEND_TIMEOUT=SEND_TIMEOUT)
    with (
        Client(server.address, receive_buffer=65536) as slow,
        Client(server.address, receive_buffer=65536) as silent,
        Curl(f"{server.url}{path}?key=stopped") as stopped,
    ):
        slow.request(f"{path}?key=slow")
        slow.event()
        before = httpx.get(f"{server.url}/inside/").json()["kilobytes"]
        silent.request(f"{path}?key=silent")
        silent.event()
        assert journal.wait_for("flood", key="stopped")
        os.kill(stopped.pid, signal.SIGSTOP)
        began = time.monotonic()
        reading = threading.Event()
        reader = threading.Thread(target=_read_slowly, args=(slow, reading))
        reader.start()
        try:
            found = _wait_for_ends(journal, 2, LATEST + 3)
            ends = {entry["key"]: entry["reason"] for entry in found}
            assert ends == {"silent": "stalled", "stopped": "stalled"}
            # From the moment at which the buffers of both sides were full.
            full = max(entry["at"] for entry in journal.read("flood", key="silent"))
            [at] = [entry["at"] for entry in found if entry["key"] == "silent"]
            assert SEND_TIMEOUT * 0.7 <= at - full <= LATEST
            inside = httpx.get(f"{server.url}/inside/").json()
            assert inside["stats"]["open"] == 1
            assert inside["kilobytes"] - before < 3 * KEPT
            # It has been slow for twice as long as the others were given.
            time.sleep(max(0.0, 2 * SEND_TIMEOUT - (time.monotonic() - began)))
            assert reader.is_alive()
            assert len(journal.read("disconnect")) == 2
        finally:
            reading.set()
            reader.join()
        # The connection is closed, not only forgotten: what was on its way comes, and no more.
        with pytest.raises(OSError, match=r"closed|reset"):
            _read_on(silent)


def test_stalled_stream_of_a_shared_connection_leaves_the_others_alone(
    serve: Serve, journal: Journal
) -> None:
    server = serve(
        "granian", args=["--http", "2"], SEND_TIMEOUT=SEND_TIMEOUT, HEARTBEAT={"PERIOD": 0.2}
    )
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    # Room for all of it; what stalls is the stream, with the 64 KiB that each has to begin with.
    connection.increment_flow_control_window(2**24)
    paths = {1: "/flood/?key=silent", 3: "/quiet/?key=reading"}
    for number, path in paths.items():
        fields = {":method": "GET", ":scheme": "http", ":authority": "127.0.0.1", ":path": path}
        connection.send_headers(number, list(fields.items()), end_stream=True)
    received = dict.fromkeys(paths, b"")

    def read(client: socket.socket) -> None:
        client.sendall(connection.data_to_send())
        data = client.recv(65536)
        assert data, "The server closed the connection."
        for event in connection.receive_data(data):
            if isinstance(event, DataReceived):
                received[event.stream_id] += event.data
                if event.stream_id == 3:
                    connection.acknowledge_received_data(event.flow_controlled_length, 3)

    with socket.create_connection(server.address, timeout=LATEST) as client:
        while not (ended := journal.read("disconnect")):
            read(client)
        assert [(entry["key"], entry["reason"]) for entry in ended] == [("silent", "stalled")]
        heard = len(received[3])
        deadline = time.monotonic() + 4 * 0.2
        while time.monotonic() < deadline:
            read(client)
    assert received[3][heard:].count(b": heartbeat") >= 2
    assert len(received[1]) < 2**17


def _read_on(client: Client) -> None:
    while True:
        client.piece()


def _read_slowly(client: Client, enough: threading.Event) -> None:
    """Take 64 KiB of a flood, five times a second."""
    while not enough.wait(0.2):
        client.event()


class Curl:
    """A client in a process of its own, which reads until it is stopped."""

    def __init__(self, url: str) -> None:
        program = shutil.which("curl")
        if program is None:
            pytest.skip("curl is not installed: apt-get install curl")
        self._command = [program, "--silent", "--no-buffer", "--output", os.devnull, url]

    def __enter__(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(self._command)
        return self._process

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()


def _wait_for_ends(journal: Journal, count: int, seconds: float) -> list[dict[str, object]]:
    deadline = time.monotonic() + seconds
    while len(found := journal.read("disconnect")) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


# A peer that vanishes: its host is there no more, and nothing comes back, not even a refusal.

_NUMBER = os.getpid() % 2**14
#: Both ends of the cable, in a network of their own: others may run this test, too.
NEAR, FAR = (f"10.213.{_NUMBER >> 6}.{(_NUMBER & 63) * 4 + end}" for end in (1, 2))


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, Callable[[], None]]]:
    """A network namespace behind a cable: its name, and what pulls the cable out."""
    ip = shutil.which("ip")
    if ip is None or os.geteuid() != 0:
        pytest.skip("Network namespaces need root and iproute2.")
    name, near, far = (f"{kind}{os.getpid() % 100000}" for kind in ("sse", "ssn", "ssf"))

    def run(*command: str) -> int:
        return subprocess.run([ip, *command], capture_output=True, check=False).returncode

    if run("netns", "add", name):
        pytest.skip("Network namespaces are not allowed here.")
    try:
        steps = [
            ("link", "add", near, "type", "veth", "peer", "name", far),
            ("link", "set", far, "netns", name),
            ("addr", "add", f"{NEAR}/30", "dev", near),
            ("link", "set", near, "up"),
            ("-n", name, "addr", "add", f"{FAR}/30", "dev", far),
            ("-n", name, "link", "set", far, "up"),
        ]
        if any(run(*step) for step in steps):
            pytest.skip("Virtual network cables are not allowed here.")
        yield name, lambda: _check(run("-n", name, "link", "set", far, "down"))
    finally:
        run("link", "del", near)
        run("netns", "del", name)


def _check(status: int) -> None:
    assert status == 0


FAR_CLIENT = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
connection.sendall(b"GET /quiet/?key=gone HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n")
received = b""
while b"data: open" not in received:
    received += connection.recv(65536)
print("open", flush=True)
connection.settimeout(None)
while connection.recv(65536):
    pass
"""


@pytest.mark.parametrize("name", SERVERS)
def test_peer_that_vanishes_is_let_go(
    serve: Serve, journal: Journal, elsewhere: tuple[str, Callable[[], None]], name: str
) -> None:
    namespace, pull_out = elsewhere
    # The last of several addresses counts, but Hypercorn and gunicorn take them all.
    port = free_port()
    args = {
        "daphne": ["-b", "0.0.0.0"],
        "uvicorn": ["--host", "0.0.0.0"],
        "granian": ["--host", "0.0.0.0"],
        "hypercorn": ["--bind", f"{NEAR}:{port}"],
        "gunicorn": ["--bind", f"{NEAR}:{port}"],
        "gunicorn-uvicorn": ["--bind", f"{NEAR}:{port}"],
    }[name]
    server = serve(name, args=args, SEND_TIMEOUT=SEND_TIMEOUT, HEARTBEAT={"PERIOD": 0.4})
    if "--bind" not in args:
        port = server.port
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", FAR_CLIENT, NEAR]
    with (
        Client(server.address) as near,
        subprocess.Popen([*command, str(port)], stdout=subprocess.PIPE) as client,
    ):
        try:
            near.request("/quiet/?key=near")
            near.event()
            assert client.stdout is not None
            assert client.stdout.readline() == b"open\n"
            # It takes its heartbeats, and is left alone.
            time.sleep(2 * SEND_TIMEOUT)
            assert journal.read("disconnect") == []
            pull_out()
            gone = time.monotonic()
            [entry] = _wait_for_ends(journal, 1, LATEST + 3)
            assert (entry["key"], entry["reason"]) == ("gone", "stalled")
            assert float(str(entry["at"])) - gone <= LATEST
            # Whose peer is there does not notice.
            assert near.piece().startswith(b": heartbeat")
        finally:
            client.kill()
