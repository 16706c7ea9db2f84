"""The page that a browser shows at a stream's address."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import open_page
from tests.support.npm import install
from tests.support.servers import Server

SOON = 10_000


@pytest.fixture(scope="module", params=["uvicorn", "daphne"])
def server(
    request: pytest.FixtureRequest, sample_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    server = Server(
        request.param,
        "tests.integration.page.asgi:application",
        directory=tmp_path_factory.mktemp("page"),
        database=sample_database,
        settings="tests.integration.page.settings",
        args=["--timeout-graceful-shutdown", "3"] if request.param == "uvicorn" else [],
    )
    with server:
        yield server
    assert server.faults() == [], server.log()


@contextmanager
def shown(server: Server, path: str, **options: Any) -> Iterator[Page]:
    """Open a stream's page; nothing may be written to the browser's console."""
    with open_page(**options) as page:
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.set_default_timeout(SOON)
        expect.set_options(timeout=SOON)
        response = page.goto(f"{server.url}{path}")
        assert response is not None
        assert response.status == 200
        yield page
        # The browser itself tells of refused answers, and of a server that is being restarted.
        assert [it for it in messages if not it.startswith("Failed to load resource")] == []


def rows(page: Page, kind: str) -> Any:
    return page.locator(f'#rows tr[data-kind="{kind}"]')


def test_page_shows_events_of_every_kind(server: Server) -> None:
    with shown(server, "/kinds/") as page:
        expect(page.locator("#state")).to_have_text("Open")
        expect(page.locator("h1")).to_have_text("Kinds")
        expect(page.locator(".description")).to_contain_text("each kind")
        created = rows(page, "event").filter(has_text="created")
        expect(created).to_have_count(1)
        expect(created.locator("td").nth(1)).to_have_text("1")
        # JSON unfolds, level by level, and is text: nothing of it becomes part of the page.
        created.locator("summary").first.click()
        created.locator("summary").nth(1).click()
        created.locator("summary").nth(2).click()
        expect(created.locator("td.data")).to_contain_text('3: "<b>ä</b>"')
        expect(created.locator("td.data b")).to_have_count(0)
        expect(rows(page, "reset")).to_contain_text("History lost")
        expect(rows(page, "cursor")).to_contain_text("Id only")
        expect(rows(page, "comment")).to_contain_text("a remark")
        expect(rows(page, "heartbeat").first).to_contain_text("Heartbeat")
        expect(rows(page, "retry")).to_contain_text("200 ms")
        expect(page.locator("#names")).to_have_text("created, without a name, reset")
        page.locator(".about summary").click()
        expect(page.locator(".about")).to_contain_text("every 0.3 seconds")


def test_events_are_filtered_paused_cleared_and_downloaded(server: Server) -> None:
    with shown(server, "/kinds/") as page:
        expect(rows(page, "event")).to_have_count(2)
        page.locator("#beats").uncheck()
        expect(rows(page, "heartbeat")).to_have_count(0)
        page.locator("#name").select_option(label="created")
        expect(rows(page, "event")).to_have_count(1)
        expect(rows(page, "reset")).to_have_count(0)
        page.locator("#name").select_option(label="All events")
        page.locator("#text").fill("SECOND")
        expect(rows(page, "event")).to_have_count(1)
        with page.expect_download() as download:
            page.locator("#download").click()
        [line] = Path(download.value.path()).read_text().splitlines()
        assert download.value.suggested_filename == "kinds.jsonl"
        entry = json.loads(line)
        assert (entry["event"], entry["id"], entry["data"]) == (
            "message",
            "2",
            "first line\nsecond line",
        )
        page.locator("#text").fill("")
        page.locator("#beats").check()
        page.locator("#pause").click()
        # Heartbeats go on.
        expect(page.locator("#pause")).to_contain_text(re.compile(r"Resume \(new: \d+\)"))
        page.locator("#pause").click()
        expect(page.locator("#pause")).to_have_text("Pause")
        page.locator("#clear").click()
        expect(rows(page, "event")).to_have_count(0)


def test_page_reconnects_from_an_id(server: Server) -> None:
    with shown(server, "/kinds/") as page:
        rows(page, "event").filter(has_text="second line").locator("td button").click()
        expect(page.locator("#from-id")).to_have_value("2")
        page.locator("#from-id").fill("40")
        page.keyboard.press("Enter")
        expect(rows(page, "note").first).to_contain_text("resuming after 40")
        expect(page.locator("#rows")).to_contain_text('"number":41')
        page.locator("#disconnect").click()
        expect(page.locator("#state")).to_have_text("Disconnected")


def test_page_resumes_after_a_restart_of_the_server(server: Server) -> None:
    with shown(server, "/news/") as page:
        expect(page.locator("#state")).to_have_text("Open")
        page.locator(".about summary").click()
        expect(page.locator(".about")).to_contain_text("page-news")
        _announce(server, "before")
        expect(rows(page, "event")).to_contain_text("before")
        server.stop()
        expect(page.locator("#state")).to_contain_text("Connection lost")
        server.start()
        expect(page.locator("#state")).to_have_text("Open")
        expect(rows(page, "note").first).to_contain_text("resuming after")
        # The broker in memory has lost its events, and the page is told.
        expect(rows(page, "reset")).to_have_count(1)
        _announce(server, "after")
        expect(rows(page, "event").first).to_contain_text("after")


def _announce(server: Server, text: str) -> None:
    with urllib.request.urlopen(f"{server.url}/announce/?text={text}") as response:
        assert response.status == 204


def test_page_of_a_post_has_a_form(server: Server) -> None:
    with shown(server, "/repeat/") as page:
        expect(page.locator("#state")).to_have_text("Disconnected")
        form = page.locator("#fields")
        expect(form).to_contain_text("What to repeat.")
        form.get_by_role("button", name="Send").click()
        expect(page.locator("#field-prompt-problem")).to_have_text("This field may not be blank.")
        expect(page.locator("#state")).to_have_text("Refused with 400")
        page.get_by_label("Prompt").fill("hello")
        page.get_by_label("Times").fill("3")
        page.get_by_label("Style").select_option(label="Quiet")
        page.get_by_label("Tags").fill("[")
        form.get_by_role("button", name="Send").click()
        expect(page.locator("#field-tags-problem")).to_contain_text("not valid JSON")
        page.get_by_label("Tags").fill('["a"]')
        form.get_by_role("button", name="Send").click()
        expect(rows(page, "event")).to_have_count(3)
        expect(rows(page, "event").first).to_contain_text(
            '{"prompt":"hello","times":3,"style":"quiet","tags":["a"]}'
        )
        expect(page.locator("#state")).to_have_text("The stream has ended.")
        page.get_by_text("Raw body").click()
        page.get_by_label("Body").fill('{"prompt": "raw", "style": "loud"}')
        page.locator("#raw").get_by_role("button", name="Send").click()
        expect(rows(page, "event")).to_have_count(5)
        expect(page.locator("#curl")).to_contain_text("--data-binary")


def test_finished_stream_is_said_to_be_finished(server: Server) -> None:
    with shown(server, "/finished/") as page:
        expect(page.locator("#state")).to_contain_text("204")


def test_who_is_refused_logs_in_and_is_shown_the_page(server: Server) -> None:
    with open_page() as page:
        response = page.goto(f"{server.url}/members/")
        assert response is not None
        assert response.status == 403
        assert "Authentication credentials were not provided." in page.content()
        page.get_by_role("link", name="Log in").click()
        page.get_by_label("Username").fill("demo")
        page.get_by_label("Password").fill("demo")
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#state")).to_have_text("Open")
        expect(page.locator("nav")).to_contain_text("demo")
        expect(page.locator("#curl")).to_contain_text("sessionid")
        # A POST of a session needs its CSRF token.
        page.goto(f"{server.url}/repeat/")
        page.get_by_label("Prompt").fill("hello")
        page.locator("#fields").get_by_role("button", name="Send").click()
        expect(rows(page, "event")).to_have_count(2)
        page.goto(f"{server.url}/members/")
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/members/")
        expect(page.get_by_role("link", name="Log in")).to_be_visible()


def test_a_thousand_events_a_second_do_not_freeze_the_page(server: Server) -> None:
    with shown(server, "/flood/") as page:
        expect(rows(page, "event").first).to_be_visible()
        # The page answers while they arrive: each of these waits for it.
        for name in ("e0", "e1", "e2"):
            page.locator("#name").select_option(label=name)
            expect(rows(page, "event").first).to_contain_text(name)
            expect(rows(page, "event").filter(has_not_text=name)).to_have_count(0)
        page.locator("#name").select_option(label="All events")
        expect(page.locator("#totals")).to_contain_text("10,000 ·", timeout=60_000)
        assert page.locator("#rows tr").count() <= 200


def test_snippets_work_and_can_be_copied(server: Server) -> None:
    with shown(server, "/kinds/") as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        expect(page.locator("#javascript")).to_contain_text('addEventListener("created"')
        page.get_by_role("button", name="Copy JavaScript").click()
        expect(page.locator("#copied")).to_have_text("Copied")
        script = page.evaluate("navigator.clipboard.readText()")
        assert script == page.locator("#javascript").inner_text()
        # It runs, as in a console.
        seen = page.evaluate(
            "script => new Promise((resolve) => {"
            "  console.log = (type, data) => { if (type === 'created') resolve(data); };"
            "  (0, eval)(script);"
            "})",
            script,
        )
        assert json.loads(seen)["number"] == 1


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return (install(tmp_path_factory) / "axe-core" / "axe.min.js").read_text()


@pytest.mark.parametrize("server", ["uvicorn"], indirect=True)
@pytest.mark.parametrize("path", ["/kinds/", "/repeat/"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"color_scheme": "dark"},
        {"viewport": {"width": 360, "height": 740}},
        {"locale": "de-DE", "viewport": {"width": 360, "height": 740}, "color_scheme": "dark"},
    ],
    ids=["light", "dark", "phone", "German on a dark phone"],
)
def test_axe_finds_nothing(server: Server, axe: str, path: str, options: dict[str, Any]) -> None:
    with shown(server, path, **options) as page:
        page.evaluate("for (const it of document.querySelectorAll('details')) it.open = true;")
        if path == "/kinds/":
            expect(rows(page, "heartbeat").first).to_be_visible()
        page.evaluate(axe)
        found = page.evaluate("axe.run().then((result) => result.violations)")
        assert [(it["id"], [node["html"] for node in it["nodes"]]) for it in found] == []
        # Nothing is wider than the screen.
        wide = page.evaluate(
            "[...document.querySelectorAll('body *:not(.scroll *, pre *, .hidden, .skip)')]"
            ".filter((it) => it.getBoundingClientRect().right > innerWidth).map((it) => it.outerHTML)"
        )
        assert wide == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_page_is_in_the_readers_language(server: Server) -> None:
    with shown(server, "/kinds/", locale="de-DE") as page:
        expect(page.locator("html")).to_have_attribute("lang", "de")
        expect(page.locator("#state")).to_have_text("Verbunden")
        expect(page.get_by_role("button", name="Als JSON-Zeilen herunterladen")).to_be_visible()
        expect(rows(page, "reset")).to_contain_text("Verlauf verloren")


def test_page_is_used_by_keyboard(server: Server) -> None:
    with shown(server, "/kinds/") as page:
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the events")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.locator("#from-id")).to_be_focused()
        for expected in ("#connect", "#disconnect", "#pause"):
            page.keyboard.press("Tab")
            expect(page.locator(expected)).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#pause")).to_contain_text("Resume")
