"""What is asked of a request's user, whatever it is: a model's, one of a token, or nobody."""

from __future__ import annotations

from typing import Any

from rest_framework.settings import api_settings


def is_authenticated(user: Any) -> bool:
    """Return whether there is a user; DRF's ``UNAUTHENTICATED_USER`` may be ``None``."""
    return user is not None and bool(user.is_authenticated)


def nobody() -> Any:
    """Return who an anonymous client is to DRF: ``AnonymousUser``, unless the project says ``None``."""
    user: Any = api_settings.UNAUTHENTICATED_USER
    return None if user is None else user()


def user_key(user: Any) -> str | None:
    """Return the primary key of a user as text, or ``None`` for nobody."""
    key = getattr(user, "pk", None)
    return None if key is None else str(key)


def user_name(user: Any) -> str:
    """Return how a user is called, without asking the database, as ``str()`` might."""
    name = getattr(user, "get_username", None)
    return str(name()) if callable(name) else type(user).__name__
