"""The page "Open streams", under WSGI by Django's test client, and on a real ASGI server."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.test import Client as Browser
from django.test import override_settings
from django.urls import clear_url_caches

from django_sse import admin
from tests.support.http_client import Client
from tests.support.redis_server import RedisServer
from tests.support.servers import Server

PAGE = "/admin/django_sse/openstream/"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def urls() -> Any:
    with override_settings(ROOT_URLCONF="tests.integration.monitoring.urls"):
        clear_url_caches()
        yield
    clear_url_caches()


@pytest.fixture
def root() -> User:
    return User.objects.create_superuser("root", password="secret")


@pytest.fixture
def browser(root: User) -> Browser:
    browser = Browser(enforce_csrf_checks=True)
    browser.force_login(root)
    return browser


def _token(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert found is not None
    return found[1]


def test_admin_needs_neither_table_nor_migration(browser: Browser) -> None:
    assert apps.get_app_config("django_sse").models == {}
    assert not ContentType.objects.filter(app_label="django_sse").exists()
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
    index = browser.get("/admin/").content.decode()
    assert f'href="{PAGE}"' in index
    assert "Server-Sent Events" in index
    assert f'href="{PAGE}add/"' not in index
    assert browser.get("/admin/django_sse/").status_code == 200


def test_admin_lists_streams_of_all_processes_and_ends_one(
    serve: Callable[..., Server],
    redis_server: RedisServer,
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admin, "WAIT_SECONDS", 0.5)
    page = browser.get(PAGE).content.decode()
    assert "No process answered" in page
    topic = "shop:<b>1</b>"
    daphne, uvicorn = serve("daphne"), serve("uvicorn")
    with Client(daphne.address) as first, Client(uvicorn.address) as second:
        first.request("/numbers/?topics=shop:%3Cb%3E1%3C/b%3E,second")
        assert first.event().data == "everything so far"
        second.request("/numbers/?topics=other")
        assert second.event().data == "everything so far"

        page = browser.get(PAGE).content.decode()
        assert "2 open in 2 processes" in page
        assert topic not in page
        assert topic in unescape(page)
        assert "127.0.0.1" in page
        assert "/numbers/" in page
        found = browser.get(PAGE, {"q": "<B>1"}).content.decode()
        assert "1 found" in found
        assert re.search(r">Server-Sent Events</a>\s+&rsaquo; Open streams", found)
        [stream] = re.findall(r'name="stream" value="([^"]+)"', found)

        # Only by a POST with the page's token.
        assert browser.get(f"{PAGE}end/").status_code == 405
        assert browser.post(f"{PAGE}end/", {"stream": stream}).status_code == 403
        fields = {"stream": stream, "q": "<B>1", "csrfmiddlewaretoken": _token(found)}
        answer = browser.post(f"{PAGE}end/", fields)
        assert (answer.status_code, answer["Location"]) == (302, f"{PAGE}?q=%3CB%3E1")
        assert b"event: revoked" in first.body()
        assert "is being ended" in browser.get(answer["Location"]).content.decode()
        # The stream's process cleans up after the last byte, while the page waits 0.5 s for both.
        for _ in range(20):
            page = browser.get(answer["Location"]).content.decode()
            if "1 open in 2 processes" in page:
                break
        assert "1 open in 2 processes" in page
        assert "No stream matches" in page

        redis_server.kill()
        page = browser.get(PAGE).content.decode()
        assert "The broker is away" in page
        fields = {"stream": stream, "csrfmiddlewaretoken": _token(found)}
        answer = browser.post(f"{PAGE}end/", fields, follow=True)
        assert "the stream was not ended" in answer.content.decode()


def test_admin_is_closed_to_whom_it_is_not_opened() -> None:
    def status(browser: Browser, address: str = PAGE) -> tuple[int, int]:
        return browser.get(PAGE).status_code, browser.post(f"{PAGE}end/").status_code

    # To nobody, and to users without a place in the admin, the login page.
    assert status(Browser()) == (302, 302)
    staff = User.objects.create_user("staff", password="secret", is_staff=True)
    browser = Browser()
    browser.force_login(staff)
    assert status(browser) == (403, 403)
    assert PAGE not in browser.get("/admin/").content.decode()
    # An authentication backend may let some see, and not end.
    with override_settings(
        AUTHENTICATION_BACKENDS=["tests.integration.monitoring.test_admin.Looking"]
    ):
        browser.force_login(staff)
        assert status(browser) == (200, 403)
        assert PAGE in browser.get("/admin/").content.decode()


class Looking:
    """An authentication backend that gives one permission."""

    def get_user(self, key: Any) -> User | None:
        return User.objects.filter(pk=key).first()

    def has_perm(self, user: User, permission: str, obj: Any = None) -> bool:
        return permission == "django_sse.view_openstream"


def test_admin_shows_at_most_so_many(
    browser: Browser, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DJANGO_SSE = {}
    stream = {
        "view": "shop.streams.Orders",
        "path": "/orders/",
        "user": "1",
        "user_name": "<i>Ada</i>",
        "address": "192.0.2.1",
        "topics": [],
        "sent": 2048,
        "buffered": 0,
        "last_id": None,
    }
    streams = [stream | {"id": f"node:1:{age}", "age": float(age)} for age in range(1, 6)]
    report = {"process": "node:1", "id": "1", "stats": {"open": 9}, "streams": streams}
    monkeypatch.setattr(admin, "reports", lambda **options: [report])
    monkeypatch.setattr(admin, "MAX_SHOWN", 3)
    page = browser.get(PAGE).content.decode()
    assert "The MemoryBroker belongs to one process" in page
    assert "4 more are open than were told" in page
    assert "The 3 oldest of 5 are shown" in page
    assert re.findall(r"<td>(0:00:0\d)</td>", page) == ["0:00:05", "0:00:04", "0:00:03"]
    assert "&lt;i&gt;Ada&lt;/i&gt;" in page


def test_admin_works_on_a_server(serve: Callable[..., Server]) -> None:
    server = serve("uvicorn")
    opener = build_opener(ProxyHandler({}), HTTPCookieProcessor())

    def ask(path: str, **fields: str) -> str:
        data = urlencode(fields).encode() if fields else None
        with opener.open(f"{server.url}{path}", data, timeout=10) as answer:
            return str(answer.read().decode())

    login = ask("/admin/login/")
    user = {"username": "demo", "password": "demo", "next": PAGE}
    page = ask("/admin/login/", csrfmiddlewaretoken=_token(login), **user)
    assert "No process answered" in page
    with Client(server.address) as client:
        client.request("/numbers/?topics=a")
        assert client.event().data == "everything so far"
        page = ask(PAGE)
        assert "1 open in 1 process" in page
        [stream] = re.findall(r'name="stream" value="([^"]+)"', page)
        page = ask(f"{PAGE}end/", csrfmiddlewaretoken=_token(page), stream=stream)
        assert "is being ended" in page
        assert "No stream is open" in page
        assert b"event: revoked" in client.body()
