"""``<turbo-stream>`` elements, which Turbo carries out in the page.

``<turbo-stream-source src="…">`` reads streams with an ``EventSource``, and knows only events
without a name: send and publish these without ``event``. Several actions can be joined with ``+``
and then arrive as one event.
"""

from __future__ import annotations

from typing import Literal

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

#: How ``replace()``, ``update()`` and ``refresh()`` change the page: at once, or by morphing.
Method = Literal["replace", "morph"]


def append(html: str, target: str | None = None, *, targets: str | None = None) -> SafeString:
    """Return an action that puts ``html`` at the end of the target.

    ``target`` is the id of an element, without ``#``; ``targets`` is a CSS selector in its place.
    Both are escaped, and so is ``html``, unless it is safe, as a template's text is. Elements
    of the target that have the id of a new one are removed first: an event that comes twice does
    not double them.

    Raises ``ValueError`` unless there is exactly one of ``target`` and ``targets``, and for a
    ``target`` with a ``#``. This is true of all functions of this module.
    """
    return action("append", html, target, targets=targets)


def prepend(html: str, target: str | None = None, *, targets: str | None = None) -> SafeString:
    """Return an action that puts ``html`` at the beginning of the target, as ``append()`` does."""
    return action("prepend", html, target, targets=targets)


def before(html: str, target: str | None = None, *, targets: str | None = None) -> SafeString:
    """Return an action that puts ``html`` before the target, as ``append()`` does at its end."""
    return action("before", html, target, targets=targets)


def after(html: str, target: str | None = None, *, targets: str | None = None) -> SafeString:
    """Return an action that puts ``html`` behind the target, as ``append()`` does at its end."""
    return action("after", html, target, targets=targets)


def replace(
    html: str,
    target: str | None = None,
    *,
    targets: str | None = None,
    method: Method | None = None,
) -> SafeString:
    """Return an action that replaces the target by ``html``; ``method="morph"`` keeps what is the
    same, the focus and what was typed.

    Nothing happens where there is no such target.
    """
    return action("replace", html, target, targets=targets, method=method)


def update(
    html: str,
    target: str | None = None,
    *,
    targets: str | None = None,
    method: Method | None = None,
) -> SafeString:
    """Return an action that replaces the content of the target by ``html``, as ``replace()`` does
    the target."""
    return action("update", html, target, targets=targets, method=method)


def remove(target: str | None = None, *, targets: str | None = None) -> SafeString:
    """Return an action that removes the target."""
    return action("remove", None, target, targets=targets)


def refresh(
    *,
    method: Method | None = None,
    scroll: Literal["preserve", "reset"] | None = None,
    request_id: str | None = None,
) -> SafeString:
    """Return an action that loads the page again; ``method="morph"`` changes only what differs.

    ``request_id``, the header ``X-Turbo-Request-Id`` of the request that made the change, keeps the
    page that sent it from loading again.
    """
    return _element("refresh", {"method": method, "scroll": scroll, "request-id": request_id})


def action(
    name: str,
    html: str | None,
    target: str | None = None,
    *,
    targets: str | None = None,
    method: str | None = None,
) -> SafeString:
    """Return an action of any name, such as one that the page has added to ``StreamActions``."""
    if (target is None) == (targets is None):
        raise ValueError(
            f"A turbo-stream needs target or targets, and not both, got {target!r} and {targets!r}: "
            'target="orders" for an id, targets=".order" for a CSS selector.'
        )
    if target is not None and (not target or target.startswith("#")):
        raise ValueError(
            f"target must be the id of an element, without #, got {target!r}. "
            'targets="#orders" takes a CSS selector.'
        )
    return _element(name, {"target": target, "targets": targets, "method": method}, html)


def _element(name: str, attributes: dict[str, str | None], html: str | None = None) -> SafeString:
    given = {"action": name} | {key: it for key, it in attributes.items() if it is not None}
    inside = "" if html is None else format_html("<template>{}</template>", html)
    return format_html(
        "<turbo-stream{}>{}</turbo-stream>",
        format_html_join("", ' {}="{}"', given.items()),
        inside,
    )
