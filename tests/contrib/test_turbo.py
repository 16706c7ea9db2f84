"""Turbo's actions as text; pages in a browser are in ``tests/integration/html``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils.safestring import SafeString, mark_safe

from django_sse.contrib import turbo

HTML = mark_safe("<b>1</b>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            turbo.append(HTML, "orders"),
            'action="append" target="orders"><template><b>1</b></template>',
        ),
        (
            turbo.prepend("<b>", "orders"),
            'action="prepend" target="orders"><template>&lt;b&gt;</template>',
        ),
        (
            turbo.before(HTML, targets=".a > .b"),
            'action="before" targets=".a &gt; .b"><template><b>1</b></template>',
        ),
        (
            turbo.after(HTML, 'a"b'),
            'action="after" target="a&quot;b"><template><b>1</b></template>',
        ),
        (
            turbo.replace(HTML, "a", method="morph"),
            'action="replace" target="a" method="morph"><template><b>1</b></template>',
        ),
        (
            turbo.update("", "a"),
            'action="update" target="a"><template></template>',
        ),
        (turbo.remove("a"), 'action="remove" target="a">'),
        (turbo.remove(targets="#a"), 'action="remove" targets="#a">'),
        (turbo.refresh(), 'action="refresh">'),
        (
            turbo.refresh(method="morph", scroll="preserve", request_id="1<"),
            'action="refresh" method="morph" scroll="preserve" request-id="1&lt;">',
        ),
        (
            turbo.action("highlight", HTML, "a"),
            'action="highlight" target="a"><template><b>1</b></template>',
        ),
    ],
)
def test_action_is_an_element(text: str, expected: str) -> None:
    assert text == f"<turbo-stream {expected}</turbo-stream>"
    assert isinstance(text, SafeString)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: turbo.append(HTML), "needs target or targets"),
        (lambda: turbo.remove("a", targets="#a"), "and not both"),
        (lambda: turbo.remove("#a"), r'targets="#orders" takes a CSS selector'),
        (lambda: turbo.remove(""), "must be the id of an element"),
    ],
)
def test_action_needs_one_target(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
