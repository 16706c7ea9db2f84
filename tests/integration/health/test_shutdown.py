"""The end of a process: its streams are told, its server ends as it would without them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from django_sse.asgi import get_asgi_application
from django_sse.connection.shutdown import COME_BACK_SECONDS, Shutdown, shutdown
from django_sse.testing import connect
from tests.project.journal import Journal
from tests.support.http_client import Client
from tests.support.servers import ROOT, SERVERS, Server

from .conftest import Serve
from .crowd import Crowd, Reader

STREAMS = 200
#: Those among them that always have something on its way.
PENDING = 5
DRAIN_SECONDS = 2
#: Seconds that a process may take beyond that, on a busy machine; what holds one does so for 5 or more.
GRACE = 3

BOTH = (signal.SIGTERM, signal.SIGINT)
#: The status of a server that has no streams. Uvicorn raises the signal again at its end, and
#: takes KeyboardInterrupt for a proper end.
STATUS = {("uvicorn", signal.SIGTERM): -signal.SIGTERM}

WAYS = [
    *((name, ()) for name in SERVERS),
    ("uvicorn", ("--timeout-graceful-shutdown", "3")),
    ("uvicorn", ("--workers", "2")),
]


@pytest.mark.parametrize(
    ("name", "args", "number"),
    [
        (name, args, number)
        for name, args in WAYS
        for number in BOTH
        # To gunicorn, SIGINT means to end at once.
        if not (name.startswith("gunicorn") and number == signal.SIGINT)
    ],
    ids=str,
)
def test_streams_are_told_and_end_before_their_process(
    serve: Serve, journal: Journal, name: str, args: tuple[str, ...], number: signal.Signals
) -> None:
    server = serve(name, args=args, DRAIN_SECONDS=DRAIN_SECONDS, HEARTBEAT={"PERIOD": None})
    assert httpx.get(f"{server.url}/inside/").json()["hooked"] == [False, False]
    paths = [f"/{'pending' if n < PENDING else 'quiet'}/?key={n}" for n in range(STREAMS)]
    with Crowd(server.address, paths) as crowd:
        stopped = server.stop(number)
        crowd.wait_for_the_end()
        assert [reader.path for reader in crowd.readers if not reader.ended] == []
        low, high = (round(seconds * 1000) for seconds in COME_BACK_SECONDS)
        times = [reader.retries for reader in crowd.readers]
        assert all(len(given) == 1 and low <= given[0] <= high for given in times), times
        # Some are alike by chance.
        assert len({given[0] for given in times}) > STREAMS * 0.9
        for key, reader in enumerate(crowd.readers[:PENDING]):
            _assert_all_arrived(reader, journal, str(key))
    assert stopped.seconds < DRAIN_SECONDS + GRACE
    status = 0 if "--workers" in args else STATUS.get((name, number), 0)
    assert stopped.status == status
    reasons = [entry["reason"] for entry in journal.read("disconnect")]
    assert reasons == ["shutdown"] * STREAMS
    assert [entry["hooked"] for entry in journal.read("imported")] == [False] * (
        1 + ("--workers" in args)
    )
    assert not re.search("WARN|ERROR|CRITICAL", server.log()), server.log()


def _assert_all_arrived(reader: Reader, journal: Journal, key: str) -> None:
    """Everything that was sent has arrived, in order, and after it the time to come back."""
    numbers = [int(found) for found in re.findall(rb"^data: (\d+) x", reader.body, re.MULTILINE)]
    [sent] = journal.wait_for("sent", key=key)
    assert numbers == list(range(len(numbers)))
    # The last one was given to send(), which found the stream ended while it waited.
    assert len(numbers) - sent["count"] in (0, 1)
    assert re.search(rb"xx\n\nretry: \d+\n\n$", reader.body)


RECYCLED = [
    ("uvicorn", ["--limit-max-requests", "5"]),
    ("uvicorn", ["--limit-max-requests", "4", "--limit-max-requests-jitter", "1"]),
    ("hypercorn", ["--max-requests", "5"]),
    ("granian", ["--workers-max-rss", "1", "--rss-sample-interval", "4"]),
    ("gunicorn", ["--max-requests", "5"]),
    ("gunicorn-uvicorn", ["--max-requests", "5", "--timeout", "20"]),
    ("gunicorn", []),
    ("gunicorn-uvicorn", []),
]


@pytest.mark.parametrize(("name", "args"), RECYCLED, ids=str)
def test_worker_that_is_replaced_tells_its_streams(
    serve: Serve, journal: Journal, name: str, args: list[str]
) -> None:
    """It has served its number of requests, is too large, or its server was told to reload."""
    server = serve(name, args=args, DRAIN_SECONDS=1, HEARTBEAT={"PERIOD": None})
    with Client(server.address) as client:
        client.request("/quiet/", headers={"Connection": "keep-alive"})
        client.event()
        if not args:
            os.kill(server.pid, signal.SIGHUP)
        for _ in range(6 if "granian" not in name else 0):
            with suppress(httpx.TransportError):
                httpx.get(f"{server.url}/inside/")
        assert re.search(rb"retry: \d+\n\n$", client.body())
    assert [entry["reason"] for entry in journal.wait_for("disconnect")] == ["shutdown"]
    if name == "uvicorn":  # There is nothing above it that would start it again.
        return
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/inside/").json()["stats"]["opened"] == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"No new worker has begun:\n{server.log()}")


@pytest.mark.parametrize("name", SERVERS)
def test_client_that_does_not_read_does_not_hold_the_process(
    serve: Serve, journal: Journal, name: str
) -> None:
    server = serve(name, DRAIN_SECONDS=1)
    with Client(server.address, receive_buffer=65536) as client:
        client.request("/flood/?key=1")
        client.event()
        _wait_until_blocked(journal)
        stopped = server.stop()
    assert stopped.seconds < 1 + GRACE
    assert [entry["reason"] for entry in journal.read("disconnect")] == ["shutdown"]


def _wait_until_blocked(journal: Journal) -> None:
    before = -1
    for _ in range(50):
        time.sleep(0.3)
        now = len(journal.read("flood"))
        if now == before:
            return
        before = now
    raise AssertionError(f"The stream has sent {before} MB that nobody reads.")


# Daphne closes what has not answered.
@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "granian"])
def test_stream_that_opens_meanwhile_is_told_to_come_back(
    serve: Serve, journal: Journal, name: str
) -> None:
    server = serve(name, DRAIN_SECONDS=DRAIN_SECONDS, HEARTBEAT={"PERIOD": None})
    browser = {"Accept": "text/event-stream"}
    with (
        Client(server.address) as opened,
        Client(server.address) as refused,
        Client(server.address) as told,
        Client(server.address) as late,
    ):
        if name == "hypercorn":
            # Its word comes by way of a stream. Elsewhere, none need be open as the signal comes.
            opened.request("/quiet/")
        refused.send("/late/", headers={"Accept": "*/*", "Connection": "close"})
        told.send("/late/", headers={**browser, "Connection": "close"})
        late.send("/late-connect/", headers={**browser, "Connection": "close"})
        assert len(journal.wait_for("asked", count=2)) == 2
        assert journal.wait_for("connect")
        os.kill(server.pid, signal.SIGTERM)
        refused.read_head()
        assert (refused.status, refused.headers["retry-after"]) == (
            503,
            refused.headers["retry-after"],
        )
        assert 1 <= int(refused.headers["retry-after"]) <= 5
        for client, opening in ((told, rb""), (late, rb":\n\n")):
            client.read_head()
            assert client.status == 200
            assert re.fullmatch(opening + rb"retry: \d{4}\n\n", client.body())
    assert server.stop().seconds < DRAIN_SECONDS + GRACE


@pytest.mark.parametrize("number", BOTH, ids=lambda number: number.name)
def test_daphne_ends_in_the_middle_of_handshakes(
    serve: Serve, journal: Journal, number: signal.Signals
) -> None:
    server = serve("daphne")
    with (
        Client(server.address) as opened,
        Client(server.address) as one,
        Client(server.address) as another,
    ):
        opened.request("/long-goodbye/")
        opened.event()
        one.send("/late-connect/")
        another.send("/late/")
        assert journal.wait_for("asked")
        assert journal.wait_for("connect")
        stopped = server.stop(number)
    assert stopped.status == 0
    assert stopped.seconds < 1 + GRACE
    assert [entry["stream"] for entry in journal.read("disconnect")] == ["LongGoodbye"]


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts the process's own handlers back."""
    before = {number: signal.getsignal(number) for number in BOTH}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", BOTH, ids=lambda number: number.name)
