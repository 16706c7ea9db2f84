"""Clients of npm in a real browser, with the code that the documentation shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.docs.pages import ROOT

from .conftest import Browser
from .runners import DOCUMENTED

CLIENTS = ROOT / "docs" / "clients.md"
SSE2 = "htmx-ext-sse/sse.js"
SSE4 = "htmx4/dist/ext/hx-sse.js"


def _at(html: str, path: str, key: str, script: str) -> str:
    assert html.count(path) == 1
    return html.replace(path, f"/scripted/?key={key}&amp;script={script}")


def test_htmx2_loses_the_id_without_the_documented_script(browser: Browser) -> None:
    bare = re.sub(
        r"<script>.*?</script>", "", DOCUMENTED["shop/templates/shop/htmx2.html"], flags=re.DOTALL
    )
    html = _at(bare, "/orders/rows/", "bare2", "ends,502,204,204").replace(
        'sse-swap="order"', 'sse-swap="named"'
    )
    browser.show(html, htmx="htmx2/dist/htmx.js", sse=SSE2)
    assert browser.connects("bare2", 5) == [
        ("ends", None),
        ("502", "1"),  # The browser's own reconnect.
        ("204", None),
        ("204", None),  # It does not stop.
        ("stays", None),
    ]


def test_htmx2_as_documented_resumes_and_stops(browser: Browser) -> None:
    html = _at(
        DOCUMENTED["shop/templates/shop/htmx2.html"],
        "/orders/rows/",
        "htmx2",
        "ends,502,ends,finishes",
    ).replace('sse-swap="order"', 'sse-swap="named"')
    browser.show(html, htmx="htmx2/dist/htmx.js", sse=SSE2)
    expect(browser.page.locator("ul")).to_have_text("123")
    browser.page.wait_for_timeout(1000)  # Nothing more is to come.
    assert browser.connects("htmx2", 4) == [
        ("ends", None),
        ("502", "1"),
        ("ends", "1"),
        ("finishes", "2"),
    ]


def test_htmx4_as_documented_resumes_and_stops(browser: Browser) -> None:
    html = _at(
        DOCUMENTED["shop/templates/shop/htmx4.html"],
        "/orders/unnamed-rows/",
        "htmx4",
        "ends,502,ends,204,finishes",
    )
    browser.show(html, htmx="htmx4/dist/htmx.js", **{"hx-sse": SSE4})
    expect(browser.page.locator("ul")).to_have_text("123")
    browser.page.wait_for_timeout(1000)  # Nothing more is to come.
    assert browser.connects("htmx4", 5) == [
        ("ends", None),
        ("502", "1"),
        ("ends", "1"),
        ("204", "2"),
        ("finishes", "2"),
    ]
    # The stream said `retry: 100` beside an id alone; the extension's own delay is 0.5 s ± 30 %.
    first, second, *_ = browser.requests("htmx4")
    assert second["at"] - first["at"] > 0.3


def test_htmx2_loads_anew_at_a_named_event(browser: Browser) -> None:
    html = _at(DOCUMENTED["shop/templates/shop/htmx2.html"], "/orders/rows/", "reset2", "stays")
    inside = '<li hx-get="/list" hx-trigger="sse:named"></li></ul>'
    browser.page.route(
        "**/list", lambda route: route.fulfill(body="anew", content_type="text/html")
    )
    browser.show(html.replace("</ul>", inside), htmx="htmx2/dist/htmx.js", sse=SSE2)
    expect(browser.page.locator("li")).to_have_text("anew")


def test_htmx4_dispatches_a_named_event(browser: Browser) -> None:
    html = _at(
        DOCUMENTED["shop/templates/shop/htmx4.html"], "/orders/unnamed-rows/", "reset4", "stays"
    )
    html = html.replace('"reset"', '"named"').replace("Children()", 'Children("cleared")')
    browser.show(html, htmx="htmx4/dist/htmx.js", **{"hx-sse": SSE4})
    expect(browser.page.locator("ul")).to_have_text("cleared")


def test_htmx4_does_not_repeat_a_first_connection_that_fails(browser: Browser) -> None:
    html = _at(
        DOCUMENTED["shop/templates/shop/htmx4.html"], "/orders/unnamed-rows/", "first4", "502"
    )
    browser.show(html, htmx="htmx4/dist/htmx.js", **{"hx-sse": SSE4})
    assert browser.connects("first4", 1) == [("502", None)]
    browser.page.wait_for_timeout(1000)
    assert browser.connects("first4", 1) == [("502", None)]


#: A page that keeps what a script is told.
_LOGGING = """
<script type="importmap">
  {"imports": {"@microsoft/fetch-event-source": "/static/index.js"}}
</script>
<script type="module">
  window.log = [];
  window.ended = "";
  SCRIPT
</script>
"""

_DEFAULTS = """
  import { fetchEventSource } from "@microsoft/fetch-event-source";
  fetchEventSource("ADDRESS", { onmessage: (event) => log.push(event) }).then(
    () => { ended = "done"; }, (error) => { ended = String(error); });
"""

_FOLLOW = """
  import { follow } from "/static/follow.js";
  follow("ADDRESS", (event) => log.push(event), async () => "token").then(
    () => { ended = "done"; }, (error) => { ended = String(error); });
