"""The events of Datastar's protocol, with datastar-py and without."""

from __future__ import annotations

import datetime
import importlib
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from datastar_py import ServerSentEventGenerator
from django.utils.safestring import mark_safe

from django_sse import ServerSentEvent
from django_sse.contrib import datastar
from django_sse.contrib.datastar import (
    from_datastar,
    patch_elements,
    patch_signals,
    remove_elements,
)

HTML = mark_safe("<tr id=a>\n<td>ü\u2028</td>\r\n</tr>\n")

EVENTS: dict[str, tuple[Callable[[], ServerSentEvent], str, str]] = {
    "elements": (
        lambda: patch_elements(HTML),
        "elements",
        "elements <tr id=a>\nelements <td>ü\nelements </td>\nelements </tr>",
    ),
    "all": (
        lambda: patch_elements(
            mark_safe("<g/>"), "#a > b", "append", use_view_transition=True, namespace="svg"
        ),
        "elements",
        "mode append\nselector #a > b\nuseViewTransition true\nnamespace svg\nelements <g/>",
    ),
    "escaped": (
        lambda: patch_elements("<script>", "#a", "inner"),
        "elements",
        "mode inner\nselector #a\nelements &lt;script&gt;",
    ),
    "removed": (
        lambda: remove_elements("#a", use_view_transition=True),
        "elements",
        "mode remove\nselector #a\nuseViewTransition true",
    ),
    "signals": (
        lambda: patch_signals(
            {"a": {"b": None}, "c": "ü\n", "d": datetime.date(2026, 5, 1), "e": Decimal("1.10")}
        ),
        "signals",
        'signals {"a":{"b":null},"c":"\\u00fc\\n","d":"2026-05-01","e":"1.10"}',
    ),
    "missing": (
        lambda: patch_signals({"a": 1}, only_if_missing=True),
        "signals",
        'onlyIfMissing true\nsignals {"a":1}',
    ),
}


@pytest.fixture(params=["with datastar-py", "without"])
def _generator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setattr(datastar, "generator", None)
    else:
        assert datastar.generator is ServerSentEventGenerator


@pytest.mark.usefixtures("_generator")
@pytest.mark.parametrize("name", EVENTS)
def test_text_is_the_same_with_and_without_datastar_py(name: str) -> None:
    make, kind, expected = EVENTS[name]
    assert make() == ServerSentEvent(expected, event=f"datastar-patch-{kind}")


@pytest.mark.usefixtures("_generator")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patch_elements("<b>", "#a", "below"), "mode must be one of outer, .*'below'"),  # type: ignore[arg-type]
        (lambda: patch_elements("<b>", mode="append"), r'needs a selector, as in selector="#'),
        (lambda: patch_elements("<b>", "a\nelements <script>"), "in one line"),
        (lambda: patch_elements("<b>", " "), "must be a CSS selector"),
        (lambda: patch_elements(" ", "#a"), r"Use remove_elements\(\)"),
        (lambda: patch_elements("<b>", namespace="html"), "namespace must be"),  # type: ignore[arg-type]
        (lambda: remove_elements(""), "must be a CSS selector"),
    ],
)
def test_wrong_arguments_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_signals_must_be_a_mapping() -> None:
    with pytest.raises(TypeError, match="signals must be a dict"):
        patch_signals("{}")  # type: ignore[arg-type]


def test_event_of_datastar_py_can_be_sent() -> None:
    made = ServerSentEventGenerator.execute_script("a()\nb()", event_id="7", retry_duration=5)
    event = from_datastar(made)
    assert (event.event, event.id, event.retry) == ("datastar-patch-elements", "7", 5)
    assert 'elements <script data-effect="el.remove()">a()' in event.data
    for wrong in ("", made + made):
        with pytest.raises(ValueError, match="takes one event"):
            from_datastar(wrong)


@pytest.fixture
def _missing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "datastar_py.sse", None)
        importlib.reload(datastar)
        yield
    importlib.reload(datastar)


@pytest.mark.usefixtures("_missing")
def test_datastar_py_need_not_be_installed() -> None:
    assert datastar.generator is None
    assert datastar.remove_elements("#a").data == "mode remove\nselector #a"
