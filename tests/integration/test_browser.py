"""What ``make demo`` serves, in a real browser."""

from __future__ import annotations

import inspect
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Locator, Page, expect

from testproject.shop import html
from testproject.shop.pages import ANSWER, Prices
from tests.support.browser import open_page
from tests.support.npm import install
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
    page.locator(f"[data-break={how}]").click()
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
    expect(words).to_contain_text("Leave now")
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
    shown = "Number(document.getElementById('{}').textContent.replace(/[^0-9.]/g, ''))"
    rate, skipped, behind = map(shown.format, ("rate", "skipped", "behind"))
    page.wait_for_function(f"{rate} > 500")
    page.get_by_role("button", name="Slow my client down").click()
    # It gets a small part, and that is new: it never has to read through what is old.
    page.wait_for_function(f"{rate} > 0 && {rate} < 500 && {skipped} > 500 && {behind} < 3")
    page.wait_for_function(
        "/[1-9]\\d* left out/.test(document.getElementById('timeline').ariaLabel)"
    )
    # The stream of a slow client is cut as any other.
    page.locator("[data-break=connection]").click()
    expect(_fact(page, "prices", "reconnects")).to_have_text("1", timeout=RECONNECT * 1000)
    page.get_by_role("button", name="Speed my client up").click()
    page.wait_for_function(f"{rate} > 500")


def test_users_see_who_is_here(page: Page, demo: Demo) -> None:
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
        expect(ada.locator("#notes")).to_contain_text("demo says hello.")
        expect(page.locator("#notes")).to_contain_text("You notified everyone.")
    # Ada's window is closed. A reload is no leave.
    page.reload()
    expect(page.locator("#members li")).to_have_count(1, timeout=RECONNECT * 1000)


HTML_STREAMS = ("sales", "tickets", "revenue")


def test_htmx_turbo_and_datastar_show_what_is_published(page: Page, demo: Demo) -> None:
    _log_in(page)
    page.goto(f"{demo.url}/html/")
    browser = page.context.browser
    assert browser is not None
    other = browser.new_page()  # Not logged in: it sees the same, and has no buttons.
    other.goto(f"{demo.url}/html/")
    for stream in HTML_STREAMS:
        expect(_state(other, stream)).to_have_text("Open")
    tickets = other.locator("#status-new .ticket")
    sold = other.locator("#sales-rows td:nth-child(2)")
    count = other.locator("#revenue [data-text='$orders']")
    expect(sold).to_have_count(6)
    before = sum(map(int, sold.all_inner_texts()))
    expect(count).to_have_text(str(before))
    waiting = tickets.count()

    # An order changes all three, in the other window too.
    _place_order(page)
    expect(tickets).to_have_count(waiting + 1)
    expect(count).to_have_text(str(before + 1))
    other.wait_for_function(
        "[...document.querySelectorAll('#sales-rows td:nth-child(2)')]"
        f".reduce((sum, it) => sum + Number(it.textContent), 0) === {before + 1}"
    )
    assert sold.count() == 6
    number = tickets.first.get_attribute("id")
    expect(other.locator("#newest")).to_contain_text(f"order {(number or '')[7:]} for")

    # Turbo submits the form of a ticket, and its stream moves the ticket.
    page.locator(f"#{number}").get_by_role("button", name="Mark as paid").click()
    expect(other.locator(f"#status-paid > #{number}")).to_have_count(1)
    expect(other.locator(f"#{number}")).to_have_count(1)
    expect(other.get_by_role("button", name="Ship")).to_have_count(0)
    expect(other.locator("#newest")).to_contain_text("is paid.")

    # The goal is a signal of the page, and the bar follows it.
    bar = page.locator("#revenue progress")
    expect(bar).to_have_attribute("max", "2000")
    page.get_by_role("slider").fill("10000")
    expect(bar).to_have_attribute("max", "10000")
    expect(other.locator("#revenue progress")).to_have_attribute("max", "2000")


def test_htmx_turbo_and_datastar_get_what_they_missed(page: Page, demo: Demo) -> None:
    _log_in(page)
    # htmx must not start before its extension is there, also on a slow line.
    page.route("**/hx-sse*", lambda route: (time.sleep(0.3), route.continue_()))
    page.goto(f"{demo.url}/html/")
    for stream in HTML_STREAMS:
        expect(_state(page, stream)).to_have_text("Open")
    count = page.locator("#revenue [data-text='$orders']")
    expect(count).to_have_text(re.compile(r"^[1-9]\d*$"))
    before = int(count.inner_text()) + 1
    tickets = page.locator("#status-new .ticket")
    waiting = tickets.count() + 1
    _place_order(page)  # They resume from its id.
    expect(count).to_have_text(str(before))
    expect(tickets).to_have_count(waiting)
    page.locator("[data-break=connection]").click()
    _place_order(page)
    for stream in HTML_STREAMS:
        expect(_fact(page, stream, "reconnects")).to_have_text("1", timeout=RECONNECT * 1000)
        expect(_state(page, stream)).to_have_text("Open")
    expect(count).to_have_text(str(before + 1))
    expect(tickets).to_have_count(waiting + 1)


@pytest.mark.parametrize("name", ["", "market", "work", "team", "html"])
@pytest.mark.parametrize("width", [320, 375, 1280])
def test_pages_fit_the_width_of_a_phone(page: Page, demo: Demo, name: str, width: int) -> None:
    _log_in(page)
    page.set_viewport_size({"width": width, "height": 780})
    page.goto(f"{demo.url}/{name}")
    expect(page.locator("[data-state=open]")).not_to_have_count(0)
    for summary in page.get_by_text("Show the code").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return (install(tmp_path_factory) / "axe-core" / "axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(demo: Demo, axe: str, scheme: Literal["light", "dark"]) -> None:
    with open_page(color_scheme=scheme, reduced_motion="reduce") as page:
        page.goto(f"{demo.url}/")
        _log_in(page)
        for name in ["", "market/", "work/", "team/", "html/"]:
            page.goto(f"{demo.url}/{name}")
            expect(page.locator("[data-state=connecting]")).to_have_count(0)
            page.evaluate(axe)
            found = page.evaluate("axe.run().then((result) => result.violations)")
            assert found == [], name


def test_the_code_that_is_shown_is_the_code_that_runs(page: Page, demo: Demo) -> None:
    page.goto(f"{demo.url}/market/")
    page.get_by_text("Show the code").click()
    shown = page.locator(".source code").inner_text()
    assert shown.strip() == inspect.getsource(Prices).strip()


def test_the_code_of_html_is_shown_with_its_template(page: Page, demo: Demo) -> None:
    page.goto(f"{demo.url}/html/")
    page.locator("#tickets").get_by_text("Show the code").click()
    shown = page.locator("#tickets .source code").inner_text()
    template = Path(html.__file__).parent / "templates" / "shop" / "ticket.html"
    for part in [inspect.getsource(html.Tickets), inspect.getsource(html.publish_ticket)]:
        assert part.strip() in shown
    assert template.read_text().strip() in shown
