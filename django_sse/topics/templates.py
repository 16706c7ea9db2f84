"""``publish_template()``: publish the text of a template, rendered once for all clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from django.template.exceptions import TemplateDoesNotExist
from django.template.loader import render_to_string
from django.template.utils import InvalidTemplateEngineError
from django.utils.asyncio import async_unsafe
from django.utils.safestring import SafeString, mark_safe
from rest_framework.request import Request

from django_sse.wire.events import ServerSentEvent

from .publishing import apublish, publish

#: The name of a template, or several, of which the first that exists is rendered.
Template = str | Sequence[str]
#: Turns a template's HTML into the text that is sent, as ``contrib.htmx``, ``turbo`` and
#: ``datastar`` do.
Wrap = Callable[[SafeString], str | ServerSentEvent]


def render(
    template: Template,
    context: Mapping[str, Any] | None,
    request: HttpRequest | None = None,
    using: str | None = None,
    wrap: Wrap | None = None,
) -> str | ServerSentEvent:
    """Return a template's text, as ``wrap`` makes it; blocks, and so belongs in a thread."""
    names = template if isinstance(template, str) else list(template)
    given = None if context is None else dict(context)
    try:
        # Django's back end for Jinja2 returns a bare str, which `wrap` would escape.
        html = mark_safe(render_to_string(names, given, request, using))  # noqa: S308
    except (InvalidTemplateEngineError, TemplateDoesNotExist) as error:
        if using is not None:
            error.add_note(
                f"using={using!r} is the NAME of an engine in TEMPLATES. The alias of a database "
                "is publish_template(database=…)."
            )
        raise
    return html if wrap is None else wrap(html)


@async_unsafe(
    "publish_template() waits for the broker: use `await apublish_template(…)` in a coroutine."
)
def publish_template(
    topics: str | Iterable[str],
    template: Template,
    context: Mapping[str, Any] | None = None,
    *,
    wrap: Wrap | None = None,
    using: str | None = None,
    event: str | None = None,
    retry: int | timedelta | None = None,
    comments: str | None = None,
    key: str | None = None,
    idempotency_key: str | None = None,
    exclude: HttpRequest | Request | str | None = None,
    database: str | None = None,
    on_commit: bool = True,
) -> str | None:
    """Render a template now, once for all clients, and publish its text as ``publish()`` does.

    ``template`` is a name, or several, of which the first that exists counts; ``using`` is the name
    of the engine, by default each in turn, as in Django's ``render_to_string()``. The template has
    no request, and so nothing of context processors: all clients get the same text.

    ``wrap`` is called with the HTML, and returns the text or the ``ServerSentEvent`` that is
    published in its place.

    The text is that of the moment of the call, whatever changes before the commit. It is sent when
    the transaction of ``database`` commits, and dropped when that is rolled back; outside of a
    transaction, or with ``on_commit=False``, at once. The other arguments, the returned id and the
    exceptions are those of ``publish()``. Also raises ``TemplateDoesNotExist``, and what the
    template raises.
    """
    return publish(
        topics,
        render(template, context, None, using, wrap),
        event=event,
        retry=retry,
        comments=comments,
        key=key,
        idempotency_key=idempotency_key,
        exclude=exclude,
        using=database,
        on_commit=on_commit,
    )


async def apublish_template(
    topics: str | Iterable[str],
    template: Template,
    context: Mapping[str, Any] | None = None,
    *,
    wrap: Wrap | None = None,
    using: str | None = None,
    event: str | None = None,
    retry: int | timedelta | None = None,
    comments: str | None = None,
    key: str | None = None,
    idempotency_key: str | None = None,
    exclude: HttpRequest | Request | str | None = None,
) -> str:
    """Do the same as ``publish_template()`` from a coroutine: send at once, and return the id.

    The template is rendered in a thread, so that it may query; in a stream, that is a thread of the
    streams' pool.
    """
    return await apublish(
        topics,
        await sync_to_async(render)(template, context, None, using, wrap),
        event=event,
        retry=retry,
        comments=comments,
        key=key,
        idempotency_key=idempotency_key,
        exclude=exclude,
    )
