"""``make docs`` builds a site with every page, a search, and the reference of all public names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import expect

import django_sse
from tests.docs.pages import PAGES, README, ROOT
from tests.support.browser import open_page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a warning."""
    target = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return target


def test_every_page_is_on_the_site_and_in_its_navigation(site: Path) -> None:
    index = (site / "index.html").read_text()
    for page in PAGES:
        name = (
            "quick-start"
            if page == README
            else page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        )
        address = "" if name == "index" else f"{name.removesuffix('index').rstrip('/')}/"
        assert (site / address / "index.html").exists(), page
        assert f'href="{address or "."}"' in index, page


def test_reference_has_every_public_name(site: Path) -> None:
    page = (site / "reference" / "index.html").read_text()
    anchors = set(re.findall(r'id="django_sse\.[\w.]*\b(\w+)"', page))
    names = {name for name in django_sse.__all__ if not name.startswith("_")}
    assert names - anchors == set()
    # With what the docstrings say.
    assert "Connect to" in page
    assert "SynchronousOnlyOperation" in page


def test_search_finds_settings_and_names(site: Path) -> None:
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    for word, page in (("MAX_HANDSHAKES", "settings/"), ("alatest_event_id", "reference/")):
        assert any(
            word in it["text"] + it["title"] and it["location"].startswith(page) for it in entries
        )


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *args: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_site_is_read_without_other_hosts(address: str) -> None:
    with open_page() as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}/quick-start/")
        picture = page.locator("img[src*='live-page']")
        assert picture.evaluate("(it) => it.naturalWidth") > 1000
        search = page.get_by_role("textbox", name="Search")
        search.click()
        search.press_sequentially("MAX_HANDSHAKES")
        expect(page.locator(".md-search-result__item").first).to_contain_text("MAX_HANDSHAKES")
        assert [url for url in asked if not url.startswith((address, "blob:", "data:"))] == []
