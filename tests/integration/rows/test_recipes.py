"""The recipes of the page about models for React, Vue, htmx and plain pages, in Chromium."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.docs.pages import blocks, files
from tests.support.browser import open_page
from tests.support.cutting import CuttingProxy
from tests.support.documented_shop import Shop
from tests.support.npm import install, node

from .test_models import PAGE

PUBLISHER = '''"""Runs the code that comes in a line each, and says so."""
import json
import sys

import django

django.setup()

from django_sse import publish_changes
from shop.models import Order
from shop.sales import double, restock

for line in sys.stdin:
    exec(json.loads(line))
    print("done", flush=True)
'''
IMPORTS = """
from django.template.loader import render_to_string
from rest_framework import serializers

from django_sse import ModelSSEView

from .models import Order
"""
#: A cell with an attribute of htmx, which works once htmx has processed the row.
ROW = """
<tr id="order-{{ order.pk }}"><td>{{ order.quantity }} × {{ order.item }}</td>
  <td hx-get="/said/" hx-trigger="click">{{ order.pk }}</td></tr>
"""


def documented(*words: str) -> str:
    """Return the block of the page without a path in which all words are."""
    found = [it.text for it in blocks(PAGE) if it.path is None and all(w in it.text for w in words)]
    [text] = found
    return text


class Rows(Shop):
    """The project of the page, with a second stream whose serializer renders the row."""

    page = PAGE
    publisher = PUBLISHER

    def prepare(self) -> None:
        write = self.project.write
        write(
            "shop/html_streams.py",
            f"{IMPORTS}\n\n{documented('class OrderRowSerializer')}\n\n"
            "class OrderRows(ModelSSEView):\n    queryset = Order.objects.all()\n"
            "    serializer_class = OrderRowSerializer\n",
        )
        write("shop/templates/shop/order_row.html", ROW.strip())
        page = files(PAGE)["shop/templates/shop/live_orders.html"]
        assert page.count("/live/orders/") == 1
        page = page.replace("/live/orders/", "/live/rows/")
        write(
            "shop/templates/shop/live_rows.html", f'<script src="/static/htmx.js"></script>\n{page}'
        )
        urls = files(PAGE)["project/urls.py"]
        urls += (
            "\nfrom shop.html_streams import OrderRows\n\nrouter.register('rows', OrderRows, 'row')\n"
            "urlpatterns += [path('live/', include(router.urls)), path('rows/',\n"
            "    TemplateView.as_view(template_name='shop/live_rows.html'))]\n"
        )
        write("project/urls.py", urls)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    with Rows(tmp_path_factory.mktemp("recipes")).served() as shop:
        yield shop


@pytest.fixture
def page() -> Iterator[Page]:
    with open_page() as page:
        page.set_default_timeout(20_000)
        expect.set_options(timeout=20_000)
        yield page


_REACT = """
import { useState, useSyncExternalStore } from "react";
import { createRoot } from "react-dom/client";
import { rowsOf } from "./rows";

%s

createRoot(document.getElementById("app")!).render(<Orders />);
"""
_VUE = """
import { createApp, h, onScopeDispose, shallowRef } from "vue";
import { rowsOf } from "./rows";

%s

const app = createApp({
  setup() {
    const rows = useRows("/live/orders/");
    return () => h("ul", [...rows.value].sort((a, b) => b.id - a.id).map(
      (it) => h("li", { key: it.id }, `${it.quantity} × ${it.item}`)));
  },
});
app.mount("#app");
Object.assign(window, { app });
"""


@pytest.fixture(scope="module")
def bundle(
    shop: Rows, packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], str]:
    """``bundle("react")`` checks the types of the page's code, and makes one script of it."""
    directory = tmp_path_factory.mktemp("bundles")
    (directory / "node_modules").symlink_to(packages)
    shop.project.manage("sse_client", "--output", str(directory / "streams.ts"))
    (directory / "rows.ts").write_text(documented("// rows.ts"))
    (directory / "react.tsx").write_text(_REACT % documented("useSyncExternalStore(orders"))
    (directory / "vue.ts").write_text(_VUE % documented("export function useRows"))

    def make(name: str) -> str:
        [source] = directory.glob(f"{name}.ts*")
        options = (
            "--noEmit --strict --noUncheckedIndexedAccess --skipLibCheck --target es2022 "
            "--module esnext --moduleResolution bundler --jsx react-jsx --types react"
        )
        tsc = [node(), str(packages / "typescript" / "bin" / "tsc"), *options.split(), source.name]
        checked = subprocess.run(
            tsc, cwd=directory, capture_output=True, text=True, check=False, timeout=120
        )
        assert (checked.stdout, checked.returncode) == ("", 0)
        esbuild = [str(packages / "esbuild" / "bin" / "esbuild"), source.name, "--bundle"]
        defines = {
            "process.env.NODE_ENV": '"production"',
            "__VUE_OPTIONS_API__": "true",
            "__VUE_PROD_DEVTOOLS__": "false",
            "__VUE_PROD_HYDRATION_MISMATCH_DETAILS__": "false",
        }
        esbuild += ["--jsx=automatic", *(f"--define:{key}={it}" for key, it in defines.items())]
        done = subprocess.run(esbuild, cwd=directory, capture_output=True, check=True, timeout=60)
        return done.stdout.decode()

    return make


def show(page: Page, url: str, script: str) -> Locator:
    """Show an empty page with a script on the server's site; return the rows of its list."""
    html = (
        '<!doctype html><meta charset="utf-8"><div id="app"></div><script src="/app.js"></script>'
    )
    page.route("**/app/", lambda it: it.fulfill(body=html, content_type="text/html"))
    page.route("**/app.js", lambda it: it.fulfill(body=script, content_type="text/javascript"))
    page.goto(f"{url}/app/")
    return page.locator("li")


