"""Leave out the stream of the page that made a change: ``publish(…, exclude=request)``.

Each page has an id, which its stream's address carries and which it sends with its requests. An id is
no secret of a user, and gives no access: a stream with an id gets fewer events than one without.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from django_sse.exceptions import InvalidEvent

#: The name of the query parameter and of the form field with a page's id.
PARAMETER = "sse_client"
#: The name of the header with a page's id.
HEADER = "SSE-Client"

_META = f"HTTP_{HEADER.upper().replace('-', '_')}"
_ID = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)


def make_client() -> str:
    """Return a new id for a page, which nobody can guess."""
    return secrets.token_urlsafe(16)


def with_client(address: str, client: str) -> str:
    """Return a stream's address with a page's id added to its query."""
    return f"{address}{'&' if '?' in address else '?'}{PARAMETER}={client}"


def client_of(request: Any) -> str | None:
    """Return the id of the page that sent a request of Django or DRF.

    It is the header's, else the form's, else the query's; ``None`` where there is none, and where
    it is not 8 to 64 characters of A-Z, a-z, 0-9, ``-`` and ``_``.
    """
    request = getattr(request, "_request", request)
    given = request.META.get(_META)
    if not given and request.method == "POST":
        given = request.POST.get(PARAMETER)
    if not given and request.META.get("QUERY_STRING"):
        given = request.GET.get(PARAMETER)
    return given if given and _ID.fullmatch(given) else None


def check_exclude(exclude: Any) -> str | None:
    """Return the id of the page that an event is not for; raise ``InvalidEvent`` for a wrong value."""
    if exclude is None:
        return None
    if hasattr(exclude, "META"):
        return client_of(exclude)
    if isinstance(exclude, str) and _ID.fullmatch(exclude):
        return exclude
    raise InvalidEvent(
        f"exclude must be a request, or a page's id of 8 to 64 characters of A-Z, a-z, 0-9, '-' "
        f"and '_', got {exclude!r}.",
        field="exclude",
        value=exclude,
    )
