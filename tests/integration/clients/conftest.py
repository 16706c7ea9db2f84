"""A server with the streams of this folder, and pages of its origin in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.project.journal import Journal
from tests.support.browser import open_page
from tests.support.npm import install
from tests.support.servers import Server

FETCH = "@microsoft/fetch-event-source/lib/esm"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory)


@pytest.fixture(scope="module")
def server(
    sample_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Journal]]:
    directory = tmp_path_factory.mktemp("clients")
    server = Server(
        "uvicorn",
        "tests.project.asgi:application",
        directory=directory,
        database=sample_database,
        settings="tests.integration.clients.settings",
        args=["--timeout-graceful-shutdown", "2"],
        env={"JOURNAL": str(directory / "journal")},
    )
    with server:
        yield server, Journal(directory / "journal")
    assert server.faults() == [], server.log()


class Browser:
    """``browser.show(html, …)`` shows a page of the server's origin, or of a proxy's before it."""

    def __init__(self, page: Page, url: str, journal: Journal, packages: Path) -> None:
        self.page = page
        self.url = url
        self._journal = journal
        self.packages = packages
        self.served: dict[str, Path | str] = {}
        page.route("**/static/**", self._serve)
        page.route("**/page", self._serve)

    def show(self, html: str, **served: str) -> None:
        """Show a page; ``served`` are what ``/static/…`` serves, by file name without ``.js``."""
        self.served = {"page": html} | {
            f"{name}.js": self.packages / path for name, path in served.items()
        }
        self.page.goto(f"{self.url}/page")

    def connects(self, key: str, count: int) -> list[tuple[str, str | None]]:
        """Return what was done to the first connections, and their last ids."""
        found = self._journal.wait_for("connect", key=key, count=count)
        return [(entry["step"], entry["last"]) for entry in found]

    def requests(self, key: str) -> list[dict[str, Any]]:
        """Return what is known of all connections so far."""
        return self._journal.read("connect", key=key)

    def leaves(self, key: str) -> bool:
        """Wait until a connection has ended."""
        return bool(self._journal.wait_for("disconnect", key=key))

    def _serve(self, route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        # ES modules import each other without an ending.
        name = name if "." in name or name == "page" else f"{name}.js"
        found = self.served.get(name, self.packages / FETCH / name)
        if isinstance(found, Path):
            route.fulfill(body=found.read_text(), content_type="text/javascript")
        else:
            kind = "html" if name == "page" else "javascript"
            route.fulfill(body=found, content_type=f"text/{kind}; charset=utf-8")


@pytest.fixture
def browser(server: tuple[Server, Journal], packages: Path) -> Iterator[Browser]:
    with open_page() as page:
        page.set_default_timeout(10_000)
        expect.set_options(timeout=10_000)
        yield Browser(page, server[0].url, server[1], packages)
