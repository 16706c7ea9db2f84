"""The project of the page about HTML, pasted and served, and its pages in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.docs.pages import ROOT
from tests.support.browser import open_page
from tests.support.documented_shop import Shop
from tests.support.npm import install

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


class HTMLShop(Shop):
    """The project of the page about HTML."""

    page = ROOT / "docs" / "html.md"
    publisher = PUBLISHER


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with HTMLShop(tmp_path_factory.mktemp("html")).served() as shop:
        yield shop


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
