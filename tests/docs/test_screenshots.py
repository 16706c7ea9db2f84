"""The screenshots of the documentation, made from the quick start: ``make screenshots`` keeps them."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.docs.pages import README, ROOT, Project
from tests.support.browser import open_page
from tests.support.servers import free_port, listens

IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1100, "height": 760}
ORDERS = """
import time
from django.contrib.auth.models import User
from shop.models import Order
if not User.objects.exists():
    User.objects.create_superuser("ada", "ada@example.com", "secret")
names = ["Espresso beans", "Cup", "Kettle", "Filter paper", "Grinder"]
for number, name in enumerate(names):
    order = Order.objects.create(item=name, quantity=number + 1, total=f"{number + 4}.90")
    order.total = f"{number + 5}.90"
    order.save()
    time.sleep(0.5)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Project]]:
    """The address of the quick start, as ``runserver`` serves it."""
    project = Project(tmp_path_factory.mktemp("screenshots") / "project")
    project.paste(README)
    project.manage("makemigrations", "shop", "--verbosity", "0")
    project.manage("migrate", "--verbosity", "0")
    port = free_port()
    command = ["manage.py", "runserver", f"127.0.0.1:{port}", "--noreload"]
    process = project.popen(command, project.directory / "server.log")
    try:
        deadline = time.monotonic() + 20
        while not listens(port):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", project
    finally:
        process.terminate()
        process.wait(20)


def kept(page: Page, name: str, tmp_path: Path) -> None:
    """Take a screenshot, into the documentation where it is asked for."""
    directory = IMAGES if os.environ.get("SCREENSHOTS") == "1" else tmp_path
    directory.mkdir(exist_ok=True)
    page.screenshot(path=directory / f"{name}.png")
    # The documentation has one of the same size.
    assert size_of(IMAGES / f"{name}.png") == size_of(directory / f"{name}.png")


def size_of(image: Path) -> tuple[int, int]:
    width, height = struct.unpack(">II", image.read_bytes()[16:24])
    return width, height


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots_are_made(
    site: tuple[str, Project], tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    url, project = site
    with open_page(color_scheme=scheme, viewport=SIZE) as page:
        page.goto(f"{url}/orders/events/")
        expect(page.locator("#state")).to_have_text("Open")
        project.manage("shell", "-v", "0", "-c", ORDERS)
        expect(page.locator("#rows tr").filter(has_text="Grinder")).not_to_have_count(0)
        newest = page.locator("#rows tr").filter(has_text="Grinder").first
        expect(newest).to_contain_text("changed")
        newest.locator("summary").click()
        # The chart draws the second that has ended.
        page.wait_for_function("document.getElementById('rate').textContent === '0'")
        kept(page, f"live-page-{scheme}", tmp_path)
        assert page.context.browser is not None
        admin = page.context.browser.new_page(color_scheme=scheme, viewport=SIZE)
        admin.goto(f"{url}/admin/login/?next=/admin/django_sse/openstream/")
        admin.get_by_label("Username").fill("ada")
        admin.get_by_label("Password").fill("secret")
        admin.get_by_role("button", name="Log in").click()
        expect(admin.locator("#result_list")).to_contain_text("/orders/events/")
        kept(admin, f"open-streams-{scheme}", tmp_path)


def test_every_image_of_the_documentation_is_made_here() -> None:
    names = {
        f"{name}-{it}.png" for name in ("live-page", "open-streams") for it in ("light", "dark")
    }
    assert {image.name for image in IMAGES.iterdir()} == names
    pages = "".join(page.read_text() for page in [README, *(ROOT / "docs").glob("*.md")])
    assert [name for name in names if f"images/{name}" not in pages] == []
