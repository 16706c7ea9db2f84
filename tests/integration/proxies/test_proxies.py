"""Streams behind proxies, each with the configuration that the documentation shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from django_sse.monitoring.doctor import examine
from django_sse.wire.events import EventDecoder
from tests.project.journal import Journal
from tests.support.certificates import make_certificate
from tests.support.http_client import Client
from tests.support.servers import Server

from .proxy import PROGRAMS, Proxy
from .streams import LARGE

#: Seconds in which an event passes. HAProxy without `option http-no-delay` takes 0.2.
AT_ONCE = 0.15
#: Seconds for what comes at once or never: the first bytes, and the news that a client has left.
SOON = 1.0
#: Seconds of two heartbeats, and some: the first write after a client has left may still succeed.
TWO_HEARTBEATS = 1.5
#: What an `EventSource` sends, and what a browser sends with it.
BROWSER = {"Accept": "text/event-stream", "Accept-Encoding": "gzip, deflate, br"}

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def upstream(
    sample_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Path]]:
    directory = tmp_path_factory.mktemp("upstream")
    server = Server(
        "uvicorn",
        "tests.project.asgi:application",
        directory=directory,
        database=sample_database,
        settings="tests.integration.proxies.settings",
        args=["--timeout-graceful-shutdown", "10"],
        env={"JOURNAL": str(directory / "journal")},
    )
    with server:
        yield server, directory / "journal"
    assert server.faults() == [], server.log()


@pytest.fixture
def server(upstream: tuple[Server, Path]) -> Server:
    return upstream[0]


@pytest.fixture
def journal(upstream: tuple[Server, Path]) -> Journal:
    """What the streams do from here on."""
    return Journal(upstream[1])


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Start]:
    """``start("haproxy", …)`` starts a proxy in front of the server."""
    with ExitStack() as stack:
        count = 0

        def start(name: str, **options: Any) -> Proxy:
            nonlocal count
            count += 1
            directory = tmp_path / f"{name}{count}"
            return stack.enter_context(Proxy(name, directory, server.port, **options))

        yield start


every_proxy = pytest.mark.parametrize("name", PROGRAMS)


@every_proxy
def test_proxy_as_documented_passes_on_each_event_at_once_and_whole(
    start: Start, name: str
) -> None:
    proxy = start(name)
    with Client(proxy.address) as client, Client(proxy.address) as other:
        other.request("/silent/", headers=BROWSER)  # The proxy's own first time is not measured.
        began = time.monotonic()
        client.request("/steps/", headers=BROWSER)
        assert client.event().data == "0"
        assert time.monotonic() - began < SOON
        assert client.headers["content-type"] == "text/event-stream"
        assert client.headers["cache-control"] == "no-store, no-transform"
        assert "content-encoding" not in client.headers
        delays = []
        for number in (1, 2):
            with Client(proxy.address) as asking:
                asking.request(f"/steps/next/?{number}")
                assert asking.body() == b"ok"
            began = time.monotonic()
            assert client.event().data == str(number)
            delays.append(time.monotonic() - began)
        assert min(delays) < AT_ONCE
    # Two clients of one address have a stream each: neither waits for the other, nor shares it.
    with Client(proxy.address) as client, Client(proxy.address) as other:
        for each in (client, other):
            each.request("/large/", headers=BROWSER)
            assert each.event().data == "before"
        for each in (client, other):
            assert each.event().data == "x" * LARGE
            assert each.event().data == "after"
    assert examine(f"{proxy.url}/quiet/", seconds=1.2).problems == []


@every_proxy
def test_proxy_keeps_a_stream_by_its_heartbeats(start: Start, name: str, journal: Journal) -> None:
    proxy = start(name, impatient=True)
    with Client(proxy.address) as silent, Client(proxy.address) as client:
        silent.request("/silent/?key=cut", headers=BROWSER)
        client.request("/quiet/?key=kept", headers=BROWSER)
        assert silent.event().data == client.event().data == "open"
        began = time.monotonic()
        beats = 0
        while time.monotonic() - began < 2:
            beats += client.piece().count(b": heartbeat")
        assert beats >= 3
        # The time limit is there.
        assert [end["key"] for end in journal.wait_for("disconnect")] == ["cut"]


@every_proxy
def test_proxy_tells_that_the_client_has_left(start: Start, name: str, journal: Journal) -> None:
    proxy = start(name)
    # Apache sees it when it writes, so at the second heartbeat after; the others at once.
    path, within = ("quiet", TWO_HEARTBEATS) if name == "apache" else ("silent", SOON)
    with Client(proxy.address) as client:
        client.request(f"/{path}/?key={name}", headers=BROWSER)
        assert client.event().data == "open"
    left = time.monotonic()
    [end] = journal.wait_for("disconnect", key=name)
    assert end["reason"] == "client"
    assert end["at"] - left < within


@every_proxy
def test_proxy_hands_on_that_the_client_does_not_read(
    start: Start, name: str, journal: Journal
) -> None:
    proxy = start(name)
    with Client(proxy.address) as client:
        client.request(f"/flood/?key={name}", headers=BROWSER)
        assert client.piece()

        def sent() -> int:
            return max(each["megabytes"] for each in journal.read("flood", key=name))

        # Full buffers of sockets and of the proxy. Varnish without a pipe takes 500 MB a second.
        journal.wait_for("flood", key=name)
        before = -1
        while before < (now := sent()):
            assert now < 100
            before = now
            time.sleep(0.3)


@every_proxy
def test_proxy_lets_a_client_resume_also_at_a_restarted_server(
    start: Start, name: str, server: Server
) -> None:
    proxy = start(name)

    def publish(text: str) -> str:
        with Client(proxy.address) as client:
            client.request(f"/news/publish/?text={quote(text)}")
            return client.body().decode()

    with Client(proxy.address) as client:
        client.request("/news/", headers=BROWSER)
        assert client.event().event == "snapshot"
        first = publish(f"{name} 1")
        assert client.event().id == first
    publish(f"{name} 2")
    with Client(proxy.address) as client:
        client.request("/news/", headers={**BROWSER, "Last-Event-ID": first})
        assert client.event().data == f"{name} 2"
        server.stop()
        rest = EventDecoder().feed(client.body())  # Ends properly, or raises.
        assert [event.retry for event in rest if event.retry is not None]
        server.start()
    with Client(proxy.address) as client:
        client.request("/news/", headers={**BROWSER, "Last-Event-ID": first})
        assert client.status == 200
        # This broker was the process's memory.
        assert [client.event().event for _ in range(2)] == ["reset", "snapshot"]


@pytest.mark.parametrize("name", [name for name, program in PROGRAMS.items() if program.tls])
def test_proxy_speaks_http2_with_browsers(start: Start, name: str, tmp_path: Path) -> None:
    proxy = start(name, certificate=make_certificate(tmp_path))
    diagnosis = examine(f"{proxy.url}/quiet/", seconds=1.2, insecure=True)
    assert diagnosis.problems == []
    [protocol] = [finding for finding in diagnosis.findings if finding.code == "protocol"]
    assert "HTTP/2" in protocol.text


NO_DELAY = "    option http-no-delay\n"
NO_GZIP = '    SetEnvIf Accept "text/event-stream" no-gzip'
DEFLATE = "    SetOutputFilter DEFLATE\n"
ENCODE = "\tencode gzip\n\treverse_proxy"
COMPRESSION = "    option forwardfor\n    compression algo gzip\n"
PIPE = "return (pipe);"
IMPATIENT = ("-p", "send_timeout=1")


@pytest.mark.parametrize(
    ("name", "changes", "arguments", "problems"),
    [
        # They obey `no-transform`.
        ("haproxy", {"    option forwardfor\n": COMPRESSION}, (), []),
        ("caddy", {"\treverse_proxy": ENCODE}, (), []),
        # mod_deflate does not.
        ("apache", {NO_GZIP: DEFLATE}, (), ["compressed"]),
        ("apache", {NO_GZIP: DEFLATE + NO_GZIP}, (), []),
        # A limit for the whole response, heartbeats or not, of which a pipe knows nothing. Age
        # stands in every response that is not piped.
        ("varnish", {}, IMPATIENT, []),
        ("varnish", {PIPE: "return (pass);"}, IMPATIENT, ["cached", "cut"]),
    ],
)
def test_doctor_knows_what_proxies_do_to_streams(
    start: Start,
    name: str,
    changes: dict[str, str],
    arguments: tuple[str, ...],
    problems: list[str],
) -> None:
    proxy = start(name, changes=changes, arguments=arguments)
    diagnosis = examine(f"{proxy.url}/quiet/", seconds=1.8)
    assert [finding.code for finding in diagnosis.problems] == problems


def test_haproxy_without_its_option_holds_events_back(start: Start) -> None:
    proxy = start("haproxy", changes={NO_DELAY: ""})
    with Client(proxy.address) as client, Client(proxy.address) as other:
        client.request("/steps/", headers=BROWSER)
        assert client.event().data == "0"
        began = time.monotonic()
        other.request("/steps/next/")
        assert client.event().data == "1"
        assert time.monotonic() - began > AT_ONCE
