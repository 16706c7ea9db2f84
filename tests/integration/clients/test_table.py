"""Every client shows the same events in the same order, or the documentation says what it does."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from tests.project.journal import Journal
from tests.support.cutting import CuttingProxy
from tests.support.servers import Server

from .conftest import Browser
from .runners import (
    PAGES,
    PYTHON,
    TYPED,
    TYPED_IN_FIREFOX,
    Event,
    arguments,
    end,
    in_node,
    read_in_node,
    show,
)
from .tricky import EVENTS, LAST, expected, normal


def _own_ids(events: list[Event]) -> list[Event]:
    """An event has its own id alone."""
    own = {str(event.data): event.id or "" for event, _ in EVENTS}
    return [
        [kind, data, last if last == "topic" else own.get(data, "")] for kind, data, last in events
    ]


def _no_bom_and_own_ids(events: list[Event]) -> list[Event]:
    """A BOM at the beginning of data is lost, and an event has its own id alone."""
    return [[kind, data.removeprefix("\ufeff"), last] for kind, data, last in _own_ids(events)]


def _empty_for_comments(events: list[Event]) -> list[Event]:
    """Each comment, once there is an id, and each block with an id alone is an event without data."""
    return [it for it in events if it[0:2] != ["message", ""]]


def _no_nul_and_no_ids_alone(events: list[Event]) -> list[Event]:
    """NUL is dropped from data, and a block with an id alone sets no id."""
    return [
        [kind, data.replace("\0", ""), "id-1" if last == "id-2" else last]
        for kind, data, last in events
    ]


#: Where the generated client reads by Firefox's EventSource, it shows what that shows.
BY_EVENT_SOURCE = ("firefox-typed-handlers", "firefox-typed-script")

#: Where a client differs, as the documentation says: what it makes of the events that are expected.
DIFFERENT: dict[str, Callable[[list[Event]], list[Event]]] = {
    "eventsource": _own_ids,
    "parser": _own_ids,
    "fetch-event-source": _no_bom_and_own_ids,
    "firefox": _no_nul_and_no_ids_alone,
    **dict.fromkeys(BY_EVENT_SOURCE, _no_nul_and_no_ids_alone),
}


def shown_by(
    name: str, server: Server, packages: Path, request: pytest.FixtureRequest
) -> list[Event]:
    """Let a client read the tricky events; return what it has shown."""
    url = f"{server.url}/tricky/"
    if name in PYTHON:
        return PYTHON[name](url)
    if name in (*PAGES, *TYPED):
        browser: Browser = request.getfixturevalue("browser")
        show(browser, name, "/tricky/")
        browser.page.wait_for_function("log.some(([type]) => type === 'end')", timeout=30_000)
        found: list[Event] = browser.page.evaluate("log")
        return found
    script, *rest = arguments(name)
    return read_in_node(script, packages, url, *rest)


SHOWING = [
    *(it for it in PAGES if it != "Datastar"),
    *PYTHON,
    "firefox",
    "eventsource",
    "parser",
    "polyfill",
    *TYPED,
    *TYPED_IN_FIREFOX,
    "typed",
]


@pytest.mark.parametrize("name", SHOWING)
def test_client_shows_all_events(
    name: str, server: tuple[Server, Journal], packages: Path, request: pytest.FixtureRequest
) -> None:
    found = normal(shown_by(name, server[0], packages, request))
    if name == "httpx-sse":
        assert ["message", "", "id-1"] in found
        found = _empty_for_comments(found)
    assert found == DIFFERENT.get(name, list)(expected())


def test_openais_client_reads_its_protocol(server: tuple[Server, Journal]) -> None:
    with openai.OpenAI(base_url=f"{server[0].url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "Say it."}], stream=True
        )
        words = [chunk.choices[0].delta.content for chunk in answer]
    assert words == ["Größe", " 🜁", " two\nlines"]


class Reader:
    """What a client has shown so far of `Numbers`: each number once it is there."""

    def __init__(self, read: Callable[[], list[int]]) -> None:
        self.read = read

    def wait_for(self, number: int) -> None:
        deadline = time.monotonic() + 60
        while number not in (found := self.read()):
            assert time.monotonic() < deadline, found
            time.sleep(0.05)


#: What a client reads where it does not read `Numbers` themselves.
OWN = {"htmx-ext-sse": "items", "hx-sse": "unnamed-items", "Datastar": "signals"}


@contextmanager
def reading(
    name: str, url: str, path: str, packages: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Reader, Browser | None]]:
    """Let a client read a stream from an address until the block ends."""
    if name in (*PAGES, *TYPED):
        browser: Browser = request.getfixturevalue("browser")
        browser.url = url
        show(browser, name, path)
        listed = name in OWN
        script = "[...document.querySelectorAll('li')].map((it) => it.textContent)"
        script = script if listed else "log.map(([, data]) => data)"
        yield Reader(lambda: _numbers(browser.page.evaluate(script))), browser
        return
    script, *rest = arguments(name)
    process = in_node(script, packages, f"{url}{path}", *rest)
    lines: list[str] = []
    assert process.stdout is not None
    output = process.stdout
    thread = threading.Thread(target=lambda: lines.extend(output), daemon=True)
    thread.start()
    try:
        yield Reader(lambda: _numbers(list(lines))), None
    finally:
        end(process)
        thread.join(5)
        output.close()


def _numbers(texts: list[str]) -> list[int]:
    return [int(it) for text in texts for it in re.findall(r"number (\d+), padded", text)]


#: The clients that reconnect by themselves.
RECONNECTING = [
    *PAGES,
    "firefox",
    "eventsource",
    "polyfill",
    *TYPED,
    *TYPED_IN_FIREFOX,
    "typed",
]

#: Those of them that stop when the server answers 204.
STOPPING = [
    "EventSource",
    "fetch-event-source",
    "firefox",
    "eventsource",
    *TYPED,
    *TYPED_IN_FIREFOX,
    "typed",
]

#: Tells a page that its tab was hidden, or shown.
HIDE = """hidden => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  Object.defineProperty(document, "visibilityState", {
    configurable: true, get: () => hidden ? "hidden" : "visible",
  });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.mark.parametrize("name", RECONNECTING)
