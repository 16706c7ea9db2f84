"""What htmx is told to swap; pages in a browser are in ``tests/integration/html``."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils.safestring import SafeString, mark_safe

from django_sse.contrib.htmx import delete, oob

ROW = mark_safe('<tr id="order-7"><td>Cup</td></tr>')


@pytest.mark.parametrize(
    ("html", "arguments", "expected"),
    [
        (ROW, {}, '<tr hx-swap-oob="outerHTML" id="order-7"><td>Cup</td></tr>'),
        (
            mark_safe("\n <!-- <b> -->\n<br/>"),
            {"target": "#a"},
            '\n <!-- <b> -->\n<br hx-swap-oob="outerHTML:#a"/>',
        ),
        (
            mark_safe("<b>x</b>"),
            {"target": '#a > [title="<"]', "swap": "outerMorph"},
            '<b hx-swap-oob="outerMorph:#a &gt; [title=&quot;&lt;&quot;]">x</b>',
        ),
        (
            ROW,
            {"target": "#orders", "swap": "beforeend"},
            f'<tbody hx-swap-oob="beforeend:#orders">{ROW}</tbody>',
        ),
        (
            mark_safe("<TD>1</TD><td>2</td>"),
            {"target": "#row", "swap": "afterbegin"},
            '<tr hx-swap-oob="afterbegin:#row"><TD>1</TD><td>2</td></tr>',
        ),
        (
            mark_safe("<track>"),
            {"target": "#a", "swap": "innerHTML"},
            '<div hx-swap-oob="innerHTML:#a"><track></div>',
        ),
        (
            "<script>",
            {"target": "#a", "swap": "innerHTML"},
            '<div hx-swap-oob="innerHTML:#a">&lt;script&gt;</div>',
        ),
    ],
)
def test_oob_says_where_html_goes(html: Any, arguments: Any, expected: str) -> None:
    text = oob(html, **arguments)
    assert text == expected
    assert isinstance(text, SafeString)


def test_delete_removes_what_a_selector_finds() -> None:
    text = delete("#order-7 + tr") + oob(ROW, "#orders", "beforeend")
    assert text.startswith('<template hx-swap-oob="delete:#order-7 + tr"></template><tbody ')
    assert isinstance(text, SafeString)


@pytest.mark.parametrize(
    ("html", "arguments", "message"),
    [
        (ROW, {"swap": "append"}, "swap must be one of outerHTML, .*, got 'append'"),
        (ROW, {"swap": "beforeend"}, r"needs a target, as in target=\"#orders\""),
        (ROW, {"target": " "}, "must be a CSS selector"),
        (ROW, {"target": "tr:first-child"}, "Give the element an id"),
        ('<tr id="order-7">', {"target": "#a"}, r"got '&lt;tr .*mark_safe\(\)"),
        (mark_safe("text <b>"), {}, "must begin with the element"),
    ],
)
def test_oob_refuses_what_htmx_could_not_swap(html: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oob(html, **arguments)


def test_delete_refuses_a_wrong_target() -> None:
    with pytest.raises(ValueError, match="colon"):
        delete("tr:first-child")