"""


@pytest.fixture
def run(browser: Browser) -> Callable[[str, str, str], Page]:
    """Run a script with its address in a page; its log is ``log``, its end ``ended``."""

    def run(script: str, key: str, steps: str) -> Page:
        script = script.replace("ADDRESS", f"/scripted/?key={key}&script={steps}")
        browser.show(_LOGGING.replace("SCRIPT", script))
        return browser.page

    browser.page.route(
        "**/static/follow.js",
        lambda route: route.fulfill(body=DOCUMENTED["js"], content_type="text/javascript"),
    )
    return run


def test_fetch_event_source_by_default_calls_for_comments_and_ends_for_good(
    browser: Browser, run: Callable[[str, str, str], Page]
) -> None:
    page = run(_DEFAULTS, "plain", "ends")
    page.wait_for_function("ended !== ''")
    assert page.evaluate("ended") == "done"
    log: list[dict[str, Any]] = page.evaluate("log")
    # The comment that opens a stream, an id alone, and two events.
    assert [(event["event"], event["data"], event["id"]) for event in log] == [
        ("", "", ""),
        ("", "", "1"),
        ("", "<b>1</b>", "1"),
        ("named", "<i>1</i>", "1"),
    ]
    page.wait_for_timeout(500)
    assert browser.connects("plain", 1) == [("ends", None)]


def test_fetch_event_source_by_default_repeats_what_is_final(
    browser: Browser, run: Callable[[str, str, str], Page]
) -> None:
    run(_DEFAULTS, "forever", "204,204,204")
    assert browser.connects("forever", 3) == [("204", None)] * 3


def test_fetch_event_source_as_documented_resumes_and_stops(
    browser: Browser, run: Callable[[str, str, str], Page]
) -> None:
    page = run(_FOLLOW, "follow", "ends,502,ends,204")
    page.wait_for_function("ended !== ''")
    assert page.evaluate("ended") == "Error: It answers 204."
    assert [event["data"] for event in page.evaluate("log")] == [
        "<b>1</b>",
        "<i>1</i>",
        "<b>2</b>",
        "<i>2</i>",
    ]
    assert browser.connects("follow", 4) == [
        ("ends", None),
        ("502", "1"),
        ("ends", "1"),
        ("204", "2"),
    ]
    assert {entry["authorization"] for entry in browser.requests("follow")} == {"Bearer token"}


_HIDE = """hidden => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.mark.parametrize("client", ["htmx4", "fetch"])
def test_hidden_tab_closes_its_stream_and_resumes(
    browser: Browser, run: Callable[[str, str, str], Page], client: str
) -> None:
    key = f"hidden-{client}"
    if client == "htmx4":
        html = _at(
            DOCUMENTED["shop/templates/shop/htmx4.html"], "/orders/unnamed-rows/", key, "stays"
        )
        browser.show(html, htmx="htmx4/dist/htmx.js", **{"hx-sse": SSE4})
        expect(browser.page.locator("ul")).to_have_text("1")
    else:
        run(_DEFAULTS, key, "stays").wait_for_function("log.some(event => event.event === 'named')")
    browser.page.evaluate(_HIDE, True)
    assert browser.leaves(key)
    browser.page.evaluate(_HIDE, False)
    assert browser.connects(key, 2) == [("stays", None), ("stays", "1")]


@pytest.mark.parametrize("client", ["htmx4", "fetch"])
def test_hidden_tab_keeps_its_stream_where_it_is_told_to(
    browser: Browser, run: Callable[[str, str, str], Page], client: str
) -> None:
    key = f"seen-{client}"
    if client == "htmx4":
        page = DOCUMENTED["shop/templates/shop/htmx4.html"]
        [option] = re.findall(r"`(hx-config=[^`]+)`", CLIENTS.read_text(encoding="utf-8"))
        html = _at(page, "/orders/unnamed-rows/", key, "stays")
        html = html.replace("<ul ", f"<ul {option} ")
        browser.show(html, htmx="htmx4/dist/htmx.js", **{"hx-sse": SSE4})
        expect(browser.page.locator("ul")).to_have_text("1")
    else:
        run(_FOLLOW, key, "stays").wait_for_function("log.length === 2")
    for hidden in (True, False):
        browser.page.evaluate(_HIDE, hidden)
    browser.page.wait_for_timeout(1000)
    assert browser.connects(key, 1) == [("stays", None)]


_LISTEN = """() => {
  window.heard = [];
  source.addEventListener("renamed", (event) => heard.push(event.data));
  window.opened = source.readyState === EventSource.OPEN;
  source.addEventListener("open", () => { opened = true; });
}"""

_HTMX = """() => {
  const form = document.querySelector("form");
  const button = document.createElement("button");
  button.setAttribute("hx-post", form.getAttribute("action"));
  button.setAttribute("hx-vals", '{"order": "1", "item": "by htmx"}');
  button.setAttribute("hx-swap", "none");
  document.body.append(button);
  htmx.process(button);
  button.click();
}"""


@pytest.mark.parametrize("version", ["htmx2", "htmx4"])
def test_page_does_not_hear_of_its_own_changes(browser: Browser, version: str) -> None:
    mine = browser.page
    assert mine.context.browser is not None
    others = mine.context.browser.new_page()
    for page in (mine, others):
        page.goto(f"{browser.url}/orders/rename/")
        page.evaluate(_LISTEN)
        page.wait_for_function("opened")
    mine.add_script_tag(path=browser.packages / version / "dist" / "htmx.js")
    mine.evaluate("rename(1, 'by fetch')")
    others.wait_for_function("heard.length === 1")
    mine.evaluate(_HTMX)
    others.wait_for_function("heard.length === 2")
    others.evaluate("rename(1, 'by another')")
    mine.wait_for_function("heard.length === 1")
    assert mine.evaluate("heard") == ["by another"]
    mine.evaluate("""() => {
      document.querySelector("[name=item]").value = "by the form";
      document.querySelector("form button").click();
    }""")
    others.wait_for_function("heard.length === 3")
    assert others.evaluate("heard") == ["by fetch", "by htmx", "by the form"]
