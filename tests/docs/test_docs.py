"""The documentation does what it says: names exist, links lead somewhere, examples run."""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.util
import json
import re
import shlex
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import Any

import django
import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent

import django_sse
from django_sse.conf import DEFAULTS
from django_sse.wire.events import EventDecoder, ServerSentEvent
from tests.docs.pages import (
    FOR_DEVELOPERS,
    PAGES,
    README,
    ROOT,
    Block,
    Project,
    blocks,
    files,
    prose,
)
from tests.support import npm
from tests.support.cutting import CuttingProxy
from tests.support.servers import free_port, listens

#: Pages whose examples are run as well as loaded: they need migrations, tables and a user.
RUN = ("README.md", "jobs.md", "presence.md", "recipes.md", "testing.md", "tokens.md")
#: Pages whose examples build on packages that are not installed here, with what stands in for them.
STAND_INS = {
    "handshake.md": {
        "django_tenants/utils.py": (
            "from contextlib import nullcontext as schema_context  # noqa: F401\n"
        )
    }
}
SECONDS = 40.0

LINK = re.compile(r"\]\(([^)\s]+)\)")
BUILT = [page for page in PAGES if files(page)]
CODE = [block for page in PAGES for block in blocks(page) if block.language == "python"]

Pasted = Callable[[Path], Project]


def parsed(block: Block) -> ast.Module:
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compile(block.text, str(block), "exec", flags)  # type: ignore[return-value]


