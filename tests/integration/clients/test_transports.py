"""Chromium's EventSource over HTTP/2, and through nginx: the same events, eight streams in one tab."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.integration.nginx.proxy import Nginx
from tests.support.browser import open_page
from tests.support.certificates import make_certificate
from tests.support.servers import Server, listens

from .runners import PAGES
from .tricky import LAST, NAMES, expected, normal

STREAMS = 8


class SecureServer(Server):
    """A server that speaks TLS."""

    @property
    def url(self) -> str:
        return super().url.replace("http:", "https:")


def _server(name: str, directory: Path, database: Path) -> Server:
    key, certificate = make_certificate(directory)
    options = {
        "hypercorn": ["--keyfile", str(key), "--certfile", str(certificate)],
        "granian": ["--ssl-keyfile", str(key), "--ssl-certificate", str(certificate)],
        "uvicorn": ["--timeout-graceful-shutdown", "2"],
    }
    return (Server if name == "uvicorn" else SecureServer)(
        name,
        "tests.project.asgi:application",
        directory=directory,
        database=database,
        settings="tests.integration.clients.settings",
        args=options[name],
        env={"JOURNAL": str(directory / "journal")},
    )


@pytest.fixture(params=["hypercorn", "granian", "nginx"])
def address(
    request: pytest.FixtureRequest, sample_database: Path, tmp_path: Path
) -> Iterator[tuple[str, str]]:
    """The address of a server, and the protocol that it speaks."""
    behind_nginx = request.param == "nginx"
    server = _server("uvicorn" if behind_nginx else request.param, tmp_path, sample_database)
    with server:
        assert listens(server.port)
        if behind_nginx:
            with Nginx(tmp_path / "nginx", upstream=server.port) as proxy:
                yield proxy.url, "http/1.1"
        else:
            yield server.url, "h2"
    assert server.faults() == [], server.log()


def _show(page: Page, url: str, body: str, names: tuple[str, ...]) -> None:
    html = f"<script>window.log = []; const NAMES = {json.dumps(names)};</script>{body}"
    page.route("**/page", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto(f"{url}/page")


def test_all_events_arrive(address: tuple[str, str]) -> None:
    url, _ = address
    with open_page(ignore_https_errors=True) as page:
        _show(page, url, PAGES["EventSource"].html.replace("ADDRESS", "/tricky/"), NAMES)
        page.wait_for_function("log.some(([type]) => type === 'end')", timeout=30_000)
        assert normal(page.evaluate("log")) == expected()


_EIGHT = """<script>
  window.seen = Array.from({ length: COUNT }, () => []);
  window.ended = 0;
  seen.forEach((numbers, index) => {
    const source = new EventSource(`/numbers/?stream=${index}`);
    source.addEventListener("number", (event) => numbers.push(Number(event.lastEventId)));
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) ended += 1;
    });
  });
</script>"""


def test_eight_streams_are_open_in_one_tab(address: tuple[str, str]) -> None:
    url, protocol = address
    with open_page(ignore_https_errors=True) as page:
        _show(page, url, _EIGHT.replace("COUNT", str(STREAMS)), ())
        # Over HTTP/1.1, a browser opens six connections to a site: two streams wait for others.
        at_once = STREAMS if protocol == "h2" else 6
        page.wait_for_function(f"seen.filter((it) => it.length).length === {at_once}")
        page.wait_for_function(f"ended === {STREAMS}", timeout=60_000)
        seen: list[Any] = page.evaluate("seen")
        assert seen == [list(range(1, LAST + 1))] * STREAMS
        spoken = "performance.getEntriesByType('resource').map((it) => it.nextHopProtocol)"
        # It is empty for a connection that has ended without an answer.
        assert set(page.evaluate(spoken)) - {""} == {protocol}
