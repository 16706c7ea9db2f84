"""Tickets: an ``EventSource`` cannot send headers, so its address has to authenticate the user."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlencode

from django.contrib.auth import get_user_model
from django.core import signing
from django.core.exceptions import ValidationError
from django.urls import Resolver404, get_script_prefix, resolve
from django.utils.crypto import constant_time_compare
from django.utils.encoding import iri_to_uri
from rest_framework import serializers
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from .conf import conf
from .handshake.view import Handshake
from .topics.exclusion import make_client, with_client

logger = logging.getLogger("django_sse")

#: The name of the query parameter.
PARAMETER = "ticket"

# Keeps tickets apart from everything else that a project signs with its SECRET_KEY.
_SALT = "django_sse.tickets"


def make_ticket(user: Any, path: str) -> str:
    """Return a ticket with which ``user`` can open the stream at ``path``, for ``TICKET_SECONDS``.

    ``path`` is the path of an address, as ``reverse()`` returns it. The ticket is no longer valid
    once the user's password changes or the user is deactivated. It stays valid after a log-out and
    after the end of a token. It can be used any number of times, because a browser reconnects with
    the same address.

    Raises ``ValueError`` for a user that has no row in the database, or is not active.
    """
    if not isinstance(user, get_user_model()) or user.pk is None or not _is_active(user):
        raise ValueError(f"A ticket needs an active user of the database, got {user!r}.")
    key = user._meta.pk.value_to_string(user)
    return signing.dumps([key, unquote(path), _digest(_session_hash(user))], salt=_SALT)


def with_ticket(address: str, ticket: str) -> str:
    """Return a stream's address with a ticket added to its query."""
    return f"{address}{'&' if '?' in address else '?'}{urlencode({PARAMETER: ticket})}"


class TicketAuthentication(BaseAuthentication):
    """Authenticates by ``?ticket=…``; leaves requests without a ticket to the classes after it.

    It refuses a ticket with 401 if the ticket is forged, expired, or made for another path. It does
    so too if the user is not active any more or has changed the password. Other credentials of the
    request do not change that. ``request.auth`` is ``"ticket"``, and never the ticket itself, which
    some log would contain sooner or later.
    """

    def authenticate(self, request: Request) -> tuple[Any, str] | None:
        """Return the ticket's user, or ``None`` when the address has no ticket."""
        given = request.query_params.getlist(PARAMETER)
        if not given:
            return None
        user = _user_of(given[0], _path(request)) if len(given) == 1 else None
        if user is None:
            # Do not say why. That would help to forge a ticket.
            raise AuthenticationFailed("The ticket is not valid here, or not any more.")
        return user, PARAMETER

    def authenticate_header(self, request: Request) -> str:
        """Return an authentication scheme for which no browser opens a password dialog."""
        return "Ticket"


class _Wish(serializers.Serializer[Any]):
    path = serializers.CharField(max_length=2000, trim_whitespace=False)
    client = serializers.BooleanField(default=False)


