"""``path()`` for streams."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, path

from .views import SSEView


def sse_path(
    route: str,
    view: Any,
    kwargs: dict[str, Any] | None = None,
    name: str | None = None,
) -> URLPattern:
    """Return ``django.urls.path()`` for a stream: an ``SSEView``, or its ``as_view(…)``.

    ``kwargs`` are passed to the view as by ``path()``. Raises ``ImproperlyConfigured`` for a view
    that is no stream.
    """
    if isinstance(view, type) and issubclass(view, SSEView):
        view = view.as_view()
    owner = getattr(view, "cls", None)
    if not callable(view) or not (isinstance(owner, type) and issubclass(owner, SSEView)):
        raise ImproperlyConfigured(
            f"sse_path({route!r}, …) takes a subclass of SSEView or its as_view(…), got {view!r}. "
            "Use django.urls.path() for other views."
        )
    pattern: URLPattern = path(route, view, kwargs, name=name)
    return pattern
