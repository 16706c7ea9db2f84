"""What arrives at clients of real servers, and what is left there when they have gone."""

from __future__ import annotations

import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.project.journal import Journal
from tests.support.http_client import Client
from tests.support.servers import SERVERS, Server
from tests.support.services import find

Serve = Callable[..., Server]

OBJECTS = (
    b":\n\n"
    b'data: {"id":0,"first_name":"Jet","last_name":"Brains"}\n\n'
    b'data: {"id":0,"name":"Keyboard","prices":[100,200]}\n\n'
)

on_both = pytest.mark.parametrize("name", ["daphne", "uvicorn"])


@pytest.fixture
def key() -> str:
    """Something by which the journal tells this test's streams from those of others."""
    return uuid.uuid4().hex


# What arrives.


@pytest.mark.parametrize("name", SERVERS)
def test_objects_arrive_as_exactly_these_bytes(serve: Serve, name: str) -> None:
    with Client(serve(name).address) as client:
        client.request("/serialization/")
        assert client.status == 200
        assert client.headers["content-type"] == "text/event-stream"
        assert client.headers["cache-control"] == "no-store, no-transform"
        assert client.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in client.headers
        assert "content-length" not in client.headers
        assert client.body() == OBJECTS


def test_event_arrives_before_the_next_is_sent(shared: Server) -> None:
    with Client(shared.address) as client:
        client.request("/steps/")
        assert client.piece() == b":\n\n"
        for number in range(3):
            # Nobody but the last line lets the stream send the next one.
            assert client.piece() == b"event: step\ndata: %d\nid: %d\n\n" % (number, number)
            httpx.get(f"{shared.url}/steps/next/")
        assert client.body() == b""


def test_http_1_0_client_reads_to_the_end_of_the_connection(shared: Server) -> None:
    with Client(shared.address) as client:
        client.request("/serialization/", version="1.0")
        assert client.status == 200
        assert client.body() == OBJECTS
        with pytest.raises(OSError, match=r"closed|reset|pipe"):
            client.request("/serialization/", version="1.0")


def test_connection_is_kept_after_a_finished_stream(shared: Server) -> None:
    with Client(shared.address) as client:
        for _ in range(3):
            client.request("/serialization/")
            assert client.body() == OBJECTS
        client.request("/nothing-here/")
        assert client.status == 404
        client.body()
        client.request("/quiet/")
        assert client.event().data == "open"


def test_head_leaves_the_connection_usable(shared: Server) -> None:
    with Client(shared.address) as client:
        client.request("/quiet/", "HEAD")
        assert client.status == 200
        assert client.headers["content-type"] == "text/event-stream"
        client.request("/quiet/")
        assert client.event().data == "open"


def test_gzip_lets_events_arrive_at_once(shared: Server, shared_journal: Journal) -> None:
    # An ordinary page is compressed here, so the middleware is at work.
    assert httpx.get(f"{shared.url}/").headers["content-encoding"] == "gzip"
    assert shared_journal.wait_for("request finished")
    with httpx.stream("GET", f"{shared.url}/steps/", timeout=5) as response:
        assert response.request.headers["accept-encoding"].startswith("gzip")
        lines = _meaningful(response.iter_lines())
        assert next(lines) == "event: step"
        assert next(lines) == "data: 0"
        # The stream was taken over: its request is finished, and it is not.
        assert len(shared_journal.wait_for("request finished", count=2)) == 2
        for number in range(1, 3):
            httpx.get(f"{shared.url}/steps/next/")
            assert next(lines) == f"id: {number - 1}"
            assert next(lines) == "event: step"
            assert next(lines) == f"data: {number}"


def _meaningful(lines: Iterator[str]) -> Iterator[str]:
    return (line for line in lines if line.strip(": "))


