"""What the generated client does beside reading: shares, pauses, waits, and fetches tickets."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from django_sse.contracts.typescript import typescript
from tests.docs.pages import ROOT, blocks
from tests.project.journal import Journal
from tests.support.npm import node
from tests.support.servers import Server
from tests.support.services import find

from .conftest import Browser
from .runners import firefox, read_in_node
from .test_table import HIDE


def _path(browser: str) -> str:
    """Return where a browser is, or skip the test."""
    if browser == "firefox":
        return firefox()
    return find("chromium", "chromium-browser", package="chromium")


@pytest.mark.parametrize("mode", ["locks", "worker"])
@pytest.mark.parametrize("browser", ["chrome", "firefox"])
def test_tabs_share_one_connection(
    browser: str, mode: str, server: tuple[Server, Journal], packages: Path
) -> None:
    key = f"{browser}-{mode}"
    [logs] = read_in_node("tabs", packages, server[0].url, browser, _path(browser), key, mode)
    assert logs == [
        ["snapshot", "one"],
        ["snapshot", "one", "two", "three", "four", "five"],
        ["snapshot", "three", "four", "five"],
    ]
    # Three tabs hold the connection one after the other, or a worker does. A tab that comes later, or
    # comes back, asks once for what it has missed.
    opened = server[1].read("connect", key=key)
    assert len(opened) <= (6 if mode == "locks" else 4), opened
    assert server[1].wait_for("disconnect", key=key, count=len(opened))


_START = """async ([address, handles, options]) => {
  const { connect } = await import("/typed.js");
  window.log = [];
  window.states = [];
  const message = (data, event) => log.push(event.id);
  const onState = (state, error) => states.push([state, error?.status, error?.body]);
  window.stream = connect(address, handles ? { message } : undefined, { ...options, onState });
}"""


def start(
    browser: Browser, address: str, options: dict[str, Any] | None = None, *, handles: bool = True
) -> None:
    """Let a page follow a stream; ``log`` has the ids of its events, ``states`` its states."""
    browser.page.goto(f"{browser.url}/blank/")
    browser.page.evaluate(_START, [address, handles, options or {}])


def wait(browser: Browser, condition: str) -> None:
    """Wait until something is true in the page."""
    browser.page.wait_for_function(condition, timeout=20_000)


@pytest.mark.parametrize("fetch", [False, True])
def test_a_hidden_tab_closes_its_stream_and_resumes_it(browser: Browser, fetch: bool) -> None:
    key = f"hidden-{fetch}"
    start(browser, f"/scripted/?key={key}&script=stays", {"fetch": fetch})
    wait(browser, "log.length === 1")
    browser.page.evaluate(HIDE, True)
    assert browser.leaves(key)
    wait(browser, "stream.state === 'paused'")
    browser.page.evaluate(HIDE, False)
    wait(browser, "log.length === 2")
    assert browser.connects(key, 2) == [("stays", None), ("stays", "1")]
    assert browser.page.evaluate("states.map(([it]) => it)") == [
        *("connecting", "open", "paused", "connecting", "open"),
    ]


@pytest.mark.parametrize("fetch", [False, True])
def test_a_refusal_that_passes_is_waited_for_and_another_is_told(
    browser: Browser, fetch: bool
) -> None:
    key = f"refused-{fetch}"
    options = {"fetch": fetch, "retry": 100}
    start(browser, f"/scripted/?key={key}&script=ends,502,ends,204", options)
    wait(browser, "stream.state === 'closed'")
    assert browser.page.evaluate("log") == ["1", "2"]
    assert browser.page.evaluate("states.at(-1)[1]") is None
    start(browser, "/ticketed/?key=none&script=stays", {"fetch": fetch})
    wait(browser, "stream.state === 'closed'")
    [_, status, body] = browser.page.evaluate("states.at(-1)")
    assert (status, list(json.loads(body))) == (401, ["detail"])


def test_the_network_is_back_before_the_pause_is_over(browser: Browser) -> None:
    start(browser, "/scripted/?key=online&script=ends,stays", {"fetch": True, "retry": 600_000})
    # The stream asks for 100 ms, and a failure doubles what there was.
    browser.page.context.set_offline(True)
    wait(browser, "stream.state === 'waiting'")
    browser.page.context.set_offline(False)
    wait(browser, "stream.state === 'open'")


def test_tickets_are_fetched_kept_and_renewed(
    browser: Browser, server: tuple[Server, Journal]
) -> None:
    options = {"ticket": "/tickets/", "headers": {"Authorization": "Bearer demo"}, "retry": 100}
    start(browser, "/ticketed/?key=ticket&script=ends,403,403,ends,stays", options)
    wait(browser, "log.length === 3")
    assert browser.connects("ticket", 5)[4] == ("stays", "2")
    # The EventSource is refused, then fetch with the same ticket, and then there is a new one.
    assert len(server[1].read("ticket", path="/ticketed/")) == 2
    # A new ticket that is refused is the end.
    start(browser, "/ticketed/?key=no&script=403,403,403", options)
    wait(browser, "stream.state === 'closed'")
    assert browser.page.evaluate("states.at(-1)[1]") == 403


def test_what_is_iterated_slowly_is_not_read_ahead(
    browser: Browser, server: tuple[Server, Journal]
) -> None:
    start(browser, "/heavy/", {"buffer": 5, "reconnect": False}, handles=False)
    browser.page.evaluate("window.events = stream[Symbol.asyncIterator](); events.next()")
    # The server waits for the page: 60 MB do not fit into the buffers between them. The kernel's
    # alone may grow to 37 MB.
    server[1].wait_for("sent", key="heavy", count=5)
    browser.page.wait_for_timeout(1500)
    sent = len(server[1].read("sent", key="heavy"))
    assert sent < 550
    numbers = browser.page.evaluate("""async () => {
      const numbers = [];
      for await (const event of { [Symbol.asyncIterator]: () => events }) numbers.push(event.data.number);
      return numbers;
    }""")
    assert numbers == list(range(1, 600))


def documented(name: str) -> str:
    """Return a file of the documentation, which names itself in its first line."""
    page = blocks(ROOT / "docs" / "typed-clients.md")
    [text] = [it.text for it in page if it.text.startswith(f"// {name}\n")]
    return text.replace("/lines/", "/scribbles/?key=react")


def say(browser: Browser, key: str, text: str) -> None:
    browser.page.evaluate(f"fetch('/scribble/?key={key}&text={text}')")


def test_the_documented_hook_of_react(browser: Browser, packages: Path, tmp_path: Path) -> None:
    """It keeps its stream while its component is rendered again, and strict TypeScript takes it."""
    (tmp_path / "node_modules").symlink_to(packages)
    (tmp_path / "streams.ts").write_text(typescript())
    for name in ("useStream.ts", "Orders.tsx"):
        (tmp_path / name).write_text(documented(name))
    (tmp_path / "main.tsx").write_text(
        """import { StrictMode } from "react";
        import { createRoot } from "react-dom/client";
        import { Orders } from "./Orders";
        createRoot(document.body).render(<StrictMode><Orders /></StrictMode>);"""
    )
    options = "--noEmit --strict --jsx react-jsx --target es2022 --module esnext"
    tsc = [node(), str(packages / "typescript/bin/tsc"), *options.split()]
    checked = subprocess.run(
        [*tsc, "--moduleResolution", "bundler", "main.tsx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert checked.stdout == ""
    bundle = "--bundle --jsx=automatic --outfile=main.js main.tsx"
    subprocess.run(
        [str(packages / "esbuild/bin/esbuild"), *bundle.split()],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=True,
    )
    browser.page.goto(f"{browser.url}/blank/")
    browser.page.add_script_tag(content=(tmp_path / "main.js").read_text())
    wait(browser, "document.querySelector('ul')?.dataset.state === 'open'")
    for text in ("one", "two"):
        say(browser, "react", text)
        wait(browser, f"document.body.innerText.includes('{text}')")
    assert browser.page.locator("li").all_inner_texts() == ["one", "two"]
    # StrictMode mounts each component twice.
    assert len(browser.requests("react")) <= 2


def test_the_documented_element(browser: Browser) -> None:
    text = documented("sse-source.js").replace("./streams.js", "/typed.js")
    browser.show(f"""<sse-source src="/scribbles/?key=element" events="line reset"></sse-source>
      <script>
        window.log = [];
        document.addEventListener("line", ({{ detail }}) => log.push(detail));
      </script><script type="module">{text}</script>""")
    wait(browser, "document.querySelector('sse-source').getAttribute('state') === 'open'")
    say(browser, "element", "one")
    wait(browser, "log.length === 1")
    browser.page.evaluate("document.querySelector('sse-source').remove()")
    assert browser.leaves("element")
