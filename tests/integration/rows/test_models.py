"""The page about models, pasted and served: two users, changes by another process, and the store."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docs.pages import README, ROOT, Project, blocks
from tests.docs.test_docs import SECONDS, Reader, log_in, serving
from tests.support.npm import install, node

PAGE = ROOT / "docs" / "models.md"
ORDER = "from shop.models import Order; from shop.sales import double, restock; "


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project")
    project.paste(README, PAGE)
    project.manage("makemigrations", "shop", "-v", "0")
    project.manage("migrate", "-v", "0")
    user = "User.objects.create_superuser('ada', 'ada@example.com', 'secret')"
    project.manage("shell", "-c", f"from django.contrib.auth.models import User; {user}")
    change(
        project, "[Order.objects.create(item=it, total=t) for it, t in (('Cup', 1), ('Car', 900))]"
    )
    return project


def change(project: Project, code: str) -> None:
    """Make a change in a process of its own."""
    project.manage("shell", "-c", ORDER + code)


@contextmanager
def reading(client: httpx.Client, path: str, seen: str = "") -> Iterator[Reader]:
    headers = {"Last-Event-ID": seen} if seen else {}
    with client.stream("GET", path, headers=headers) as response:
        yield Reader(response)


def events(reader: Reader, count: int) -> list[tuple[str | None, Any]]:
    """Return the next events: their names, and their items or keys."""
    found = []
    for _ in range(count):
        event = reader.event()
        data = json.loads(str(event.data))
        found.append((event.event, data.get("item", data.get("id"))))
        reader.last = event.id or getattr(reader, "last", "")  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_each_user_gets_what_another_process_changes(project: Project, server: str) -> None:
    with ExitStack() as stack:
        staff = stack.enter_context(serving(project, server))
        anyone = stack.enter_context(httpx.Client(base_url=staff.base_url, timeout=SECONDS))
        log_in(staff)
        theirs = stack.enter_context(reading(staff, "/live/orders/"))
        ours = stack.enter_context(reading(anyone, "/live/orders/"))
        one = stack.enter_context(reading(anyone, "/live/orders/1/"))
        assert events(theirs, 4)[1:3] == [("created", "Cup"), ("created", "Car")]
        assert events(ours, 3)[1:] == [("created", "Cup"), ("end", None)]
        assert events(one, 3)[1:] == [("created", "Cup"), ("end", None)]
        assert anyone.get("/live/orders/2/").status_code == 404

        change(project, "o = Order.objects.get(item='Car'); o.total = 5; o.save()")
        assert events(theirs, 1) == [("changed", "Car")]
        assert events(ours, 1) == [("created", "Car")]
        seen = ours.last  # type: ignore[attr-defined]
        change(project, "double('Cup')")
        for reader in (theirs, ours, one):
            assert json.loads(str(reader.event().data))["quantity"] == 2
        change(project, "restock(['Tea'])")
        change(project, "Order.objects.filter(item='Tea').update(total=900); double('Tea')")
        assert events(ours, 2) == [("created", "Tea"), ("deleted", 3)]
        assert events(theirs, 2) == [("created", "Tea"), ("changed", "Tea")]
        change(project, "Order.objects.filter(item='Cup').delete()")
        for reader in (theirs, ours, one):
            assert events(reader, 1) == [("deleted", 1)]

        # It resumes in this process; another one does not know what the client has.
        with reading(anyone, "/live/orders/", seen) as again:
            assert events(again, 1) == [("deleted", 1)]
        with serving(project, server) as other, reading(other, "/live/orders/", seen) as again:
            assert [name for name, _ in events(again, 4)] == ["reset", "begin", "created", "end"]


USE = """
import { rowsOf } from "./rows";
import { connect } from "./streams";

connect("/live/orders/", {
  deleted(gone) {
    const key: number = gone.id;
    // @ts-expect-error
    return [key, gone.item];
  },
});
const orders = rowsOf("/live/orders/", (a, b) => b.id - a.id);
const names: string[] = orders.get().map((order) => order.item);
// @ts-expect-error
orders.get().map((order) => order.price);
orders.subscribe(() => names.push("changed"));
"""

# A stream of the same project without `created`.
BELLS = """
from django_sse import SSEView, sse_path


class Bells(SSEView):
    topics = ["bells"]
    events = {"rung": int}


urlpatterns += [sse_path("bells/", Bells)]
"""

SHOW = """
import { rowsOf } from "./rows";

const orders = rowsOf(process.argv[2]! as any, (a: any, b: any) => b.id - a.id, { retry: 50 });
orders.subscribe(() => console.log(JSON.stringify(orders.get().map((it: any) => [it.id, it.quantity]))));
"""


def test_store_of_the_page_keeps_a_copy(
    project: Project, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    packages = install(tmp_path_factory)
    urls = project.directory / "project" / "urls.py"
    urls.write_text(urls.read_text() + BELLS)
    project.manage("sse_client", "--output", str(tmp_path / "streams.ts"))
    [store] = [it.text for it in blocks(PAGE) if it.text.startswith("// rows.ts")]
    assert len(store.splitlines()) <= 50
    for name, text in {"rows": store, "use": USE, "show": SHOW}.items():
        (tmp_path / f"{name}.ts").write_text(text)
    options = (
        "--noEmit --strict --noUncheckedIndexedAccess --noUnusedLocals --target es2022 "
        "--module esnext --moduleResolution bundler"
    )
    tsc = [node(), str(packages / "typescript" / "bin" / "tsc"), *options.split()]
    checked = subprocess.run(
        [*tsc, "use.ts"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert (checked.stdout, checked.returncode) == ("", 0)
    esbuild = [str(packages / "esbuild" / "bin" / "esbuild"), "show.ts", "--bundle"]
    esbuild += ["--platform=node", "--format=esm", "--outfile=show.mjs"]
    subprocess.run(esbuild, cwd=tmp_path, capture_output=True, check=True, timeout=60)

    with serving(project, "uvicorn") as client:
        address = f"{client.base_url}/live/orders/"
        process = subprocess.Popen(
            [node(), "show.mjs", address], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        try:
            lines: queue.Queue[str] = queue.Queue()
            assert process.stdout is not None
            thread = threading.Thread(target=lambda: [lines.put(it) for it in process.stdout or ()])
            thread.start()
            assert json.loads(lines.get(timeout=SECONDS)) == [[1, 1]]
            change(project, "restock(['Tea'])")
            assert json.loads(lines.get(timeout=SECONDS)) == [[3, 1], [1, 1]]
            change(project, "double('Cup')")
            assert json.loads(lines.get(timeout=SECONDS)) == [[3, 1], [1, 2]]
            change(project, "Order.objects.get(item='Cup').delete()")
            assert json.loads(lines.get(timeout=SECONDS)) == [[3, 1]]
        finally:
            process.kill()
            process.wait()
            thread.join()
            assert process.stdout is not None
            process.stdout.close()
