"""The project of the page about HTML, pasted and served, and its pages in Chromium."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.docs.pages import README, ROOT, Project
from tests.support.browser import open_page
from tests.support.npm import install
from tests.support.servers import free_port, listens

SECONDS = 20.0

PUBLISHER = '''"""Runs the code that comes in a line each, and says so."""
import json
import sys

import django

django.setup()

from django.utils.html import format_html
from django_sse import publish
from datastar_py import ServerSentEventGenerator
from django_sse.contrib import datastar, turbo
from django_sse.contrib.htmx import oob
from shop import datastar_rows, htmx_rows, turbo_rows
from shop.models import Order

for line in sys.stdin:
    exec(json.loads(line))
    print("done", flush=True)
'''


class Shop:
    """The served project of a page, and a process beside it that publishes."""

    page = ROOT / "docs" / "html.md"
    publisher = PUBLISHER

    def __init__(self, directory: Path) -> None:
        self.project = Project(directory / "project")
        self.project.paste(README, self.page)
        self.prepare()
        self.project.manage("makemigrations", "shop", "-v", "0")
        self.project.manage("migrate", "-v", "0")
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.project.write("publisher.py", self.publisher)
        self._publisher = subprocess.Popen(
            [sys.executable, "publisher.py"],
            cwd=self.project.directory,
            env=self.project.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def prepare(self) -> None:
        """Change the project before its tables are made."""

    @property
    def log(self) -> Path:
        return self.project.directory / "server.log"

    def start(self) -> None:
        arguments = ["-m", "uvicorn", "--port", str(self.port), "project.asgi:application"]
        self._process = self.project.popen(
            [*arguments, "--timeout-graceful-shutdown", "2"], self.log
        )
        deadline = time.monotonic() + SECONDS
        while not listens(self.port):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def run(self, code: str) -> None:
        """Run code in another process, which publishes over the broker."""
        assert self._publisher.stdin is not None
        assert self._publisher.stdout is not None
        self._publisher.stdin.write(json.dumps(code) + "\n")
        self._publisher.stdin.flush()
        assert self._publisher.stdout.readline() == "done\n", code

    def close(self) -> None:
        """End both processes."""
        self.stop()
        self._publisher.communicate(timeout=SECONDS)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("html"))
    try:
        shop.start()
        yield shop
    finally:
        shop.close()
    assert "Traceback" not in shop.log.read_text(), shop.log.read_text()


class Browser:
    """A page in Chromium, and the scripts that its ``/static/…`` serves."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.scripts: dict[str, Path] = {}
        page.route("**/static/**", self._serve)

    def _serve(self, route: Route) -> None:
        path = self.scripts[route.request.url.rpartition("/")[2]]
        route.fulfill(body=path.read_text(encoding="utf-8"), content_type="text/javascript")


@pytest.fixture
def browser() -> Iterator[Browser]:
    with open_page() as page:
        page.set_default_timeout(15_000)
        expect.set_options(timeout=15_000)
        yield Browser(page)
