"""The events of Datastar's protocol, version 1.0, for ``send()`` and ``publish()``.

The texts are those of ``datastar-py``, which makes them where it is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

from django.core.serializers.json import DjangoJSONEncoder
from django.utils.html import conditional_escape

from django_sse.wire.events import EventDecoder, ServerSentEvent

generator: Any
try:
    from datastar_py.sse import ServerSentEventGenerator
except ImportError:
    generator = None
else:
    generator = ServerSentEventGenerator

#: How elements are put into the page. ``outer`` and ``inner`` morph.
Mode = Literal["outer", "inner", "replace", "prepend", "append", "before", "after", "remove"]
Namespace = Literal["svg", "mathml"]


def patch_elements(
    html: str,
    selector: str | None = None,
    mode: Mode = "outer",
    *,
    use_view_transition: bool = False,
    namespace: Namespace | None = None,
) -> ServerSentEvent:
    """Return an event that puts HTML into the page.

    ``selector`` is a CSS selector. Without one, each element replaces the one of its own id, by
    morphing. ``html`` is escaped unless it is safe, as a template's text is. Line ends become LF.

    Raises ``ValueError`` for an unknown ``mode`` or ``namespace``, a ``selector`` with a line end,
    a ``mode`` that needs a selector and has none, and empty HTML.
    """
    if namespace is not None and namespace not in get_args(Namespace):
        raise ValueError(f"namespace must be 'svg', 'mathml' or None, got {namespace!r}.")
    text = str(conditional_escape(html))
    if not text.strip():
        raise ValueError("patch_elements() needs HTML. Use remove_elements() to remove elements.")
    return _elements(text, selector, mode, use_view_transition, namespace)


def remove_elements(selector: str, *, use_view_transition: bool = False) -> ServerSentEvent:
    """Return an event that removes the elements that the CSS selector finds.

    Raises ``ValueError`` for a selector that is empty or has a line end.
    """
    return _elements(None, selector, "remove", use_view_transition, None)


def patch_signals(signals: Mapping[str, Any], *, only_if_missing: bool = False) -> ServerSentEvent:
    """Return an event that sets signals of the page; ``None`` removes one.

    Values are those of JSON, and what Django's ``DjangoJSONEncoder`` knows: dates, ``Decimal``,
    ``UUID``, lazy translations. ``only_if_missing`` leaves signals alone that the page has.

    Raises ``TypeError`` for a value of another type, and for ``signals`` that are no mapping.
    """
    if not isinstance(signals, Mapping):
        raise TypeError(f'signals must be a dict, as in {{"count": 1}}, got {signals!r}.')
    text = json.dumps(dict(signals), cls=DjangoJSONEncoder, separators=(",", ":"))
    if generator is not None:
        return from_datastar(generator.patch_signals(text, only_if_missing=only_if_missing or None))
    lines = ["onlyIfMissing true"] if only_if_missing else []
    return _event("datastar-patch-signals", [*lines, f"signals {text}"])


def from_datastar(event: str) -> ServerSentEvent:
    """Return what ``datastar-py``'s generator has made as an event that streams can send.

    ``send(from_datastar(ServerSentEventGenerator.execute_script("…")))`` sends one that this module
    has no function for. Raises ``ValueError`` for text that is not exactly one event.
    """
    events = EventDecoder().feed(event.encode())
    if len(events) != 1:
        raise ValueError(
            f"from_datastar() takes one event of datastar-py's generator, got {event[:80]!r}."
        )
    return events[0]


def _elements(
    text: str | None,
    selector: str | None,
    mode: Mode,
    use_view_transition: bool,
    namespace: Namespace | None,
) -> ServerSentEvent:
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}.")
    if selector is None:
        if mode not in ("outer", "replace"):
            raise ValueError(f'mode={mode!r} needs a selector, as in selector="#orders".')
    elif not selector.strip() or len(selector.splitlines()) != 1:
        # Another line would be read as another field of the event.
        raise ValueError(f"selector must be a CSS selector in one line, got {selector!r}.")
    if generator is not None:
        arguments: dict[str, Any] = {
            "mode": mode,
            "selector": selector,
            "use_view_transition": use_view_transition or None,
        }
        # Releases before 1.0 do not know it.
        arguments |= {} if namespace is None else {"namespace": namespace}
        return from_datastar(generator.patch_elements(text, **arguments))
    lines = [] if mode == "outer" else [f"mode {mode}"]
    lines += [] if selector is None else [f"selector {selector}"]
    lines += ["useViewTransition true"] if use_view_transition else []
    lines += [] if namespace is None else [f"namespace {namespace}"]
    lines += [] if text is None else [f"elements {line}" for line in text.splitlines()]
    return _event("datastar-patch-elements", lines)


def _event(name: str, lines: list[str]) -> ServerSentEvent:
    return ServerSentEvent("\n".join(lines), event=name)
