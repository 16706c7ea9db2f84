"""What ``make demo`` serves, in a real browser."""

from __future__ import annotations

import inspect
import re
import socket
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from testproject.shop.pages import ANSWER, Prices
from tests.support.browser import open_page
from tests.support.servers import Server

# Seconds in which an event shows on the page, in which the server ends though streams are open,
# and in which a browser has reconnected: it waits some before it tries, and longer each time.
SOON = 10
STOP_SECONDS = 5
RECONNECT = 30


class Demo(Server):
    """``manage.py demo`` in the place of a bare server: it makes its own database."""

    def __init__(self, directory: Path) -> None:
        super().__init__("daphne", directory=directory, database=directory / "shop.sqlite3")
        self._command = [sys.executable, "manage.py", "demo", "--port", str(self.port)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    with demo:
        yield demo
    assert demo.faults() == [], demo.log()


@pytest.fixture
def page(demo: Demo) -> Iterator[Page]:
    with open_page() as page:
        page.set_default_timeout(SOON * 1000)
        expect.set_options(timeout=SOON * 1000)
        page.goto(f"{demo.url}/")
        yield page


def _state(page: Page, stream: str) -> Locator:
    return page.locator(f"#{stream} [data-state]")


def _fact(page: Page, stream: str, name: str) -> Locator:
    return page.locator(f"#{stream} [data-{name}]")


def _wire(page: Page, stream: str, event: str) -> Locator:
    return page.locator(f'#wire tr[data-stream="{stream}"][data-event="{event}"]')


def _log_in(page: Page) -> None:
    page.get_by_role("button", name="Log in as demo").click()
    expect(page.locator("#user")).to_have_text("Logged in as demo")


def _place_order(page: Page) -> None:
    with page.expect_response("**/orders/place/") as placed:
        page.locator("#place-order").click()
    assert placed.value.status == 201


def test_browser_shows_typed_events_as_they_arrive(page: Page) -> None:
    expect(_state(page, "clock")).to_have_attribute("data-state", "open")
    expect(_state(page, "clock")).to_have_text("Open")
    expect(_wire(page, "clock", "tick")).not_to_have_count(0)
    expect(page.locator("#clock time")).to_have_text(re.compile(r"^\d\d:\d\d:\d\d$"))
    expect(_fact(page, "clock", "last-id")).to_have_text(re.compile(r"^\d+$"))
    # An open stream: more of it comes, and a heartbeat of its own among it.
    count = int(_fact(page, "clock", "count").inner_text())
    expect(_fact(page, "clock", "count")).not_to_have_text(str(count))
    expect(_fact(page, "clock", "beats")).not_to_have_text("0")
    expect(_fact(page, "clock", "reconnects")).to_have_text("0")


def test_browser_shows_objects_by_their_types(page: Page) -> None:
    expect(_state(page, "serialization")).to_have_text("Finished")
    objects = page.locator("#serialization li")
    expect(objects).to_have_count(2)
    expect(objects.nth(0)).to_have_attribute("data-object", "customer")
    expect(objects.nth(0)).to_contain_text('"Jet"')
    expect(objects.nth(1)).to_have_attribute("data-object", "product")
    expect(objects.nth(1)).to_contain_text("[100,200]")
    # An untyped event is a `message` to a browser.
    expect(_wire(page, "serialization", "message")).to_have_count(2)
    page.locator("#serialize-again").click()
    expect(_wire(page, "serialization", "message")).to_have_count(4)
    expect(objects).to_have_count(2)


def test_browser_reconnects_when_the_server_is_back(page: Page, demo: Demo) -> None:
    _log_in(page)
    rows = page.locator("#orders li")
    expect(rows).not_to_have_count(0)
    _place_order(page)
    expect(page.locator('#orders li[data-event="created"]')).to_have_count(1)
    before = rows.count()
    assert demo.stop().seconds < STOP_SECONDS
    expect(_state(page, "clock")).to_have_text("Reconnecting")
    expect(_state(page, "orders")).to_have_text("Reconnecting")
    demo.start()
    for stream in ["clock", "orders"]:
        expect(_state(page, stream)).to_have_text("Open", timeout=RECONNECT * 1000)
        expect(_fact(page, stream, "reconnects")).to_have_text("1")
    ticks = int(_fact(page, "clock", "count").inner_text())
    expect(_fact(page, "clock", "count")).not_to_have_text(str(ticks))
    # The orders are in the database, and so are the events: nothing is lost, nothing comes twice.
    expect(_wire(page, "orders", "reset")).to_have_count(0)
    expect(rows).to_have_count(before)
    _place_order(page)
    expect(_wire(page, "orders", "created")).to_have_count(2)
    expect(rows).to_have_count(before + 1)


def test_browser_sees_an_order_after_logging_in(page: Page) -> None:
    expect(_state(page, "orders")).to_have_text("Log in first")
    _log_in(page)
    expect(_state(page, "orders")).to_have_text("Open")
    expect(page.locator('#orders li[data-event="snapshot"]')).not_to_have_count(0)
    _place_order(page)
    placed = page.locator('#orders li[data-event="created"]')
    expect(placed).to_have_count(1)
    number = placed.get_attribute("data-id")
    expect(_fact(page, "orders", "last-id")).to_have_text(re.compile(r"^\d+-\d+$"))
    expect(page.locator("#orders li").first).to_contain_text(f"#{number}")
    page.locator("#log-out").click()
    expect(_state(page, "orders")).to_have_text("Log in first")


@pytest.mark.parametrize("logged_in", [False, True], ids=["anonymous", "with CSRF token"])
def test_browser_reads_what_a_post_streams(page: Page, logged_in: bool) -> None:
    if logged_in:
        _log_in(page)
    page.locator("#prompt").fill("two  words – and “more”")
    page.get_by_role("button", name="Generate").click()
    expect(_state(page, "generate")).to_have_text("Finished")
    assert page.locator("#answer").inner_text() == "two  words – and “more”"
    expect(_wire(page, "generate", "message")).to_have_count(6)
    expect(_wire(page, "generate", "message").first).to_contain_text("[DONE]")


def test_browser_is_told_why_a_prompt_is_refused(page: Page) -> None:
    page.locator("#prompt").fill("   ")
    page.get_by_role("button", name="Generate").click()
    expect(_state(page, "generate")).to_have_text("Refused")
    expect(page.locator("#prompt-problem")).to_have_text("This field may not be blank.")


def _open(page: Page, demo: Demo, name: str, stream: str) -> None:
    page.goto(f"{demo.url}/{name}/")
    expect(_state(page, stream)).to_have_text("Open")


def _marks(page: Page, kind: str) -> int:
    found = re.search(rf"(\d+) {kind}", page.locator("#timeline").get_attribute("aria-label") or "")
    return int(found[1]) if found else 0


@pytest.mark.parametrize("how", ["connection", "stop", "kill"])
def test_what_breaks_heals_and_is_drawn(page: Page, demo: Demo, how: str) -> None:
    _open(page, demo, "work", "imports")
    page.locator("#start-import").click()
    expect(page.locator("#jobs li").first).to_have_attribute("data-progress", "running")
    # A worker that ends may be the other one.
    for _ in range(8):
        page.locator(f"[data-break={how}]").click()
        page.wait_for_timeout(1500)
        if _fact(page, "imports", "reconnects").inner_text() != "0" or how == "connection":
            break
        if _state(page, "imports").inner_text() != "Open":
            break
    expect(_fact(page, "imports", "reconnects")).not_to_have_text("0", timeout=RECONNECT * 1000)
    expect(_state(page, "imports")).to_have_text("Open", timeout=RECONNECT * 1000)
    page.wait_for_timeout(500)
    assert _marks(page, "events replayed") + _marks(page, "replayed") > 0
    assert _marks(page, "resets") == 0
    page.locator("#jobs").get_by_role("button", name="Cancel").first.click()
    expect(page.locator("#jobs li[data-progress=cancelled]")).not_to_have_count(0)


def test_a_job_survives_a_reload_and_a_restart(page: Page, demo: Demo) -> None:
    _open(page, demo, "work", "imports")
    page.locator("#start-import").click()
    job = page.locator("#jobs li").first
    expect(job).to_have_attribute("data-progress", "running")
    number = job.get_attribute("data-id")
    page.reload()
    expect(job).to_have_attribute("data-id", number or "")
    demo.stop()
    demo.start()
    expect(job).to_have_attribute("data-progress", "done", timeout=60_000)
    expect(job).to_have_attribute("data-id", number or "")


def test_an_answer_goes_on_without_its_page(page: Page, demo: Demo) -> None:
    page.goto(f"{demo.url}/work/")
    words = page.locator("#words")
    page.get_by_role("button", name="Ask").click()
    expect(words).to_contain_text("What happens")
    page.get_by_role("button", name="Leave for five seconds").click()
    expect(_state(page, "answer")).to_have_text("Paused")
    before = words.inner_text()
    page.wait_for_timeout(1000)
    assert words.inner_text() == before
    expect(_state(page, "answer")).to_have_text("Open", timeout=RECONNECT * 1000)
    expect(words).to_contain_text("Cut your connection now")
    page.reload()
    expect(words).to_contain_text(before)
    expect(_state(page, "answer")).to_have_text("Finished", timeout=60_000)
    said = f"You have asked: What happens to you when I leave? {ANSWER}"
    assert words.inner_text().strip() == said


def test_prices_arrive_by_the_thousand_and_a_slow_client_gets_the_newest(
    page: Page, demo: Demo
) -> None:
    _open(page, demo, "market", "prices")
    expect(page.locator("#tiles li")).to_have_count(12)
    page.wait_for_function(
        "Number(document.getElementById('rate').textContent.replace(/\\D/g, '')) > 500"
    )
    page.locator("#slow").check()
    expect(_state(page, "prices")).to_have_text("Open")
    # A client that reads nothing for a while: what it then gets ends with the newest.
    request = f"GET /market/prices/ HTTP/1.1\r\nHost: 127.0.0.1:{demo.port}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", demo.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        slow.sendall(request.encode())
        time.sleep(12)
        until, data = time.monotonic() + 2, b""
        while time.monotonic() < until:
            data += slow.recv(65_536)
    numbers = [int(it) for it in re.findall(rb'"number":(\d+)', data)]
    assert numbers == sorted(numbers)
    assert max(after - before for before, after in pairwise(numbers)) > 1000


def test_users_see_who_is_here_and_what_is_sold(page: Page, demo: Demo) -> None:
    _log_in(page)
    _open(page, demo, "team", "team")
    expect(page.locator("#members li")).to_have_text(["demo"])
    browser = page.context.browser
    assert browser is not None
    with browser.new_context(locale="en-GB") as other:
        ada = other.new_page()
        ada.goto(f"{demo.url}/login/?next=/team/")
        ada.locator("[name=username]").fill("ada")
        ada.locator("[name=password]").fill("ada")
        ada.get_by_role("button", name="Log in").click()
        expect(ada.locator("#members li")).to_have_count(2)
        expect(page.locator("#members li")).to_have_count(2)
        page.locator("#notify").click()
        expect(ada.locator("#notes")).to_contain_text("demo rings.")
        expect(page.locator("#notes")).to_contain_text("You rang.")
        expect(ada.locator("#sales-rows tr")).to_have_count(6)
        sold = "[...document.querySelectorAll('#sales-rows td:nth-child(2)')]"
        total = f"{sold}.reduce((sum, it) => sum + Number(it.textContent), 0)"
        before = ada.evaluate(total)
        _place_order(page)
        ada.wait_for_function(f"{total} === {before + 1}")
        expect(ada.locator("#sales-rows tr")).to_have_count(6)
    # Ada's window is closed. A reload is no leave.
    page.reload()
    expect(page.locator("#members li")).to_have_count(1, timeout=RECONNECT * 1000)


def test_the_code_that_is_shown_is_the_code_that_runs(page: Page, demo: Demo) -> None:
    page.goto(f"{demo.url}/market/")
    page.get_by_text("The code of it").click()
    shown = page.locator(".source code").inner_text()
    assert shown.strip() == inspect.getsource(Prices).strip()
