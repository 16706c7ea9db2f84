"""HTML that htmx swaps into the page wherever it says, without an event name for each place.

An event without a name suits both versions: htmx 2 swaps it at ``sse-swap="message"``, and htmx 4 at
``hx-sse:connect``. With ``hx-swap="none"`` there, only what ``oob()`` and ``delete()`` return is
swapped.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString, mark_safe

#: How HTML is put into the page. ``outerMorph`` and ``innerMorph`` are known to htmx 4 alone.
Swap = Literal[
    "outerHTML",
    "innerHTML",
    "beforebegin",
    "afterbegin",
    "beforeend",
    "afterend",
    "outerMorph",
    "innerMorph",
]

# The first tag, behind white space and comments.
_FIRST = re.compile(r"(?:\s|<!--.*?-->)*<(?P<name>[a-zA-Z][^\s/>]*)", re.DOTALL)

#: An HTML parser drops parts of a table that do not stand where they belong.
_AROUND = {
    "caption": "table",
    "col": "colgroup",
    "colgroup": "table",
    "tbody": "table",
    "td": "tr",
    "tfoot": "table",
    "th": "tr",
    "thead": "table",
    "tr": "tbody",
}


def oob(html: str, target: str | None = None, swap: Swap = "outerHTML") -> SafeString:
    """Return HTML that htmx swaps at ``target``, an "out-of-band" swap, wherever it was received.

    ``target`` is a CSS selector. Without one, the element that has the same id is replaced. For
    ``outerHTML`` and ``outerMorph``, ``html`` must begin with an element, which replaces the
    target; the others swap all of ``html``. Several results can be joined with ``+``.

    ``html`` is escaped unless it is safe, as a template's text is. ``target`` is escaped.

    Raises ``ValueError`` for an unknown ``swap``, a ``target`` that is missing, or that has a colon,
    and HTML without an element where one is replaced.
    """
    if swap not in get_args(Swap):
        raise ValueError(f"swap must be one of {', '.join(get_args(Swap))}, got {swap!r}.")
    text = conditional_escape(html)
    first = _FIRST.match(text)
    if not swap.startswith("outer"):
        if target is None:
            raise ValueError(f'swap={swap!r} needs a target, as in target="#orders".')
        tag = _AROUND.get(first["name"].lower(), "div") if first else "div"
        return format_html('<{} hx-swap-oob="{}">{}</{}>', tag, _where(swap, target), text, tag)
    if first is None:
        raise ValueError(
            f"With swap={swap!r}, html must begin with the element that replaces the target, got "
            f"{text[:80]!r}. Text that is not safe is escaped: render it with a template, or use "
            "mark_safe()."
        )
    attribute = format_html(' hx-swap-oob="{}"', _where(swap, target))
    return mark_safe(text[: first.end()] + attribute + text[first.end() :])  # noqa: S308


def delete(target: str) -> SafeString:
    """Return HTML with which htmx removes the elements that the CSS selector ``target`` finds.

    Nothing happens where there are none. Raises ``ValueError`` for a target with a colon.
    """
    return format_html('<template hx-swap-oob="{}"></template>', _where("delete", target))


def _where(swap: str, target: str | None) -> str:
    if target is None:
        return swap
    if not target.strip():
        raise ValueError(f'target must be a CSS selector, as in "#orders", got {target!r}.')
    if ":" in target:
        raise ValueError(
            f"target must not contain a colon, which htmx 4 takes for the end of the swap, got "
            f"{target!r}. Give the element an id, and use that."
        )
    return f"{swap}:{target}"
