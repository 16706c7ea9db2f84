"""Clients, and how each of them reads a stream: in a browser, in node, or in Python."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import httpx
import httpx_sse

from django_sse.events import EventDecoder
from tests.docs.pages import ROOT, blocks
from tests.support.npm import node
from tests.support.services import find

from .conftest import Browser
from .tricky import MODES, NAMES

SCRIPTS = Path(__file__).parent / "scripts"
SECONDS = 60.0

#: Type, data and id.
Event = list[str]


def in_node(name: str, packages: Path, url: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a script of this folder, which writes a line for each event."""
    command = [node(), str(SCRIPTS / f"{name}.mjs"), str(packages), url]
    names = NAMES if "tricky" in url else ("number",)
    return subprocess.Popen(
        [*command, json.dumps(names), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def end(process: subprocess.Popen[str]) -> None:
    """End a script, which at SIGTERM ends the browser that it may have started."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def read_in_node(name: str, packages: Path, url: str, *arguments: str) -> list[Event]:
    """Return what a script of this folder has shown until it ended."""
    with in_node(name, packages, url, *arguments) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        finally:
            end(process)
    assert process.returncode == 0, output[-2000:]
    return [json.loads(line) for line in output.split("\n") if line]


def firefox() -> str:
    """Return the path of Debian's Firefox, or skip the test."""
    return find("firefox-esr", "firefox", package="firefox-esr")


@dataclass(frozen=True)
class Page:
    """A page for Chromium: its HTML, in which ``ADDRESS`` stands for the stream, and its files."""

    html: str
    files: dict[str, str]


_LOG = "<script>window.log = []; const NAMES = {names};</script>"

#: The pages and scripts of the documentation.
DOCUMENTED = {
    block.path or block.language: block.text for block in blocks(ROOT / "docs" / "clients.md")
}

#: For each client of a browser, a page that keeps type, data and id of each event in ``log``.
PAGES = {
    "EventSource": Page(
        """<script>
          const source = new EventSource("ADDRESS");
          for (const name of NAMES) source.addEventListener(name, (event) => {
            log.push([event.type, event.data, event.lastEventId]);
            if (name === "end") source.close();
          });
        </script>""",
        {},
    ),
    "fetch-event-source": Page(
        """<script type="importmap">
          {"imports": {"@microsoft/fetch-event-source": "/static/index.js"}}
        </script>
        <script type="module">
          import { follow } from "/static/follow.js";
          follow("ADDRESS", (event) => log.push([event.event || "message", event.data, event.id]))
            .catch(() => {}); // The end.
        </script>""",
        {},
    ),
    "sse.js": Page(
        """<script type="module">
          import { SSE } from "/static/sse.js";
          const source = new SSE("ADDRESS", { autoReconnect: true, reconnectDelay: 200 });
          for (const name of NAMES) source.addEventListener(name, (event) => {
            log.push([event.type, event.data, event.lastEventId]);
            if (name === "end") source.close();
          });
          source.stream();
        </script>""",
        {"sse": "sse.js/lib/sse.js"},
    ),
    "htmx-ext-sse": Page(
        """SCRIPT
        <script>
          document.addEventListener("htmx:sseBeforeMessage", ({ detail }) =>
            log.push([detail.type, detail.data, detail.lastEventId]));
        </script>
        <ul hx-ext="sse" sse-connect="ADDRESS" sse-swap="SWAPPED" hx-swap="beforeend"
            sse-close="end"></ul>""",
        {"htmx": "htmx2/dist/htmx.js", "sse": "htmx-ext-sse/sse.js"},
    ),
    "hx-sse": Page(
        """<script src="/static/htmx.js"></script><script src="/static/hx-sse.js"></script>
        <script>
          document.addEventListener("htmx:sse:before:message", ({ detail: { message } }) =>
            log.push([message.event || "message", message.data, message.id]));
        </script>
        <ul hx-sse:connect="ADDRESS" hx-swap="beforeend" hx-sse:close="end"></ul>""",
        {"htmx": "htmx4/dist/htmx.js", "hx-sse": "htmx4/dist/ext/hx-sse.js"},
    ),
    "Datastar": Page(
        DOCUMENTED["shop/templates/shop/datastar.html"]
        .replace("/orders/datastar/?", "ADDRESS&")
        .replace("/orders/datastar/", "ADDRESS"),
        {"datastar": "@starfederation/datastar/dist/datastar.js"},
    ),
}


#: The ways to use the generated client, in Chromium and in Firefox.
TYPED = [f"typed-{mode}" for mode in MODES]
TYPED_IN_FIREFOX = [f"firefox-typed-{mode}" for mode in MODES]


def arguments(name: str) -> list[str]:
    """Return the name of a client's script, and what it takes."""
    if not name.startswith("firefox"):
        return [name]
    return ["firefox", firefox(), *name.split("-")[2:]]


def show(browser: Browser, name: str, path: str) -> None:
    """Show the page of a client, which then reads the stream at ``path``."""
    if name in TYPED:
        mode = name.removeprefix("typed-")
        browser.page.goto(f"{browser.url}/typed/?{urlencode({'stream': path, 'mode': mode})}")
        return
    page = PAGES[name]
    names = NAMES if "tricky" in path else ("number",)
    html = page.html.replace("ADDRESS", path)
    if name == "htmx-ext-sse":
        # The documented script, which keeps the id.
        text = DOCUMENTED["shop/templates/shop/htmx2.html"]
        html = html.replace("SCRIPT", text.partition("<ul")[0])
        html = html.replace("SWAPPED", ",".join(names))
    browser.page.route(
        "**/static/follow.js",
        lambda route: route.fulfill(body=DOCUMENTED["js"], content_type="text/javascript"),
    )
    browser.show(_LOG.format(names=json.dumps(names)) + html, **page.files)


# Python's clients, which do not reconnect.


def read_with_httpx(url: str) -> list[Event]:
    """httpx-sse, which knows an event by its fields."""
    found = []
    with (
        httpx.Client(timeout=SECONDS) as client,
        httpx_sse.connect_sse(client, "GET", url) as source,
    ):
        for event in source.iter_sse():
            found.append([event.event, event.data, event.id])
            if event.event == "end":
                break
    return found


def read_with_aiohttp(url: str) -> list[Event]:
    """aiohttp, which knows no events: with our decoder."""

    async def read() -> list[Event]:
        decoder, found, last = EventDecoder(), [], ""
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            async for piece in response.content.iter_any():
                for event in decoder.feed(piece):
                    last = last if event.id is None else event.id
                    if event.data is not None:
                        found.append([event.event or "message", str(event.data), last])
                    if event.event == "end":
                        return found
        return found

    return asyncio.run(read())


def read_with_curl(url: str) -> list[Event]:
    """curl, whose output our decoder reads."""
    decoder, found, last = EventDecoder(), [], ""
    curl = find("curl", package="curl")
    process = subprocess.Popen([curl, "-sN", url], stdout=subprocess.PIPE, bufsize=0)
    assert process.stdout is not None
    with process, suppress(EOFError):
        while piece := process.stdout.read(65536):
            for event in decoder.feed(piece):
                last = last if event.id is None else event.id
                if event.data is not None:
                    found.append([event.event or "message", str(event.data), last])
                if event.event == "end":
                    process.terminate()
                    return found
    return found


PYTHON: dict[str, Callable[[str], list[Event]]] = {
    "httpx-sse": read_with_httpx,
    "aiohttp": read_with_aiohttp,
    "curl": read_with_curl,
}
