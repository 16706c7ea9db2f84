"""Whether a handshake asks anything that may wait: a database, a cache, or code of the project."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from django.http import HttpRequest
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.permissions import AllowAny
from rest_framework.settings import api_settings
from rest_framework.views import APIView

# What DRF asks in a handshake. A class with one of its own may do anything in it.
_HOOKS = (
    "check_permissions",
    "check_throttles",
    "determine_version",
    "get_authenticators",
    "get_content_negotiator",
    "get_format_suffix",
    "get_parser_context",
    "get_parsers",
    "get_permissions",
    "get_renderers",
    "get_throttles",
    "initial",
    "initialize_request",
    "perform_authentication",
    "perform_content_negotiation",
)

_plain: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def asks_nobody(view: Any, request: HttpRequest) -> bool:
    """Return whether the handshake of a view needs no thread: it admits everybody without a look.

    That is a view without authentication, throttles and versioning, with the permission
    ``AllowAny`` and without own hooks, asked by GET or HEAD, where no session is to be loaded.
    """
    session = getattr(request, "session", None)
    return (
        request.method in {"GET", "HEAD"}
        and not view.authentication_classes
        and not view.throttle_classes
        and view.versioning_class is None
        and view.content_negotiation_class is DefaultContentNegotiation
        and all(it is AllowAny for it in view.permission_classes)
        and _is_nobody(api_settings.UNAUTHENTICATED_USER)
        and (session is None or not session.session_key)
        and _is_plain(type(view))
    )


def _is_nobody(user: Any) -> bool:
    # By its name: a project may lack django.contrib.auth, whose models could not be imported.
    return user is None or (
        getattr(user, "__module__", "") == "django.contrib.auth.models"
        and getattr(user, "__qualname__", "") == "AnonymousUser"
    )


def _is_plain(cls: type) -> bool:
    plain = _plain.get(cls)
    if plain is None:
        # The handshake's own negotiation asks nobody.
        owners = {owner for owner in cls.__mro__ if not owner.__module__.startswith("django_sse.")}
        owners -= set(APIView.__mro__)
        plain = _plain[cls] = not any(name in vars(owner) for owner in owners for name in _HOOKS)
    return plain
