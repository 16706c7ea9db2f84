"""What is left of a request once its stream has begun."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils.safestring import mark_safe

from django_sse import SSEView
from django_sse.handshake import request as module
from django_sse.testing import connect

BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0",
    "Accept-Language": "de",
    "Cookie": "theme=dark",
    "X-Own": "a value",
}
NAMES = ["HTTP_USER_AGENT", "HTTP_ACCEPT_LANGUAGE", "HTTP_COOKIE", "HTTP_X_OWN"]
opened: list[Any] = []


class Follower(SSEView):
    """Keeps its requests."""

    authentication_classes: Any = []

    async def stream(self) -> None:
        opened.append(self.request)
        await self.send("begun")


async def metas(*headers: dict[str, str]) -> list[dict[str, Any]]:
    """Open a stream with each of the headers, and return its META."""
    opened.clear()
    for each in headers:
        async with connect(Follower, headers=each) as stream:
            await stream.receive()
    return [request.META for request in opened]


async def test_streams_share_the_strings_of_the_headers_that_browsers_send() -> None:
    one, other = await metas(BROWSER, BROWSER)
    assert [one[name] for name in NAMES] == list(BROWSER.values())
    assert one == other
    keys, theirs = ({name: name for name in meta} for meta in (one, other))
    assert [name for name in NAMES if keys[name] is theirs[name]] == NAMES[:3]
    assert [name for name in NAMES if one[name] is other[name]] == NAMES[:2]


async def test_clients_that_send_any_values_take_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_values", {})
    monkeypatch.setattr(module, "MOST_VALUES", 3)
    long = "x" * (module.LONGEST_VALUE + 1)
    agents = [long, *(f"agent {number}" for number in range(5)), "agent 0", long]
    found = await metas(*({"User-Agent": agent} for agent in agents))
    assert [meta["HTTP_USER_AGENT"] for meta in found] == agents
    assert len(module._values) == 3
    assert long not in module._values
    assert found[1]["HTTP_USER_AGENT"] is found[6]["HTTP_USER_AGENT"]


def test_values_that_a_middleware_has_put_there_stay_and_are_not_shared() -> None:
    given = {"HTTP_USER_AGENT": mark_safe("<b>"), "HTTP_ACCEPT": None}
    kept = dict(module._shared(given))
    assert kept["HTTP_USER_AGENT"] is given["HTTP_USER_AGENT"]
    assert kept["HTTP_ACCEPT"] is None
    assert type(dict(module._shared({"HTTP_USER_AGENT": "<b>"}))["HTTP_USER_AGENT"]) is str
