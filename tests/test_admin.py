"""The page "Open streams", as far as no other process is needed for it."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.test import Client, override_settings
from django.urls import clear_url_caches

from django_sse import admin

PAGE = "/admin/django_sse/openstream/"


@pytest.fixture(autouse=True)
def urls() -> Any:
    with override_settings(ROOT_URLCONF="tests.integration.monitoring.urls"):
        clear_url_caches()
        yield
    clear_url_caches()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("named", "ended"), [({}, []), ({"stream": ""}, []), ({"stream": "x"}, ["x"])]
)
def test_admin_ends_what_is_named_and_returns_to_the_search(
    monkeypatch: pytest.MonkeyPatch, named: dict[str, str], ended: list[str]
) -> None:
    streams: list[str] = []
    monkeypatch.setattr(admin, "close_streams", lambda *, stream: streams.append(stream))
    browser = Client()
    browser.force_login(User.objects.create_superuser("root", password="secret"))
    response = browser.post(f"{PAGE}end/", {**named, "q": "a b"})
    assert response["Location"] == f"{PAGE}?q=a+b"
    assert streams == ended
    assert len(list(get_messages(response.wsgi_request))) == len(ended)


def test_open_stream_is_called_what_it_stands_for() -> None:
    assert str(admin.OpenStream()) == admin.OpenStream._meta.verbose_name == "open stream"
