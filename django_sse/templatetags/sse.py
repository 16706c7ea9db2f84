"""Template tags for pages that connect to streams."""

from __future__ import annotations

import contextlib
import logging
from typing import Any
from urllib.parse import urlencode

from django import template
from django.core.exceptions import ImproperlyConfigured
from django.urls import reverse
from django.utils.html import escape
from django.utils.safestring import mark_safe

from django_sse.exceptions import BrokerError
from django_sse.tickets import make_ticket, with_ticket
from django_sse.topics.exclusion import client_of, make_client, with_client
from django_sse.topics.publishing import latest_event_id

register = template.Library()
# Under which name a page's id is kept while the page is rendered.
_CLIENT = "_django_sse_client"
logger = logging.getLogger("django_sse")


@register.simple_tag(takes_context=True)
def sse_url(
    context: template.Context,
    name: str,
    *args: Any,
    ticket: bool = False,
    client: bool = False,
    **kwargs: Any,
) -> str:
    """Return a stream's address with the newest event's id: ``{% sse_url 'orders' shop=1 %}``.

    A page that shows the present state and connects to this address misses no event that is
    published between its rendering and its connecting. While the broker is away, the address does
    not have the id, and the stream begins with its snapshot. Takes the same arguments as ``{% url
    %}``.

    With ``ticket=True``, the address also has a ticket of ``request.user``, for streams that have
    ``TicketAuthentication``; not for anonymous visitors. With ``client=True``, it has the page's id
    (``{% sse_client %}``). Such pages must not be cached.
    """
    path = address = reverse(name, args=args, kwargs=kwargs)
    try:
        address += f"?{urlencode({'last_event_id': latest_event_id()})}"
    except BrokerError:
        logger.warning("{%% sse_url %r %%} has no cursor: the broker is away.", name, exc_info=True)
    if ticket:
        if "request" not in context:
            raise ImproperlyConfigured(
                f"{{% sse_url {name!r} ticket=True %}} needs the request in its context: render "
                "with it, and have django.template.context_processors.request in TEMPLATES."
            )
        # An anonymous visitor gets no ticket, and the stream decides whether to accept the visitor.
        with contextlib.suppress(ValueError):
            address = with_ticket(address, make_ticket(context["request"].user, path))
    if client:
        address = with_client(address, sse_client(context))
    # An escaped "&" would be wrong within a script. Unescaped, it is right there and in attributes.
    # Only the path may have other characters that need escaping.
    return mark_safe(address) if escape(path) == path else address  # noqa: S308


@register.simple_tag(takes_context=True)
def sse_client(context: template.Context) -> str:
    """Return the id of the page that is rendered, the same one each time: ``{% sse_client %}``.

    Send it back with requests that make a change, in the header ``SSE-Client`` or the form field
    ``sse_client``, and give it to the stream by ``{% sse_url … client=True %}``. Then the page does
    not get what is published with ``exclude=request``. Such a page must not be cached.
    """
    # An included template may have a context of its own, but not these.
    request = context.get("request")
    kept = context.render_context.dicts[0] if request is None else vars(request)
    if _CLIENT not in kept:
        # A fragment that is rendered for a page belongs to that page.
        kept[_CLIENT] = (request and client_of(request)) or make_client()
    return str(kept[_CLIENT])
