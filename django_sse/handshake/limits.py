"""Limits on the number of streams, and refusals that ask a client to reconnect later."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from rest_framework.exceptions import APIException

from django_sse.conf import conf
from django_sse.connection.roster import roster
from django_sse.connection.shutdown import come_back_milliseconds, shutdown
from django_sse.connection.users import is_authenticated, user_key, user_name
from django_sse.monitoring.metrics import counters
from django_sse.wire.events import CONTENT_TYPE, encode_fields

from .response import Uncompressed


class ComeBackLater(APIException):
    """A refusal for now: the server stops, or a limit is reached."""

    def __init__(self, detail: str, *, status: int) -> None:
        """Count the refusal, and choose a time after which to reconnect."""
        super().__init__(detail, code="come_back_later")
        counters.refused += 1
        self.status_code = status
        #: Seconds, sent as ``Retry-After`` by DRF's exception handler.
        self.wait = -(-come_back_milliseconds() // 1000)


def names_event_stream(request: HttpRequest) -> bool:
    """Return whether ``Accept`` names an event stream, as an ``EventSource`` does."""
    return CONTENT_TYPE in request.headers.get("Accept", "").lower()


class ComeBackResponse(Uncompressed, HttpResponse):
    """A stream that ends at once, and has only a reconnection time."""


def come_back_response() -> HttpResponse:
    """Return a refusal after which an ``EventSource`` reconnects: for it, any status but 200 is final."""
    response = ComeBackResponse(
        encode_fields(None, retry=come_back_milliseconds()), content_type=CONTENT_TYPE
    )
    response.leave_uncompressed()
    return response


def take_place(stream: Any, request: Any) -> None:
    """Give a stream its place; raise ``ComeBackLater`` where a limit is reached.

    ``MAX_CONNECTIONS`` limits the streams of the process, ``max_connections_per_user`` a user's
    streams of this view, and ``MAX_CONNECTIONS_PER_ADDRESS`` the anonymous streams of a client
    address.
    """
    if shutdown.draining:
        raise ComeBackLater("This server is about to end.", status=503)
    limits: dict[Any, int] = {}
    if conf.max_connections is not None:
        limits["process"] = conf.max_connections
    user = request.user
    if is_authenticated(user):
        per_user = stream.max_connections_per_user
        if per_user is not None:
            limits["user", type(stream), user_key(user) or user_name(user)] = per_user
    elif conf.max_connections_per_address is not None:
        address = request.META.get("REMOTE_ADDR", "")
        limits["address", address] = conf.max_connections_per_address
    full = roster.enter(stream, limits)
    if full == "process":
        raise ComeBackLater("This server has as many streams as it takes.", status=503)
    if full is not None:
        raise ComeBackLater("There are too many streams of yours.", status=429)