async def test_handlers_from_before_still_run(number: signal.Signals) -> None:
    calls: list[Any] = []
    signal.signal(number, lambda *args: calls.append(args))
    shutdown = Shutdown()
    loop = asyncio.get_running_loop()
    assert signal.getsignal(number).__name__ == "<lambda>"  # type: ignore[union-attr]
    for _ in range(3):
        shutdown.watch(loop)
    signal.raise_signal(number)
    assert [given for given, _ in calls] == [number]
    assert shutdown.draining


@pytest.mark.usefixtures("handlers")
async def test_ignored_signal_is_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    shutdown = Shutdown()
    shutdown.watch(asyncio.get_running_loop())
    signal.raise_signal(signal.SIGINT)
    # The process lives on, and its streams with it.
    assert not shutdown.draining
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.urls("tests.integration.health.project.urls")
async def test_server_that_starts_after_another_takes_streams() -> None:
    handler = get_asgi_application()
    told: list[str] = []

    async def serve() -> None:
        signs = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> dict[str, str]:
            return {"type": next(signs)}

        async def send(message: dict[str, str]) -> None:
            told.append(message["type"])
            if message["type"] == "lifespan.startup.complete":
                async with connect(handler, "/quiet/", headers={"Accept": "*/*"}) as stream:
                    assert stream.status_code == 200
                    assert (await stream.receive()).data == "open"

        await handler({"type": "lifespan"}, receive, send)

    try:
        await serve()
        await serve()
    finally:
        shutdown.start()
    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"] * 2


