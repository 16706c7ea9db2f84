"""``sse_path()``."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from rest_framework.views import APIView

from django_sse import SSEView, sse_path


class Quiet(SSEView):
    async def stream(self) -> None:
        pass


@pytest.mark.parametrize("view", [Quiet, Quiet.as_view(retry=5)])
def test_sse_path_routes_a_stream(view: Any) -> None:
    pattern = sse_path("a/<int:number>/", view, {"extra": 1}, name="quiet")
    match = pattern.resolve("a/5/")
    assert match is not None
    assert (match.url_name, match.kwargs) == ("quiet", {"number": 5, "extra": 1})
    assert getattr(match.func, "cls", None) is Quiet


@pytest.mark.parametrize(
    "view", [APIView, APIView.as_view(), Quiet(), lambda request: None, "tests.Quiet", None]
)
def test_sse_path_refuses_what_is_no_stream(view: Any) -> None:
    message = r"sse_path\('a/', …\) takes a subclass of SSEView.*Use django\.urls\.path\(\)"
    with pytest.raises(ImproperlyConfigured, match=message):
        sse_path("a/", view)
