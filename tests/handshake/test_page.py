"""Who gets the page of a stream, who its events, and what the page is made of."""

from __future__ import annotations

import gettext
import re
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from rest_framework.exceptions import NotFound
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import BrowsableAPIRenderer

import django_sse
from django_sse import SSEView
from django_sse.handshake.attributes import check_attributes
from django_sse.testing import connect
from django_sse.testing.client import StreamClient

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
PAGE, STREAM, REFUSAL = "text/html; charset=utf-8", "text/event-stream", "application/json"
ENDED: list[str | None] = []


class Once(SSEView):
    authentication_classes = []
    permission_classes = []

    async def stream(self) -> None:
        await self.send("sent")

    async def disconnect(self) -> None:
        ENDED.append(self.close_reason)


class Projects(BrowsableAPIRenderer):
    """A project's own pages."""


WITHOUT_PAGES = {"DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"]}
WITH_ITS_OWN = {"DEFAULT_RENDERER_CLASSES": [f"{__name__}.Projects"]}
NO_TEMPLATES: list[Any] = []


@pytest.mark.parametrize(
    ("accept", "query", "browsable", "settings", "expected"),
    [
        (BROWSER, "", None, {}, PAGE),
        ("text/html", "", None, {}, PAGE),
        (BROWSER, "?room=7", None, {}, PAGE),
        ("*/*", "?format=api", None, {}, PAGE),
        (BROWSER, "", None, {"REST_FRAMEWORK": WITH_ITS_OWN}, PAGE),
        (BROWSER, "", True, {"REST_FRAMEWORK": WITHOUT_PAGES}, PAGE),
        # Programs get the stream.
        (None, "", None, {}, STREAM),
        ("*/*", "", None, {}, STREAM),
        ("text/event-stream", "", None, {}, STREAM),
        ("text/event-stream, text/html", "", None, {}, STREAM),
        (BROWSER, "?format=event-stream", None, {}, STREAM),
        # So does a browser, where there are no pages.
        (BROWSER, "", False, {}, STREAM),
        (BROWSER, "", None, {"REST_FRAMEWORK": WITHOUT_PAGES}, STREAM),
        (BROWSER, "", None, {"TEMPLATES": NO_TEMPLATES}, STREAM),
        ("text/html", "", False, {}, REFUSAL),
        ("text/html", "", None, {"REST_FRAMEWORK": WITHOUT_PAGES}, REFUSAL),
        ("application/json", "", None, {}, REFUSAL),
    ],
)
async def test_browser_gets_the_page_and_programs_the_stream(
    accept: str | None,
    query: str,
    browsable: bool | None,
    settings: dict[str, Any],
    expected: str,
) -> None:
    headers = {} if accept is None else {"Accept": accept}
    with override_settings(**settings):
        view = Once.as_view(browsable=browsable)
        async with connect(view, f"/{query}", headers=headers) as stream:
            assert stream.headers["content-type"] == expected
            assert stream.status_code == (406 if expected == REFUSAL else 200)
            body = (await stream.read()).decode()
            assert ("<html" in body) == (expected == PAGE)
            assert ("data: sent" in body) == (expected == STREAM)


async def _page(view: Any, path: str = "/", **options: Any) -> tuple[StreamClient, str]:
    async with connect(view, path, headers={"Accept": BROWSER}, **options) as answer:
        return answer, (await answer.read()).decode()


async def test_page_is_no_stream_and_is_not_stored() -> None:
    before, ended = django_sse.stats(), len(ENDED)
    answer, _ = await _page(Once)
    assert answer.headers["cache-control"] == "no-store"
    assert "Accept" in answer.headers["vary"]
    assert ENDED[ended:] == ["completed"]
    after = django_sse.stats()
    assert (after["opened"], after["open"]) == (before["opened"], before["open"])


async def test_page_of_a_limited_view_takes_no_place() -> None:
    with override_settings(DJANGO_SSE={"MAX_CONNECTIONS_PER_ADDRESS": 1}):

        class Open(Once):
            topics = ["limited"]

            async def stream(self) -> None:
                await self.follow()

        async with connect(Open) as stream:
            assert stream.status_code == 200
            answer, _ = await _page(Open)
            assert answer.status_code == 200


