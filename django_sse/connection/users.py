"""Questions about a request's user, which may be a model's, a token's, anonymous, or ``None``."""

from __future__ import annotations

from typing import Any

from rest_framework.settings import api_settings


def is_authenticated(user: Any) -> bool:
    """Return whether a user is authenticated; the anonymous one may be ``None`` (``UNAUTHENTICATED_USER``)."""
    return user is not None and bool(user.is_authenticated)


def anonymous_user() -> Any:
    """Return DRF's anonymous user: ``AnonymousUser``, unless ``UNAUTHENTICATED_USER`` says otherwise."""
    user: Any = api_settings.UNAUTHENTICATED_USER
    return None if user is None else user()


def user_key(user: Any) -> str | None:
    """Return the primary key of a user as text, or ``None`` for a user without one."""
    key = getattr(user, "pk", None)
    return None if key is None else str(key)


def user_name(user: Any) -> str:
    """Return the name of a user, without a query; ``str(user)`` might make one."""
    name = getattr(user, "get_username", None)
    return str(name()) if callable(name) else type(user).__name__