def test_signal_without_a_handler_ends_the_process_by_it() -> None:
    script = (
        "import asyncio, signal, django.conf; django.conf.settings.configure()\n"
        "from django_sse.connection.shutdown import shutdown\n"
        "async def main():\n"
        "    shutdown.watch(asyncio.get_running_loop())\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    await asyncio.sleep(30)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=20, check=False)
    assert done.returncode == -signal.SIGTERM


# Reloading in development.


class RunServer(Server):
    """``manage.py runserver``, Daphne's, with its reloader."""

    def __init__(self, **options: Any) -> None:
        super().__init__("daphne", **options)
        self._command = [sys.executable, "manage.py", "runserver", f"127.0.0.1:{self.port}"]


@pytest.mark.parametrize("name", ["runserver", "uvicorn"])
def test_reload_does_not_wait_for_streams(
    tmp_path: Path, database: Path, journal: Journal, name: str
) -> None:
    watched = tmp_path / "reloaded_settings.py"
    watched.write_text("from tests.integration.health.project.settings import *\n")
    options: dict[str, Any] = {
        "directory": tmp_path,
        "database": database,
        "settings": "reloaded_settings",
        "env": {
            "JOURNAL": str(tmp_path / "journal"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
        },
    }
    if name == "uvicorn":
        args = ["--reload", "--reload-dir", str(tmp_path)]
        server = Server(
            "uvicorn", "tests.integration.health.project.asgi:application", args=args, **options
        )
    else:
        server = RunServer(**options)
    with server, Crowd(server.address, ["/quiet/"] * 20) as crowd:
        # Django's reloader looks once a second, and what changed before its first look is missed.
        for seconds in range(1, 11):
            os.utime(watched, (time.time() + seconds,) * 2)
            if crowd.wait_until(lambda reader: reader.done, 1):
                break
        ended = time.monotonic()
        assert all(reader.done for reader in crowd.readers)
        again = journal.wait_for("imported", count=2)
        assert len(again) >= 2
        # The time that it takes to start.
        assert again[1]["at"] - ended < 5
        if name == "uvicorn":
            assert all(reader.ended and reader.retries for reader in crowd.readers)
    assert server.faults() == [], server.log()
