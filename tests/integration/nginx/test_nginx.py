"""Streams behind nginx: what the documented configuration does, and what the doctor says of others."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from django_sse.monitoring import flow
from django_sse.monitoring.doctor import examine
from tests.integration.nginx.proxy import Nginx
from tests.project.journal import Journal
from tests.support.certificates import make_certificate
from tests.support.http_client import Client
from tests.support.servers import Server

#: Seconds in which what happens on one side of nginx is known on the other.
AT_ONCE = 1.0
FORCED = "proxy_ignore_headers X-Accel-Buffering; proxy_buffering on;"
GZIP = "gzip on; gzip_proxied any; gzip_min_length 1;"
GZIP_TYPES = (
    "gzip_types text/css text/javascript application/javascript application/json image/svg+xml;"
)


@pytest.fixture
def server(
    request: pytest.FixtureRequest, sample_database: Path, tmp_path: Path
) -> Iterator[Server]:
    name, heartbeat = getattr(request, "param", ("daphne", 0.5))
    with _server(name, heartbeat, sample_database, tmp_path) as server:
        yield server
    assert server.faults() == [], server.log()


def _server(name: str, heartbeat: float, database: Path, directory: Path) -> Server:
    return Server(
        name,
        "tests.project.asgi:application",
        directory=directory,
        database=database,
        settings="tests.integration.nginx.settings",
        args=["--timeout-graceful-shutdown", "10"] if name == "uvicorn" else [],
        env={"JOURNAL": str(directory / "journal"), "HEARTBEAT": str(heartbeat)},
    )


@pytest.fixture
def nginx(server: Server, tmp_path: Path) -> Iterator[Callable[..., Nginx]]:
    """``nginx(…)`` starts one in front of the server, or of another ``upstream`` port."""
    with ExitStack() as stack:
        count = 0

        def start(**options: Any) -> Nginx:
            nonlocal count
            count += 1
            options.setdefault("upstream", server.port)
            return stack.enter_context(Nginx(tmp_path / f"nginx{count}", **options))

        yield start


# Without a heartbeat, at whose writing an end would be noticed anyway.
@pytest.mark.parametrize("server", [("daphne", 0), ("uvicorn", 0)], indirect=True)
def test_nginx_as_documented_passes_on_events_and_both_ends(
    server: Server, nginx: Callable[..., Nginx], journal: Journal
) -> None:
    proxy = nginx(extra=GZIP)
    with Client(proxy.address) as client, Client(proxy.address) as other:
        # As a browser asks; streams stay as they are, also where nginx compresses.
        client.request("/steps/", headers={"Accept-Encoding": "gzip"})
        assert client.headers["content-type"] == "text/event-stream"
        assert "content-encoding" not in client.headers
        assert client.event().data == "0"
        for number in (1, 2):
            began = time.monotonic()
            other.request("/steps/next/")
            assert other.body() == b"ok"
            assert client.event().data == str(number)
            assert time.monotonic() - began < AT_ONCE
    with Client(proxy.address) as client:
        client.request("/quiet/?key=leaves")
        assert client.event().data == "open"
        left = time.monotonic()
    [end] = journal.wait_for("disconnect", key="leaves")
    assert end["reason"] == "client"
    assert end["at"] - left < AT_ONCE

    with Client(proxy.address) as client:
        client.request("/quiet/?key=stays")
        assert client.event().data == "open"
        began = time.monotonic()
        server.stop()
        rest = client.body()  # Ends properly, or raises.
        assert b"retry: " in rest
        assert time.monotonic() - began < 5 + 2
    [end] = journal.wait_for("disconnect", key="stays")
    assert end["reason"] == "shutdown"

    # The doctor meets a proxy without a server behind it.
    diagnosis = examine(f"{proxy.url}/quiet/", seconds=1)
    assert [finding.code for finding in diagnosis.problems] == ["gateway"]


def test_nginx_doctor_tells_sound_from_buffering_compressing_and_impatient(
    server: Server,
    nginx: Callable[..., Nginx],
    monkeypatch: pytest.MonkeyPatch,
    sample_database: Path,
    tmp_path: Path,
) -> None:
    def problems(proxy: Nginx, seconds: float) -> dict[str, str]:
        diagnosis = examine(f"{proxy.url}/quiet/", seconds=seconds)
        return {finding.code: finding.text for finding in diagnosis.problems}

    direct = examine(f"{server.url}/quiet/", seconds=1.6)
    assert direct.problems == []
    assert {"stream", "first-bytes", "alive"} <= {finding.code for finding in direct.findings}

    assert problems(nginx(), 1.6) == {}

    squeezing = {GZIP_TYPES: "gzip_types text/event-stream;"}
    assert [*problems(nginx(extra=GZIP, changes=squeezing), 1.2)] == ["compressed"]
    # Even the response's head is held back then.
    hoarding = nginx(extra=FORCED + GZIP, changes=squeezing)
    assert [*problems(hoarding, 1)] == ["buffered"]

    # nginx passes on what is chunked as it comes, though it buffers. Over HTTP/1.0, its default, a
    # response has no chunks, and waits until a buffer is full.
    simple = {"proxy_http_version 1.1;": "proxy_http_version 1.0;"}
    assert [*problems(nginx(extra=FORCED, changes=simple), 2.5)] == ["buffered"]

    # Without a heartbeat, whose moment would decide how long it was silent. (And nginx starts a
    # timer anew only where that makes a difference of 300 ms.)
    monkeypatch.setattr(flow, "IDLE_SECONDS", 0.3)
    (tmp_path / "silent").mkdir()
    with _server("daphne", 0, sample_database, tmp_path / "silent") as silent:
        impatient = {"proxy_read_timeout 60s;": "proxy_read_timeout 1s;"}
        found = problems(nginx(upstream=silent.port, changes=impatient), 5)
    assert [*found] == ["cut"]
    assert "time limit" in found["cut"]

    # A server that dies does not look like one that has said all.
    proxy = nginx()
    with Client(proxy.address) as client:
        client.request("/quiet/")
        assert client.event().data == "open"
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ConnectionError):
            client.body()


def test_nginx_doctor_sees_http2(
    server: Server, nginx: Callable[..., Nginx], tmp_path: Path
) -> None:
    key, certificate = make_certificate(tmp_path)
    proxy = nginx(
        changes={
            "server_name example.com;": f"ssl_certificate {certificate}; ssl_certificate_key {key};",
            "    listen 80;": "    listen 127.0.0.1:{port} ssl http2;",
        }
    )
    address = proxy.url.replace("http:", "https:") + "/quiet/"
    diagnosis = examine(address, seconds=1.2, insecure=True)
    assert diagnosis.problems == []
    [protocol] = [finding for finding in diagnosis.findings if finding.code == "protocol"]
    assert "HTTP/2" in protocol.text
    [refused] = examine(address, seconds=1).findings
    assert refused.code == "unreachable"
    assert "certificate" in refused.text.lower()
