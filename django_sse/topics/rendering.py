"""The renderer that makes the text of events, and the context of serializers outside of a request."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.http import HttpRequest
from django.utils.module_loading import import_string
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.settings import api_settings

from django_sse.conf import conf


def check_renderer(where: str, renderer_class: Any) -> type[BaseRenderer]:
    """Return a renderer class; raise ``ImproperlyConfigured`` for anything else."""
    if not (isinstance(renderer_class, type) and issubclass(renderer_class, BaseRenderer)):
        raise ImproperlyConfigured(
            f"{where} must be a subclass of rest_framework.renderers.BaseRenderer, got "
            f"{renderer_class!r}."
        )
    return renderer_class


@functools.cache
def default_renderer_class() -> type[BaseRenderer]:
    """Return the renderer of views and published events that name none.

    That is ``DJANGO_SSE["RENDERER"]``, else the first of DRF's ``DEFAULT_RENDERER_CLASSES`` whose
    media type is ``application/json``, else ``JSONRenderer``. Raises ``ImproperlyConfigured`` where
    the setting names no renderer.
    """
    given = conf.renderer
    where = 'DJANGO_SSE["RENDERER"]'
    if given is None:
        candidates: Any = api_settings.DEFAULT_RENDERER_CLASSES
        for candidate in candidates:
            if candidate.media_type == JSONRenderer.media_type:
                return check_renderer("DEFAULT_RENDERER_CLASSES", candidate)
        return JSONRenderer
    if isinstance(given, str):
        try:
            given = import_string(given)
        except ImportError as error:
            raise ImproperlyConfigured(f"{where} cannot be imported: {error}") from error
    return check_renderer(where, given)


def default_context() -> dict[str, Any]:
    """Return the context of serializers outside of a view: a ``request`` where there is a base URL.

    The request stands for one to ``DJANGO_SSE["BASE_URL"]`` by an anonymous client, so that
    hyperlinked serializers make absolute links.
    """
    base_url = conf.base_url
    return {} if base_url is None else {"request": Request(_StandIn(base_url))}


class _StandIn(HttpRequest):
    """Stands for a request to the site's root, where there is no real one."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        parts = urlsplit(base_url)
        self._scheme = parts.scheme
        self._host = parts.netloc
        self.method = "GET"
        self.path = self.path_info = "/"
        self.META = {
            "HTTP_HOST": parts.netloc,
            "SERVER_NAME": parts.hostname or "",
            "SERVER_PORT": str(parts.port or (443 if parts.scheme == "https" else 80)),
        }

    def _get_scheme(self) -> str:
        return self._scheme

    def get_host(self) -> str:
        """Return the host of the setting, which is trusted: no client chose it."""
        return self._host


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting in ("DJANGO_SSE", "REST_FRAMEWORK"):
        default_renderer_class.cache_clear()


setting_changed.connect(_on_setting_changed)