@pytest.mark.parametrize("browsable", [True, False])
async def test_refusals_are_pages_too(browsable: bool) -> None:
    class Hidden(Once):
        async def connect(self) -> None:
            raise NotFound("There is no such room.")

    hidden = Hidden.as_view(browsable=browsable)
    members = Once.as_view(permission_classes=[IsAuthenticated], browsable=browsable)
    kind = PAGE if browsable else REFUSAL
    ended = len(ENDED)
    for view, status, text in (
        (hidden, 404, "There is no such room."),
        (members, 403, "You do not have permission to perform this action."),
    ):
        answer, body = await _page(view)
        assert (answer.status_code, answer.headers["content-type"]) == (status, kind)
        assert text in body
    assert ENDED[ended:] == []


async def test_page_of_a_post_does_not_run_connect() -> None:
    class Post(SSEView):
        authentication_classes = []
        permission_classes = []
        http_method_names = ["post"]

        @property
        def topics(self) -> list[str]:
            return [self.connected_to]  # Known once connect() has run.

        async def connect(self) -> None:
            raise AssertionError

    answer, body = await _page(Post)
    assert answer.status_code == 200
    assert '<textarea id="body"' in body
    assert 'id="fields"' not in body
    # A GET that is no browser's is as wrong as before.
    async with connect(Post) as stream:
        assert stream.status_code == 405


async def test_page_says_what_the_view_is() -> None:
    class Described(SSEView):
        """Changes & more."""

        authentication_classes = []
        permission_classes = [IsAuthenticated]
        topics = ["orders", "<b>"]
        events = {"created": dict, None: str, "end": None}
        heartbeat = None
        retry = 1500
        recheck_period = 5
        max_duration = 60
        max_connections_per_user = 3
        rewind = 4
        overflow = "latest"

    class User:
        is_authenticated = True

    _, body = await _page(Described, "/described/?a=1&format=api", user=User())
    facts = re.findall(r"<dt>(.*?)</dt>(.*?)</div>", body)
    assert {label: re.findall("<dd.*?>(.*?)</dd>", values) for label, values in facts} == {
        "Topics": ["orders", "&lt;b&gt;"],
        "Events": ["created: dict", "without a name: str", "end: no data"],
        "Heartbeat": ["off"],
        "Reconnection time": ["1500 ms"],
        "Slow clients": ["overflow = &#x27;latest&#x27;"],
        "Newest events at the start": ["4"],
        "Authentication": ["none"],
        "Permissions": ["IsAuthenticated"],
        "Throttles": ["none"],
        "User checked again": ["every 5 seconds"],
        "Longest duration": ["60 seconds"],
        "Streams of one user": ["3"],
        "Events seen": ["–"],
    }
    assert "Changes &amp; more." in body
    assert '"url": "/described/?a=1"' in body
    assert not re.search(r"<script(?![^>]*(src=|application/json))|style=|\son\w+=", body)


def test_browsable_is_checked() -> None:
    with pytest.raises(ImproperlyConfigured, match="must be True, False or None, got 'yes'"):
        check_attributes("Orders", {"browsable": "yes"})


def test_translations_are_compiled_and_complete() -> None:
    directory = Path(django_sse.__file__).parent / "locale/de/LC_MESSAGES"
    source = (directory / "django.po").read_text()
    pairs = re.findall(r'^msgid "(.+)"\nmsgstr "(.*)"$', source, flags=re.MULTILINE)
    with (directory / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    assert {key: compiled.gettext(key) for key, _ in pairs} == dict(pairs)
    assert all(text for _, text in pairs)
    # What the page says is translated.
    root = Path(django_sse.__file__).parent
    page = (root / "templates/django_sse/stream.html").read_text()
    texts = re.findall(r'{% translate "(.*?)" %}', page)
    texts += re.findall(r'\b_\(\s*"(.*?)"\s*\)', (root / "handshake/page.py").read_text())
    assert [it for it in texts if it not in dict(pairs)] == []