class TicketView(APIView):
    """Gives tickets to clients that authenticate by headers: ``POST {"path": "/orders/"}``.

    The answer is ``{"ticket": …, "url": …, "expires": …}``. ``url`` is the path with the ticket,
    for an ``EventSource``, and ``expires`` is the time until which the client may (re)connect. The
    stream itself decides whether the user may open it. With ``"client": true`` the answer also has
    ``"client"``, a new page's id, which ``url`` carries too: for ``publish(…, exclude=request)``.
    """

    permission_classes = [IsAuthenticated]
    http_method_names = ["post", "options"]

    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Return a ticket for the user of the request."""
        wish = _Wish(data=request.data)
        wish.is_valid(raise_exception=True)
        path = iri_to_uri(wish.validated_data["path"])
        if not self.is_stream(path):
            raise serializers.ValidationError({"path": [self._why_not(path)]})
        _warn_of_useless_ticket(self._view_at(path))
        try:
            ticket = make_ticket(request.user, path)
        except ValueError as error:
            raise PermissionDenied("There are no tickets for users of this kind.") from error
        answer = {
            "ticket": ticket,
            "url": with_ticket(path, ticket),
            "expires": datetime.now(UTC) + timedelta(seconds=conf.ticket_seconds),
        }
        if wish.validated_data["client"]:
            answer["client"] = client = make_client()
            answer["url"] = with_client(with_ticket(path, ticket), client)
        return Response(answer, headers={"Cache-Control": "no-store"})

    def is_stream(self, path: str) -> bool:
        """Return whether ``path`` leads to a stream in ``urls.py``.

        Override it for streams that are routed elsewhere, by Channels' ``URLRouter`` for example.
        """
        return issubclass(getattr(self._view_at(path), "cls", object), Handshake)

    def _view_at(self, path: str) -> Any:
        """Return the view of ``urls.py`` at a path, or ``None``."""
        prefix = get_script_prefix()
        # With a query, a fragment or another site, `url` would lead to another address than the one
        # that the ticket is for.
        if not path.startswith(prefix) or path.startswith("//") or {"?", "#"} & set(path):
            return None
        urlconf = getattr(self.request, "urlconf", None)
        try:
            return resolve("/" + unquote(path).removeprefix(prefix), urlconf).func
        except Resolver404:
            return None

    @staticmethod
    def _why_not(path: str) -> str:
        """Return what is wrong with a path that leads to no stream."""
        if "://" in path or path.startswith("//") or {"?", "#"} & set(path):
            return "Send the path alone, without a site and a query. Add the query to `url`."
        return "There is no stream at this path."


_warned: set[str] = set()


def _warn_of_useless_ticket(view: Any) -> None:
    """Warn once of a stream that takes no tickets, so that its clients are refused with theirs."""
    cls = getattr(view, "cls", None)
    if cls is None or cls.get_authenticators is not APIView.get_authenticators:
        return  # It is routed elsewhere, or chooses for each request.
    classes = getattr(view, "initkwargs", {}).get(
        "authentication_classes", cls.authentication_classes
    )
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name in _warned or any(_takes_tickets(it) for it in classes):
        return
    _warned.add(name)
    logger.warning(
        "TicketView gave a ticket for %s, which takes none: a client that has only its ticket is "
        "refused. Add django_sse.tickets.TicketAuthentication to its authentication_classes.",
        name,
    )


def _takes_tickets(authentication: Any) -> bool:
    return isinstance(authentication, type) and issubclass(authentication, TicketAuthentication)


def _path(request: Any) -> str:
    """Return the path as ``reverse()`` gives it, also where a proxy has removed its prefix."""
    prefix = str(request.META.get("SCRIPT_NAME", "")).rstrip("/")
    return f"{prefix}{request.path_info}"


def _user_of(ticket: str, path: str) -> Any:
    """Return the user of a ticket that is valid at ``path``, or ``None``."""
    model = get_user_model()
    longest = timedelta(seconds=conf.ticket_seconds)
    try:
        key, its_path, digest = signing.loads(ticket, salt=_SALT, max_age=longest)
        if not constant_time_compare(its_path, path):
            return None
        user = model._default_manager.get(pk=model._meta.pk.to_python(key))
    except (signing.BadSignature, model.DoesNotExist, ValidationError):
        return None
    if not _is_active(user):
        return None
    # Compare all of them, so that the time it takes does not show which one matched.
    matching = [constant_time_compare(digest, _digest(it)) for it in _session_hashes(user)]
    return user if any(matching) else None


def _is_active(user: Any) -> bool:
    return bool(getattr(user, "is_active", True))


def _session_hash(user: Any) -> str:
    """Return a hash that changes with the password; empty where the user model has none."""
    return str(user.get_session_auth_hash()) if hasattr(user, "get_session_auth_hash") else ""


def _session_hashes(user: Any) -> Iterable[str]:
    yield _session_hash(user)
    if hasattr(user, "get_session_auth_fallback_hash"):
        # The ticket may have been made before SECRET_KEY was rotated.
        yield from user.get_session_auth_fallback_hash()


def _digest(session_hash: str) -> str:
    """Return as much of a session's hash as a ticket needs to compare, and no more."""
    return hashlib.sha256(session_hash.encode()).hexdigest()[:32]
