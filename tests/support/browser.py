"""A real browser for tests: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.support.services import find

_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# Playwright keeps an event loop running in this thread for as long as it lives: not longer than
# one test, so that those beside it, which use loops of their own, are not disturbed.
@contextmanager
def open_page(args: Sequence[str] = (), **options: Any) -> Iterator[Page]:
    """Open a page, on which no script may fail, in a browser that ends with the block.

    ``args`` go to Chromium, ``options`` to Playwright's ``new_page()``.
    """
    chromium = find("chromium", "chromium-browser", package="chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*_ARGS, *args])
        page = browser.new_page(**{"locale": "en-GB", **options})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        yield page
        browser.close()
    assert problems == []