def begin(shop: Rows) -> None:
    shop.run(
        "Order.objects.all().delete()\n"
        "for pk, item in enumerate(['Cup', '<b>Pot</b>'], 1):\n"
        "    Order.objects.create(pk=pk, item=item, total=1)"
    )


def live(shop: Rows, rows: Locator, proxy: CuttingProxy, text: Callable[[int, str], str]) -> None:
    """Change rows in every way; the list shows them, newest first, after cuts and restarts, too."""

    def shows(*orders: tuple[int, str]) -> None:
        expect(rows).to_have_text([text(*it) for it in orders])

    shows((1, "<b>Pot</b>"), (1, "Cup"))
    # Rows come, change, leave what this user may see, come back, and go.
    shop.run("restock(['Tea'])")
    shows((1, "Tea"), (1, "<b>Pot</b>"), (1, "Cup"))
    shop.run("double('Cup')")
    shows((1, "Tea"), (1, "<b>Pot</b>"), (2, "Cup"))
    shop.run("order = Order.objects.get(item='Tea'); order.total = 500; order.save()")
    shows((1, "<b>Pot</b>"), (2, "Cup"))
    shop.run("order.total = 5; order.quantity = 7; order.save()")
    shows((7, "Tea"), (1, "<b>Pot</b>"), (2, "Cup"))
    shop.run("Order.objects.get(pk=2).delete()")
    shows((7, "Tea"), (2, "Cup"))

    # The connection breaks within an event.
    shop.run("Order.objects.create(item='Broken off', total=1)")
    shows((1, "Broken off"), (7, "Tea"), (2, "Cup"))
    assert proxy.cuts == 1
    # Another process cannot resume. What is gone since then goes with the new snapshot.
    shop.stop()
    shop.run("Order.objects.get(item='Tea').delete(); Order.objects.create(item='Jug', total=1)")
    shows((1, "Broken off"), (7, "Tea"), (2, "Cup"))
    shop.start()
    shows((1, "Jug"), (1, "Broken off"), (2, "Cup"))
    shop.run("double('Jug')")
    shows((2, "Jug"), (1, "Broken off"), (2, "Cup"))


@pytest.mark.parametrize("name", ["react", "vue"])
def test_list_is_kept_up_to_date_and_heals(
    name: str, shop: Rows, page: Page, bundle: Callable[[str], str]
) -> None:
    script = bundle(name)
    begin(shop)
    with CuttingProxy(shop.port, b"Broken off") as proxy:
        rows = show(page, proxy.url, script)
        live(shop, rows, proxy, lambda quantity, item: f"{quantity} × {item}")
        if name == "vue":
            with page.expect_event("requestfailed", lambda it: it.url.endswith("/live/orders/")):
                page.evaluate("app.unmount()")


@pytest.mark.parametrize("name", ["board", "rows"])
def test_plain_page_and_htmx_are_kept_up_to_date_and_heal(
    name: str, shop: Rows, page: Page, packages: Path
) -> None:
    htmx = (packages / "htmx2" / "dist" / "htmx.js").read_text(encoding="utf-8")
    page.route("**/htmx.js", lambda it: it.fulfill(body=htmx, content_type="text/javascript"))
    page.route("**/said/", lambda it: it.fulfill(body="htmx said so", content_type="text/html"))
    begin(shop)
    with CuttingProxy(shop.port, b"Broken off") as proxy:
        page.goto(f"{proxy.url}/{name}/")
        rows = page.locator("#orders > tr")
        _live_page(name, shop, page, rows, proxy)


def _live_page(name: str, shop: Rows, page: Page, rows: Locator, proxy: CuttingProxy) -> None:
    with_html = name == "rows"

    def shows(*orders: tuple[int, str]) -> None:
        cells = rows.locator("td:first-child") if with_html else rows
        expect(cells).to_have_text(
            [f"{quantity} × {item}" if with_html else item for quantity, item in orders]
        )

    shows((1, "Cup"), (1, "<b>Pot</b>"))
    shop.run("restock(['Tea'])")
    shows((1, "Cup"), (1, "<b>Pot</b>"), (1, "Tea"))
    shop.run("double('Cup')")
    shows((2, "Cup"), (1, "<b>Pot</b>"), (1, "Tea"))
    shop.run("order = Order.objects.get(pk=2); order.item = 'Kettle'; order.save()")
    shows((2, "Cup"), (1, "Kettle"), (1, "Tea"))
    if with_html:
        # Of the snapshot, of a new row, and of a row that was swapped.
        for number in range(3):
            cell = rows.nth(number).locator("td").nth(1)
            cell.click()
            expect(cell).to_have_text("htmx said so")
    shop.run("Order.objects.get(pk=2).delete()")
    shows((2, "Cup"), (1, "Tea"))
    shop.run("Order.objects.create(item='Broken off', total=1)")
    shows((2, "Cup"), (1, "Tea"), (1, "Broken off"))
    assert proxy.cuts == 1
    shop.stop()
    shop.run("Order.objects.get(item='Tea').delete(); Order.objects.create(item='Jug', total=1)")
    shows((2, "Cup"), (1, "Tea"), (1, "Broken off"))
    shop.start()
    shows((2, "Cup"), (1, "Broken off"), (1, "Jug"))
    shop.run("double('Jug')")
    shows((2, "Cup"), (1, "Broken off"), (2, "Jug"))
    assert page.locator("#orders [id]").count() == page.locator("#orders > tr[id]").count() == 3