def test_client_resumes_without_loss(
    name: str, server: tuple[Server, Journal], packages: Path, request: pytest.FixtureRequest
) -> None:
    """Its connection is cut within an event, its tab is hidden and shown, the server restarts."""
    with (
        CuttingProxy(server[0].port, b"number 12, pad") as proxy,
        reading(name, proxy.url, f"/{OWN.get(name, 'numbers')}/?key={name}", packages, request) as (
            reader,
            browser,
        ),
    ):
        reader.wait_for(15)
        assert proxy.cuts == 1
        if browser is not None:
            browser.page.evaluate(HIDE, True)
            time.sleep(0.3)
            browser.page.evaluate(HIDE, False)
        reader.wait_for(25)
        server[0].stop()
        server[0].start()
        reader.wait_for(LAST)
        assert reader.read() == list(range(1, LAST + 1))
        assert server[1].wait_for("finished", key=name)
        time.sleep(2.5)
        # Some ask again and again, and others take 204 as the end: ours asks by fetch what an
        # EventSource does not tell.
        most = 2 if name.endswith(("typed-handlers", "typed-script")) else 1
        assert (len(server[1].read("finished", key=name)) <= most) == (name in STOPPING)


#: The clients that take an id only from an event with data (Datastar: the page's remedy does).
NOT_ALONE = ["Datastar", "eventsource", "firefox", "polyfill", *BY_EVENT_SOURCE]


#: In Firefox, one way that reads by EventSource and one that reads by fetch show what all send.
SENDING = [
    it
    for it in RECONNECTING
    if it not in TYPED_IN_FIREFOX or it.endswith(("typed-script", "typed-fetch"))
]


@pytest.mark.parametrize(("step", "expected"), [("without", "7"), ("alone", "8")])
@pytest.mark.parametrize("name", SENDING)
def test_client_sends_the_last_id(
    name: str,
    step: str,
    expected: str,
    server: tuple[Server, Journal],
    packages: Path,
    request: pytest.FixtureRequest,
) -> None:
    """After an event without an id it is the one before, and a block may have nothing but an id."""
    if step == "alone" and name in NOT_ALONE:
        expected = "7"
    key = f"{step}-{name}"
    view = "scripted-for-datastar" if name == "Datastar" else "scripted"
    path = f"/{view}/?key={key}&script={step}"
    with reading(name, server[0].url, path, packages, request):
        found = server[1].wait_for("connect", key=key, count=2, seconds=20)
    assert [entry["last"] for entry in found[:2]] == [None, expected]
