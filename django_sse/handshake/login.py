"""``LoginRequiredMiddleware``: the handshake of a stream demands the login in its place."""

from __future__ import annotations

import functools
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.http import HttpRequest
from django.utils.module_loading import import_string


class DemandedByHandshake:
    """The ``login_required`` of a stream's view: false to the middleware, but not ``False``.

    So Django's ``LoginRequiredMiddleware`` does not redirect to a login page, which no stream's
    client could use, and the handshake demands a user instead. ``@login_not_required`` sets
    ``False``.
    """

    def __bool__(self) -> bool:
        """Return False, for the middleware."""
        return False


@functools.cache
def _login_required_everywhere() -> bool:
    def is_it(path: str) -> bool:
        # Compare names. To import the module would need apps of django.contrib that a project may
        # lack.
        classes = getattr(import_string(path), "__mro__", ())
        names = {f"{it.__module__}.{it.__qualname__}" for it in classes}
        return "django.contrib.auth.middleware.LoginRequiredMiddleware" in names

    return any(is_it(path) for path in settings.MIDDLEWARE)


def login_demanded(request: HttpRequest) -> bool:
    """Return whether ``LoginRequiredMiddleware`` would have demanded a user of this view."""
    match = request.resolver_match
    if match is None or getattr(match.func, "login_required", None) is False:
        return False
    return _login_required_everywhere()


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "MIDDLEWARE":
        _login_required_everywhere.cache_clear()


setting_changed.connect(_on_setting_changed)