def test_gzip_events_are_readable_by_curl(shared: Server) -> None:
    curl = find("curl", package="curl")
    options = ["--no-buffer", "--silent", "--compressed", "--max-time", "10"]
    process = subprocess.Popen(
        [curl, *options, f"{shared.url}/steps/"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert _block(process) == ":\n\n"
        for number in range(3):
            assert _block(process) == f"event: step\ndata: {number}\nid: {number}\n\n"
            httpx.get(f"{shared.url}/steps/next/")
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.communicate()


def _block(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    block = ""
    while not block.endswith("\n\n"):
        line = process.stdout.readline()
        assert line, f"The response ended after {block!r}."
        block += line
    return block


# When the client leaves, or does not read.


@pytest.mark.parametrize("path", ["quiet", "busy", "flood"])
def test_client_that_leaves_is_noticed_within_100_ms(
    shared: Server, shared_journal: Journal, key: str, path: str
) -> None:
    delays = []
    # Three times, as the machine may be busy with something else.
    for number in range(3):
        client = Client(shared.address, receive_buffer=65536)
        client.request(f"/{path}/?key={key}{number}")
        client.event()
        if path == "flood":
            _wait_until_blocked(shared_journal, f"{key}{number}")
        left = time.monotonic()
        client.close()
        found = shared_journal.wait_for("disconnect", key=f"{key}{number}")
        assert [entry["reason"] for entry in found] == ["client"]
        delays.append(found[0]["at"] - left)
        if delays[-1] < 0.1:
            return
    pytest.fail(f"It took {delays} seconds.")


def test_slow_client_holds_the_stream_back(
    shared: Server, shared_journal: Journal, key: str
) -> None:
    with Client(shared.address, receive_buffer=65536) as client:
        client.request(f"/flood/?key={key}")
        blocked = _wait_until_blocked(shared_journal, key)
        # The buffers of both ends' operating systems, and those of the server.
        assert blocked < 32
        # It goes on where the client does, and nothing was lost.
        for _ in range((blocked + 4) * 16):
            assert client.event().data == "x" * 65536
        assert shared_journal.wait_for("flood", megabytes=blocked + 4, key=key)


def _wait_until_blocked(journal: Journal, key: str) -> int:
    """Wait until ``Flood`` does not get any further; return how many megabytes it has sent."""
    deadline = time.monotonic() + 10
    before = -1
    while time.monotonic() < deadline:
        time.sleep(0.4)
        now = len(journal.read("flood", key=key))
        if now == before:
            return now
        before = now
    raise AssertionError(f"The stream has sent {before} MB that nobody reads.")


@on_both
def test_client_that_leaves_during_the_handshake_leaves_nothing(
    serve: Serve, database: Path, journal: Journal, name: str
) -> None:
    server = serve(name)
    session = {"Cookie": f"sessionid={_log_in(server)}"}
    httpx.get(f"{server.url}/serialization/")
    threads = server.threads()
    for count in range(1, 6):
        client = Client(server.address)
        client.send("/hesitant/", headers=session)
        assert len(journal.wait_for("connect", count=count)) == count
        client.close()
        assert len(journal.wait_for("left", count=count)) == count
    _wait_until(lambda: server.threads() <= threads and not server.open_files(database))
    assert server.threads() <= threads
    assert server.open_files(database) == 0
    assert journal.read("stream") == journal.read("disconnect", stream="Hesitant") == []


# When the server stops.


@pytest.mark.parametrize(
    ("name", "number"),
    [("daphne", signal.SIGTERM), ("uvicorn", signal.SIGTERM), ("uvicorn", signal.SIGINT)],
    ids=["daphne", "uvicorn", "uvicorn-ctrl-c"],
)
def test_server_stops_with_open_streams(
    serve: Serve, journal: Journal, name: str, number: signal.Signals
) -> None:
    server = serve(name)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.address)) for _ in range(9)]
        for client, path in zip(clients, ["quiet", "busy", "chat/1"] * 3, strict=True):
            client.request(f"/{path}/")
            client.event()
        stopped = server.stop(number)
        assert stopped.seconds < 5
        assert server.faults() == []
        if name == "daphne":
            # Clients that keep up still get the proper end of their response, and at most the
            # time after which to come back before it.
            for client in [*clients[0::3], *clients[2::3]]:
                assert re.fullmatch(rb"(retry: \d+\n\n)?", client.body())
    # After its time limit and SIGTERM, Uvicorn ends its process before any task runs again.
    if (name, number) != ("uvicorn", signal.SIGTERM):
        found = journal.read("disconnect")
        assert [entry["reason"] for entry in found] == ["shutdown"] * 9


# What streams cost.


@on_both
def test_idle_streams_hold_no_thread_and_no_database_connection(
    serve: Serve, database: Path, journal: Journal, name: str
) -> None:
    server = serve(name)
    session = {"Cookie": f"sessionid={_log_in(server)}"}
    # The page of the login and the login itself.
    assert len(journal.wait_for("request finished", count=2)) == 2
    threads, files = server.threads(), server.open_files(database)
    with ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(Client(server.address))
            client.request("/private/", headers=session)
            assert client.event().data == "open"
        assert len(journal.wait_for("request finished", count=202)) == 202
        _wait_until(
            lambda: server.threads() <= threads + 3 and server.open_files(database) <= files + 3
        )
        assert server.threads() <= threads + 3
        assert server.open_files(database) <= files + 3
        assert journal.read("disconnect") == []
    assert len(journal.wait_for("disconnect", count=200, reason="client")) == 200


@on_both
def test_synchronous_work_of_streams_shares_the_pool(
    serve: Serve, database: Path, name: str
) -> None:
    server = serve(name)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.address)) for _ in range(21)]
        for client in clients:
            # Their handshakes are done; so what is measured is the work alone.
            client.request("/slow/")
            assert client.event().data == "ready"
        began = time.monotonic()
        httpx.get(f"{server.url}/slow/start/")
        events = [client.event().data for client in clients]
        seconds = time.monotonic() - began
        assert seconds < 1, seconds
        assert 1 < len(set(events)) <= 8
        assert all('"thread":"django_sse"' in str(event) for event in events)
        # The streams are open, their work is done: nothing of it stays.
        _wait_until(lambda: not server.open_files(database))
        assert server.open_files(database) == 0


# Without take-over.


@on_both
def test_djangos_own_handler_serves_streams_with_one_warning(
    serve: Serve, journal: Journal, name: str
) -> None:
    server = serve(name, "tests.project.asgi:without_takeover")
    for count in range(1, 4):
        with Client(server.address) as client:
            client.request("/quiet/")
            assert client.event().data == "open"
        found = journal.wait_for("disconnect", count=count)
        assert [entry["reason"] for entry in found] == ["client"] * count
    with Client(server.address) as client:
        client.request("/serialization/")
        assert client.body() == OBJECTS
    assert server.log().count("A stream runs under Django's own ASGI handler") == 1


def _log_in(server: Server) -> str:
    """Return the key of a session of the user ``demo``."""
    with httpx.Client(base_url=server.url) as client:
        client.get("/login/")
        form = {
            "username": "demo",
            "password": "demo",
            "csrfmiddlewaretoken": client.cookies["csrftoken"],
        }
        assert client.post("/login/", data=form).status_code == 302
        return client.cookies["sessionid"]


def _wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something that cannot be awaited is so, for 5 seconds at most."""
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