@pytest.mark.parametrize("block", CODE, ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def test_names_imported_from_django_sse_exist() -> None:
    seen = 0
    for block in CODE:
        for node in ast.walk(parsed(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("django_sse"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    seen += 1
                    assert hasattr(module, alias.name) or _is_module(node, alias), (
                        f"{block}: {node.module} has no {alias.name}"
                    )
    assert seen > 50


def _is_module(node: ast.ImportFrom, alias: ast.alias) -> bool:
    return importlib.util.find_spec(f"{node.module}.{alias.name}") is not None


def test_every_public_name_is_documented() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = [name for name in django_sse.__all__ if not name.startswith("_")]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_settings_table_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    table = {key.strip(" `"): default.strip(" `") for key, _, default, _ in rows}
    assert {key: ast.literal_eval(default) for key, default in table.items()} == DEFAULTS


def test_settings_in_examples_exist() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r'DJANGO_SSE\["(\w+)"\]', text)) - set(DEFAULTS) == set()


@pytest.mark.parametrize("page", [*PAGES, *FOR_DEVELOPERS], ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


# What the pages for developers name: a path, or a path and a name that is defined there.
MENTIONED = re.compile(
    r"`((?:django_sse|tests|docs|benchmarks)/[\w./]+|[a-z_]+/[a-z_./]+\.py|[a-z_]+\.py)`"
)


@pytest.mark.parametrize(
    "page", [ROOT / "docs" / "architecture.md", *FOR_DEVELOPERS], ids=lambda page: page.name
)
def test_files_that_developers_are_sent_to_exist(page: Path) -> None:
    found = set(MENTIONED.findall(page.read_text(encoding="utf-8"))) - {"urls.py"}
    assert found
    package, tests = ROOT / "django_sse", ROOT / "tests"
    folders = (ROOT, package, package / "brokers/redis", package / "servers", tests / "support")
    assert {it for it in found if not any((folder / it).exists() for folder in folders)} == set()


def test_layers_are_drawn_as_they_are_checked() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.findall(r"\b([a-z_]+)(?:/|\.py)", page.partition("```text\n")[2].partition("```")[0])
    order = {name: number for number, name in enumerate(drawn)}
    layers = [re.findall(r"[a-z_]+", layer) for layer in contracts[0]["layers"]]
    assert set(order) == {name for layer in layers for name in layer}
    numbers = [sorted(order[name] for name in layer) for layer in layers]
    assert all(above[-1] < below[0] for above, below in pairwise(numbers))


def test_every_page_is_linked_from_the_index() -> None:
    docs = ROOT / "docs"
    assert docs / "index.md" in linked(README)
    pages = {page for page in PAGES if page.parent == docs}
    assert pages - linked(docs / "index.md") == {docs / "index.md"}
    # A folder's pages are linked from its own index, and that from the others.
    folders = {page.parent for page in PAGES} - {docs, ROOT}
    assert folders
    for folder in folders:
        index = folder / "index.md"
        assert {page for page in PAGES if page.parent == folder} - linked(index) == {index}
        assert index in linked(docs / "index.md")


def linked(page: Path) -> set[Path]:
    """Return the files that a page links to."""
    links = (link.partition("#")[0] for link in LINK.findall(prose(page)))
    return {(page.parent / link).resolve() for link in links if link}


@pytest.mark.parametrize(
    ("page", "example"),
    [
        ("haproxy.md", "haproxy.cfg"),
        ("apache.md", "apache.conf"),
        ("caddy.md", "Caddyfile"),
        ("varnish.md", "varnish.vcl"),
    ],
)
def test_configurations_of_proxies_are_those_that_are_tested(page: str, example: str) -> None:
    docs = ROOT / "docs"
    [block] = [it for it in blocks(docs / "proxies" / page) if it.text.startswith("# /etc/")]
    assert without_comments(block.text) == without_comments(
        (docs / "examples" / example).read_text(encoding="utf-8")
    )


def without_comments(text: str) -> list[str]:
    lines = (line.rstrip() for line in text.splitlines())
    return [line for line in lines if line and not line.lstrip().startswith("#")]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    found = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


# What follows runs the examples.


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> Pasted:
    """``pasted(page)`` is a fresh project with the README and that page, checked and migrated.

    It is made when it is first asked for: the tests of the module may run in several processes.
    """

    def make(page: Path) -> Project:
        project = Project(directory / page.stem, template)
        for path, text in STAND_INS.get(page.name, {}).items():
            project.write(path, text)
        project.paste(*dict.fromkeys([README, page]))
        project.write("project/prepare.py", PREPARE)
        modules = [name for name in project.modules() if name != "project.prepare"]
        project.run("-m", "project.prepare", str(page.name in RUN), *modules)
        return project

    directory = tmp_path_factory.mktemp("docs")
    template = Project(directory / "template")
    return cache(make)


PREPARE = '''"""Imports every module, runs the checks, makes the tables and a user."""
import importlib
import importlib.util
import sys

import django

django.setup()

from django.apps import apps
from django.contrib.auth.models import User
from django.core.management import call_command

for name in sys.argv[2:]:
    importlib.import_module(name)
call_command("check", fail_level="WARNING")
if sys.argv[1] == "False":
    sys.exit()
labels = [app.label for app in apps.get_app_configs() if app.path.startswith(sys.path[0])]
call_command("makemigrations", *labels, verbosity=0)
call_command("migrate", verbosity=0)
User.objects.create_superuser("ada", "ada@example.com", "secret")
'''


@pytest.mark.parametrize("page", BUILT, ids=lambda page: page.name)
def test_examples_are_a_project_that_passes_its_checks(page: Path, pasted: Pasted) -> None:
    assert pasted(page).modules()


@contextmanager
def serving(project: Project, server: str, *options: str) -> Iterator[httpx.Client]:
    """Serve a project; gives a client, which follows no redirects."""
    port = free_port()
    arguments = {
        "daphne": ["-m", "daphne", "-b", "127.0.0.1", "-p", str(port)],
        "uvicorn": ["-m", "uvicorn", "--port", str(port), "--timeout-graceful-shutdown", "2"],
    }[server]
    log = project.directory / f"{server}.log"
    process = project.popen([*arguments, *options, "project.asgi:application"], log)
    try:
        deadline = time.monotonic() + SECONDS
        while not listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Reader:
    """What an open response brings, event by event."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream"
        self.bytes = b""
        self._chunks = response.iter_raw()
        self._decoder = EventDecoder()
        self._waiting: list[ServerSentEvent] = []

    def event(self) -> ServerSentEvent:
        """Return the next event with data."""
        while True:
            while self._waiting:
                event = self._waiting.pop(0)
                if event.data is not None:
                    return event
            chunk = next(self._chunks)
            self.bytes += chunk
            self._waiting += self._decoder.feed(chunk)

    def rest(self) -> bytes:
        """Return what comes until the response ends."""
        return b"".join(self._chunks)


def log_in(client: httpx.Client) -> None:
    client.get("/admin/login/")
    form = {"username": "ada", "password": "secret", "next": "/admin/"}
    response = client.post("/admin/login/", data=form | csrf(client))
    assert response.status_code == 302, response.text


def csrf(client: httpx.Client) -> dict[str, str]:
    return {"csrfmiddlewaretoken": client.cookies["csrftoken"]}


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 200


def test_quick_start_works_when_pasted(pasted: Pasted, tmp_path: Path) -> None:
    # Of its own: another test makes orders.
    project = Project(tmp_path / "quick-start", pasted(README))
    project.manage("flush", "--no-input")
    [command] = re.findall(
        r'^\$ python (manage.py shell -c ".*")$', README.read_text(), re.MULTILINE
    )
    with serving(project, "daphne") as client:
        with client.stream("GET", "/orders/events/") as response:
            reader = Reader(response)
            project.run(*shlex.split(command))
            created = reader.event()
            assert reader.bytes.startswith(b":\n\n")
        assert created.event == "created"
        sent = json.loads(str(created.data))
        assert (sent["item"], sent["quantity"], sent["total"]) == ("Espresso beans", 1, "16.90")
        assert list(sent) == ["id", "item", "quantity", "total", "created"]
        assert re.fullmatch(r"[0-9]+-[0-9]+", created.id or "")
        with client.stream("GET", "/orders/events/") as response:
            snapshot = Reader(response).event()
        assert (snapshot.event, json.loads(str(snapshot.data))) == ("snapshot", sent)
        page = client.get("/orders/events/", headers={"Accept": "text/html"})
        assert "Every order, and then what happens to them." in page.text
    # The test of the quick start, with the configuration of the page about testing.
    [configuration] = [
        it for it in blocks(ROOT / "docs" / "testing.md") if it.path == "pyproject.toml"
    ]
    project.write("pyproject.toml", configuration.text)
    assert "1 passed" in run_tests(project, "shop/test_streams.py")


TASKS = '''"""Places an order in a worker of Celery, and in one of Django's tasks."""
import django

django.setup()

from celery import Celery
from celery.contrib.testing.worker import start_worker

from shop.models import Order

app = Celery("shop", broker="memory://", backend="cache+memory://")


@app.task
def place(item):
    return Order.objects.create(item=item, total="1.00").pk


def place_by_django(item):
    return place(item)


if __name__ == "__main__":
    with start_worker(app, perform_ping_check=False):
        place.delay("from Celery").get(timeout=20)
    if django.VERSION >= (6, 0):
        from django.tasks import task

        import shop.tasks

        shop.tasks.place_by_django = task(shop.tasks.place_by_django)
        shop.tasks.place_by_django.enqueue("from a task of Django")
'''


def test_quick_start_reaches_the_streams_of_all_processes_from_everywhere(pasted: Pasted) -> None:
    project = pasted(README)
    project.write("shop/tasks.py", TASKS)
    order = "from shop.models import Order; Order.objects.create(item='{}', total='1.00')"
    with serving(project, "uvicorn", "--workers", "2") as client, ExitStack() as stack:
        readers, ids = [], []
        # As many that each of the two workers has some of them. One may start late.
        for _ in range(5):
            for _ in range(8):
                opened = httpx.stream("GET", f"{client.base_url}/orders/events/", timeout=SECONDS)
                readers.append(Reader(stack.enter_context(opened)))
            if len(json.loads(project.manage("sse_stats", "--json"))["processes"]) == 2:
                break
        project.manage("shell", "-v", "0", "-c", order.format("from a shell"))
        project.manage("sse_publish", "orders", '{"item": "from a command"}', "--event", "created")
        project.run("-m", "shop.tasks")
        expected = ["from a shell", "from a command", "from Celery"]
        if django.VERSION >= (6, 0):
            expected.append("from a task of Django")
        for reader in readers:
            for item in expected:
                event = reader.event()
                while event.event == "snapshot":
                    event = reader.event()
                assert json.loads(event.data)["item"] == item
                ids.append(str(event.id))
        # Both workers report; `--since` reads what was before.
        counted = project.manage("sse_stats", "--json")
        assert json.loads(counted)["total"]["open"] == len(readers)
        assert len(json.loads(counted)["processes"]) == 2
        told = project.manage("sse_tail", "orders", "--since", ids[0], "--count", "2")
        assert "from a shell" not in told
        assert "from a command" in told
        assert "from Celery" in told
        log_in(client)
        listed = client.get("/admin/django_sse/openstream/").text
        assert listed.count("/orders/events/") >= len(readers)
        close = "from django_sse import close_streams; close_streams(topic='orders')"
        project.manage("shell", "-v", "0", "-c", close)
        for reader in readers:
            assert b"event: revoked" in reader.rest()


def test_testing_page_has_a_complete_test(pasted: Pasted) -> None:
    project = pasted(ROOT / "docs" / "testing.md")
    assert "5 passed" in run_tests(project, "shop/test_streams.py", "shop/tests.py")


def test_presence_page_has_a_test_that_passes(pasted: Pasted) -> None:
    assert "Ran 1 test" in pasted(ROOT / "docs" / "presence.md").manage("test", "shop")


def run_tests(project: Project, *tests: str) -> str:
    """Run tests of a project with pytest; return what it wrote."""
    # Plugins of our own environment are left out: a new user has none of them.
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    if "django_sse.pytest_plugin" not in {entry.value for entry in entry_points(group="pytest11")}:
        # What an installed distribution's entry point does.
        options += ["-p", "django_sse.pytest_plugin"]
    return project.run("-m", "pytest", *options, *tests)


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_jobs_outlive_their_connection(pasted: Pasted, server: str) -> None:
    with serving(pasted(ROOT / "docs" / "jobs.md"), server) as client:
        log_in(client)
        token = {"X-CSRFToken": client.cookies["csrftoken"]}
        asked = {"prompt": "to be or not"}
        with client.stream("POST", "/answers/", headers=token, json=asked) as response:
            address = f"/answers/{response.headers['SSE-Job']}/"
            reader = Reader(response)
            assert reader.event().event == "job"
            words = [reader.event() for _ in range(3)]
        headers = {"Last-Event-ID": str(words[-1].id)}
        with client.stream("GET", address, headers=headers) as response:
            reader = Reader(response)
            while words[-1].event != "end":
                words.append(reader.event())
            assert reader.rest() == b""
        text = "".join(json.loads(str(it.data))["text"] for it in words[:-1])
        assert text == "You said: to be or not "
        assert json.loads(str(words[-1].data)) == {"state": "done"}
        headers = {"Last-Event-ID": str(words[-1].id)}
        assert client.get(address, headers=headers).status_code == 204
        log_out = client.post("/admin/logout/", headers=token)
        assert log_out.status_code == 200
        assert client.get(address).status_code == 404


def test_task_of_django_works_on_a_job(pasted: Pasted) -> None:
    project = pasted(ROOT / "docs" / "jobs.md")
    order = "from shop.models import Order; Order.objects.create(item='Cup', total='1.00')"
    project.manage("shell", "-v", "0", "-c", order)
    worker = project.popen(["manage.py", "db_worker", "--no-reload"], project.directory / "worker")
    try:
        with serving(project, "uvicorn") as client:
            log_in(client)
            token = {"X-CSRFToken": client.cookies["csrftoken"]}
            with client.stream("POST", "/listings/", headers=token) as response:
                reader = Reader(response)
                events = [reader.event() for _ in range(3)]
                assert [it.event for it in events] == ["job", "order", "end"]
                assert json.loads(str(events[1].data))["item"] == "Cup"
                assert json.loads(str(events[2].data)) == {"state": "done"}
    finally:
        worker.terminate()
        assert worker.wait(SECONDS) == 0, (project.directory / "worker").read_text()


# Sends a message, whose answer is cut, and resumes; then there is nothing to resume.
CHAT = """
import { chat } from "./chat.mjs";
const shown = [];
const [api, headers] = JSON.parse(process.argv[2]);
const one = chat("chat-1", api, headers, (message) => shown.push(message));
const text = (message) => message?.parts.map((part) => part.text ?? "").join("");
const messages = [{ id: "m1", role: "user", parts: [{ type: "text", text: "to be or not" }] }];
const cut = await one.send(messages).then(() => "whole", () => "cut");
const before = text(shown.at(-1));
const resumed = await one.resume();
const after = text(shown.at(-1));
const ids = new Set(shown.map((message) => message.id)).size;
console.log(JSON.stringify({ cut, before, resumed, after, ids, again: await one.resume() }));
"""


def test_chat_of_the_ai_sdk_resumes(
    pasted: Pasted, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "node_modules").symlink_to(npm.install(tmp_path_factory))
    [script] = [it for it in blocks(ROOT / "docs" / "jobs.md") if it.language == "js"]
    (tmp_path / "chat.mjs").write_text(script.text)
    (tmp_path / "test.mjs").write_text(CHAT)
    with serving(pasted(ROOT / "docs" / "jobs.md"), "uvicorn") as client:
        log_in(client)
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        headers = {"X-CSRFToken": client.cookies["csrftoken"], "Cookie": cookie}
        port = client.base_url.port
        assert port is not None
        with CuttingProxy(port, b'"delta":"to "') as proxy:
            arguments = json.dumps([f"{proxy.url}/api/chat", headers])
            done = subprocess.run(
                [npm.node(), str(tmp_path / "test.mjs"), arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert proxy.cuts == 1
        assert json.loads(done.stdout) == {
            "cut": "cut",
            "before": "You said: ",
            "resumed": True,
            "after": "You said: to be or not ",
            "ids": 1,
            "again": False,
        }
        # What the SDK looks for, and its tests cannot.
        body = {"id": "chat-2", "messages": [{"id": "m", "parts": [{"text": "x"}]}]}
        answer = client.post("/api/chat", headers=headers, json=body)
        assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert "\ndata: [DONE]\n" in answer.text


def test_client_of_mcp_resumes(pasted: Pasted, tmp_path: Path) -> None:
    project = Project(tmp_path / "jobs", pasted(ROOT / "docs" / "jobs.md"))
    # The SDK loses what is sent in the moment after its replay, as the page says. Let the tool end
    # before the client comes back, a second after the cut.
    tools = project.directory / "shop" / "tools.py"
    text = tools.read_text()
    assert text.count("sleep(0.2)") == 1
    tools.write_text(text.replace("sleep(0.2)", "sleep(0.02)"))
    with serving(project, "uvicorn") as client:
        port = client.base_url.port
        assert port is not None
        with CuttingProxy(port, b'"progress":4') as proxy:
            text, progress = asyncio.run(call_tool(f"{proxy.url}/mcp"))
            assert proxy.cuts == 1
    assert text == "counted"
    # The one that was cut, and those that were sent meanwhile, come once each.
    assert progress == list(range(1, 11))


async def call_tool(url: str) -> tuple[str, list[float]]:
    """Call the tool of the page with the SDK's client; return its result, and its progress."""
    progress: list[float] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        progress.append(done)

    async with (
        streamable_http_client(url) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        result = await session.call_tool("count", {}, progress_callback=note)
        [content] = result.content
        assert isinstance(content, TextContent)
        return content.text, progress


def test_token_that_expires_ends_its_stream_and_a_new_one_goes_on(
    pasted: Pasted, tmp_path: Path
) -> None:
    # The page's periods are longer than a test.
    project = Project(tmp_path / "tokens", pasted(ROOT / "docs" / "tokens.md"))
    streams = project.directory / "shop" / "streams.py"
    text = streams.read_text()
    assert text.count("recheck_period = 30") == 1
    streams.write_text(text.replace("recheck_period = 30", "recheck_period = 0.2"))
    project.write("brief.py", BRIEF)

    def opened(client: httpx.Client, path: str, token: str = "", last: str = "") -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return client.stream("GET", path, headers=headers | {"Last-Event-ID": last})

    with serving(project, "uvicorn") as client:
        given = {"username": "ada", "password": "secret"}
        pair = client.post("/token/", data=given).json()
        bearer = {"Authorization": f"Bearer {pair['access']}"}
        ticket = client.post("/tickets/", headers=bearer, json={"path": "/ticket/orders/"}).json()
        log_in(client)
        brief = project.run("brief.py").strip()
        with (
            opened(client, "/token/orders/", brief) as response,
            opened(client, ticket["url"]) as by_ticket,
        ):
            reader = Reader(response)
            ticket_reader = Reader(by_ticket)
            seen = add_order(project, reader)
            assert ticket_reader.event().id == seen
            while reader.event().event != "revoked":
                pass
            with pytest.raises(StopIteration):  # The response has ended properly.
                reader.event()
            # The ticket goes on.
            add_order(project, ticket_reader)
        assert (
            client.get("/token/orders/", headers={"Authorization": f"Bearer {brief}"}).status_code
            == 401
        )
        renewed = client.post("/token/refresh/", data={"refresh": pair["refresh"]}).json()
        with opened(client, "/token/orders/", renewed["access"], seen) as response:
            reader = Reader(response)
            assert reader.event().event == "created"  # What came meanwhile.
            add_order(project, reader)


BRIEF = '''"""Prints an access token that lasts for ten seconds."""
from datetime import timedelta

import django

django.setup()

from django.contrib.auth.models import User
from rest_framework_simplejwt.tokens import AccessToken

token = AccessToken.for_user(User.objects.get())
token.set_exp(lifetime=timedelta(seconds=10))
print(token)
'''


def add_order(project: Project, reader: Reader) -> str:
    """Add an order in a shell; return the id of the event that tells of it."""
    order = "from shop.models import Order; Order.objects.create(item='Cup', total='3.80')"
    project.manage("shell", "-v", "0", "-c", order)
    while (event := reader.event()).event != "created":
        pass
    assert event.id
    return event.id
