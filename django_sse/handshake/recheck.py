"""The recheck: the policies of the handshake are applied again while the stream is open."""

from __future__ import annotations

import copy
from typing import Any

from django.contrib.auth import SESSION_KEY, get_user
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest
from rest_framework.exceptions import APIException
from rest_framework.request import Request

from django_sse.connection.users import anonymous_user, is_authenticated, user_key, user_name

from .login import login_demanded


def still_allowed(view: Any) -> bool:
    """Authenticate the view's request again, and ask its permission classes again.

    Returns False when a new request like it would be refused, or would be another user's. Raises
    any other exception of a policy: a database that is away says nothing about the user.
    Synchronous, for the thread of the stream's synchronous work.
    """
    return renewed(view) is not None


def renewed(view: Any) -> Request | None:
    """Return a request with the user as it is now, or ``None`` where it would be refused.

    Raises what ``still_allowed()`` raises.
    """
    before = view.request.user
    django_request = _anew(view.request._request, view.user_before)
    request: Request = view.initialize_request(django_request, *view.args, **view.kwargs)
    request.accepted_renderer = view.request.accepted_renderer
    request.accepted_media_type = view.request.accepted_media_type
    request.version = view.request.version
    request.versioning_scheme = view.request.versioning_scheme
    try:
        view.perform_authentication(request)
        if login_demanded(django_request) and not is_authenticated(request.user):
            return None
        view.check_permissions(request)
    except (PermissionDenied, Http404):
        return None
    except APIException as error:
        if error.status_code >= 500:
            raise
        return None
    return request if _key(request.user) == _key(before) else None


def _anew(request: HttpRequest, before: Any) -> HttpRequest:
    """Return a copy of the request as middleware left it, before a user or session was read."""
    # The wrapper of a monitoring agent may not support copying.
    fresh = copy.copy(getattr(request, "__wrapped__", request))
    for name in ("_cached_user", "_acached_user"):
        fresh.__dict__.pop(name, None)
    session: Any = getattr(request, "session", None)
    if before is None or session is None or SESSION_KEY not in session:
        # The user does not come from the session.
        fresh.user = _reloaded(before)
        return fresh
    # Channels wraps a session that it loads lazily. A new session needs the class of the store
    # inside.
    store = getattr(session, "_wrapped", session)
    fresh.session = type(store)(store.session_key)
    fresh.user = get_user(fresh)
    same_session = session[SESSION_KEY] == fresh.session.get(SESSION_KEY)
    if fresh.user.is_authenticated and same_session and fresh.user.pk != before.pk:
        # A middleware lets the user of the session act as another user.
        fresh.user = _reloaded(before)
    return fresh


def _reloaded(user: Any) -> Any:
    """Return the user as it is in the database now; a user that is not a model's unchanged."""
    if getattr(user, "pk", None) is None or not hasattr(user.__class__, "_default_manager"):
        return anonymous_user() if user is None else user
    return user.__class__._default_manager.filter(pk=user.pk).first() or anonymous_user()


def _key(user: Any) -> Any:
    # type(user) would be SimpleLazyObject after Django's middleware.
    return None if user is None else (user.__class__.__name__, user_key(user) or user_name(user))
