"""The documented pages of each library show a table that published events keep up to date."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.docs.pages import ROOT
from tests.support.cutting import CuttingProxy
from tests.support.documented_shop import Shop

from .conftest import Browser

#: Datastar 1.0 is not on npm: the demo has it.
VENDOR = ROOT / "testproject" / "shop" / "static" / "shop" / "vendor"


@dataclass(frozen=True)
class Library:
    """A page of the documentation: the module that publishes, and its scripts by name."""

    module: str
    scripts: dict[str, str] = field(default_factory=dict)


LIBRARIES = {
    "htmx2": Library(
        "htmx_rows", {"htmx.js": "htmx2/dist/htmx.js", "sse.js": "htmx-ext-sse/sse.js"}
    ),
    "htmx4": Library(
        "htmx_rows", {"htmx.js": "htmx4/dist/htmx.js", "hx-sse.js": "htmx4/dist/ext/hx-sse.js"}
    ),
    "turbo": Library("turbo_rows", {"turbo.js": "@hotwired/turbo/dist/turbo.es2017-esm.js"}),
    "datastar": Library("datastar_rows", {"datastar.js": str(VENDOR / "datastar.js")}),
}


def show(browser: Browser, name: str, packages: Path, url: str) -> Page:
    """Show a library's page."""
    library, page = LIBRARIES[name], browser.page
    browser.scripts = {script: packages / path for script, path in library.scripts.items()}
    page.goto(f"{url}/{name}/")
    return page


@pytest.mark.parametrize("name", LIBRARIES)
def test_table_is_kept_up_to_date_and_heals(
    name: str, shop: Shop, browser: Browser, packages: Path
) -> None:
    module = LIBRARIES[name].module
    shop.run(
        "Order.objects.all().delete()\n"
        "for pk, item in enumerate(['Cup', '<b>Pot</b>'], 1):\n"
        "    Order.objects.create(pk=pk, item=item, total=1)"
    )
    with CuttingProxy(shop.port, b"Broken off") as proxy:
        page = show(browser, name, packages, proxy.url)
        rows = page.locator("#rows > tr > td")
        expect(rows).to_have_text(["Cup", "<b>Pot</b>"])

        # A row is appended, also if it is there; another is replaced, and one is removed.
        shop.run(
            "order = Order.objects.create(pk=3, item='Tray & \\'\"\\nlines', total=1)\n"
            f"{module}.added(order)\n{module}.added(order)\n"
            "order = Order.objects.get(pk=2)\norder.item = 'Kettle'\norder.save()\n"
            f"{module}.changed(order)\n"
            f"Order.objects.filter(pk=1).delete()\n{module}.removed(1)"
        )
        expect(rows).to_have_text(["Kettle", "Tray & '\" lines"])
        assert page.locator("#rows").count() == 1
        if name == "datastar":
            expect(page.locator("p")).to_have_text("Kettle")

        # The connection breaks within an event, and then the server is away for a while.
        shop.run(f"{module}.added(Order.objects.create(pk=4, item='Broken off', total=1))")
        expect(rows).to_have_text(["Kettle", "Tray & '\" lines", "Broken off"])
        assert proxy.cuts == 1
        shop.stop()
        shop.run(f"{module}.added(Order.objects.create(pk=5, item='Missed', total=1))")
        shop.start()
        expect(rows).to_have_text(["Kettle", "Tray & '\" lines", "Broken off", "Missed"])
        shop.run(
            f"Order.objects.filter(pk__lt=5).delete()\nfor pk in 2, 3, 4: {module}.removed(pk)"
        )
        expect(rows).to_have_text(["Missed"])


@pytest.mark.parametrize("name", ["htmx2", "turbo", "datastar"])
def test_page_connects_again_after_an_http_error(
    name: str, shop: Shop, browser: Browser, packages: Path
) -> None:
    """A browser's ``EventSource`` gives up then, and so does Datastar by default."""
    shop.run("Order.objects.all().delete()\nOrder.objects.create(pk=1, item='Cup', total=1)")
    answers = [502, 502]

    def refuse(route: Route) -> None:
        if answers:
            route.fulfill(status=answers.pop())
        else:
            route.continue_()

    browser.page.route("**/events/**", refuse)
    page = show(browser, name, packages, f"http://127.0.0.1:{shop.port}")
    expect(page.locator("#rows > tr > td")).to_have_text(["Cup"])
    assert answers == []


def test_the_files_of_the_demo_are_those_of_their_projects(packages: Path) -> None:
    named = re.findall(
        r"^\| `(\S+)` .*`([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.MULTILINE
    )
    assert sorted(name for name, _ in named) == sorted(it.name for it in VENDOR.glob("*.js"))
    for name, digest in named:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
        assert (VENDOR / name).with_suffix(".LICENSE").exists()
    turbo = packages / LIBRARIES["turbo"].scripts["turbo.js"]
    assert (VENDOR / "turbo.js").read_bytes() == turbo.read_bytes()


def test_turbo_carries_out_all_actions(shop: Shop, browser: Browser, packages: Path) -> None:
    shop.run("Order.objects.all().delete()\nOrder.objects.create(pk=1, item='Cup', total=1)")
    page = show(browser, "turbo", packages, f"http://127.0.0.1:{shop.port}")
    rows = page.locator("#rows > tr")
    expect(rows).to_have_count(1)
    shop.run(
        "row = lambda pk, text: format_html('<tr id=\"order-{}\"><td>{}</td></tr>', pk, text)\n"
        "publish('turbo-rows', turbo.prepend(row(2, 'first'), 'rows')"
        " + turbo.before(row(3, 'before'), 'order-1') + turbo.after(row(4, 'after'), 'order-1'))\n"
        "publish('turbo-rows', turbo.update(format_html('<td>{}</td>', '<new>'), targets='#order-1'))\n"
        "publish('turbo-rows', turbo.replace(row(4, 'morphed'), 'order-4', method='morph'))"
    )
    expect(rows).to_have_text(["first", "before", "<new>", "morphed"])
    shop.run("publish('turbo-rows', turbo.refresh())")
    expect(rows).to_have_text(["Cup"])


def test_datastar_carries_out_all_modes(shop: Shop, browser: Browser, packages: Path) -> None:
    shop.run("Order.objects.all().delete()\nOrder.objects.create(pk=1, item='Cup', total=1)")
    page = show(browser, "datastar", packages, f"http://127.0.0.1:{shop.port}")
    rows = page.locator("#rows > tr")
    expect(rows).to_have_count(1)
    shop.run(
        "row = lambda pk, text: format_html('<tr id=\"order-{}\"><td>{}</td></tr>', pk, text)\n"
        "def put(*args): publish('datastar-rows', datastar.patch_elements(*args))\n"
        "put(row(2, 'first'), '#rows', 'prepend')\n"
        "put(row(3, 'last'), '#rows', 'append')\n"
        "put(row(4, 'before'), '#order-1', 'before')\n"
        "put(row(5, 'after'), '#order-1', 'after')\n"
        "put(row(6, 'gone'), '#order-1', 'after')\n"
        "put(format_html('<td>{}</td>', '<new>'), '#order-1', 'inner')\n"
        "put(row(4, 'outer'))\n"
        "put(row(5, 'replaced'), '#order-5', 'replace')\n"
        "publish('datastar-rows', datastar.remove_elements('#order-6'))"
    )
    expect(rows).to_have_text(["first", "outer", "<new>", "replaced", "last"])
    shop.run(
        "publish('datastar-rows', datastar.patch_signals({'changed': '<b>'}))\n"
        "publish('datastar-rows', datastar.from_datastar("
        "ServerSentEventGenerator.execute_script('document.title = \"run\"')))"
    )
    expect(page.locator("p")).to_have_text("<b>")
    expect(page).to_have_title("run")


@pytest.mark.parametrize("name", ["htmx2", "htmx4"])
def test_htmx_swaps_at_every_place(name: str, shop: Shop, browser: Browser, packages: Path) -> None:
    shop.run("Order.objects.all().delete()\nOrder.objects.create(pk=1, item='Cup', total=1)")
    page = show(browser, name, packages, f"http://127.0.0.1:{shop.port}")
    rows = page.locator("#rows > tr")
    expect(rows).to_have_count(1)
    shop.run(
        "row = lambda text: format_html('<tr><td>{}</td></tr>', text)\n"
        "publish('htmx-rows', oob(row('first'), '#rows', 'afterbegin')"
        " + oob(row('before') + row('and'), '#order-1', 'beforebegin')"
        " + oob(row('after'), '#order-1', 'afterend')"
        " + oob(format_html('<td>{}</td><td>2</td>', '<new>'), '#order-1', 'innerHTML'))"
    )
    expect(rows).to_have_text(["first", "before", "and", "<new>2", "after"])
    shop.run("publish('htmx-rows', oob('<script>', '#order-1 > td', 'innerHTML'))")
    expect(rows.nth(3)).to_have_text("<script><script>")
