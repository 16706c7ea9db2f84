"""A request: its lazy parts are read before the stream begins, and what it does not need is freed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.http import QueryDict
from django.http.request import HttpHeaders
from rest_framework.exceptions import APIException, ParseError
from rest_framework.request import Request

#: The query parameter in which a page sends the newest event's id from when it was rendered.
_PAGES_OWN = "last_event_id"


#: Where DRF finds a body's length. It reads no body without one.
_LENGTHS = frozenset({"CONTENT_LENGTH", "HTTP_CONTENT_LENGTH"})


class BodyTooLarge(APIException):
    """Answered to a body above ``DATA_UPLOAD_MAX_MEMORY_SIZE``."""

    status_code = 413
    default_detail = "The body is larger than this server takes."
    default_code = "body_too_large"


def load(request: Request) -> None:
    """Read what is lazy on a request: its user, its query, its body, and its session.

    Raises ``ParseError`` and other exceptions of DRF for a body that cannot be read, and Django's
    ``SuspiciousOperation`` for a query with too many fields.
    """
    request.user  # noqa: B018 - perform_authentication() may have been overridden
    if request.META.get("QUERY_STRING"):
        request.GET  # noqa: B018 - a query that is refused has to be so before the stream begins
    _check_size(request)
    # Without a body, request.data is empty also later, and takes memory only where it is asked for.
    if not _LENGTHS.isdisjoint(request.META):
        try:
            request.data  # noqa: B018
        except RecursionError as error:
            raise ParseError("The body is nested too deeply.") from error
    session = getattr(request._request, "session", None)
    if session is not None and session.session_key:
        # SessionMiddleware adds "Vary: Cookie" to a response whose session was accessed.
        # Loading the session here does not count as a use of it.
        accessed = session.accessed
        session.get("", None)
        session.accessed = accessed


def _check_size(request: Request) -> None:
    """Refuse a body that a stream would hold in memory for as long as it lives.

    DRF's parsers know no limit, except for multipart bodies. Django's limit is the one of
    ``request.body``.
    """
    if str(request.content_type).startswith("multipart/"):
        return
    limit, stream = settings.DATA_UPLOAD_MAX_MEMORY_SIZE, getattr(request._request, "_stream", None)
    if limit is None or stream is None or getattr(request._request, "_read_started", False):
        return
    if not stream.seekable():
        return  # A test client's, which sends what the test gave it.
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if size > limit:
        raise BodyTooLarge


def last_event_id(request: Request) -> str | None:
    """Return the id of the last event that a reconnecting client has seen, or ``None``.

    That is the header ``Last-Event-ID`` (WHATWG HTML, 9.2.4). Where there is none, it is the query
    parameter ``lastEventId`` in any spelling, which polyfills send that cannot set a header; else
    ``last_event_id``, which is a page's.
    """
    header = request.META.get("HTTP_LAST_EVENT_ID")
    if header is not None:
        # Browsers send UTF-8; Django reads every header as Latin-1.
        return str(header).encode("latin-1").decode("utf-8", "replace")
    if not request.META.get("QUERY_STRING") and "GET" not in request._request.__dict__:
        return None  # slim() has let go of it, and what it is made of is empty.
    return _queried_id(request.GET)


def _queried_id(query: Mapping[str, str]) -> str | None:
    # A polyfill adds its parameter to an address that may have the page's already, which is older.
    for name, value in query.items():
        if value and name != _PAGES_OWN and _letters(name) == "lasteventid":
            return value
    return query.get(_PAGES_OWN)


def _letters(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


def slim(request: Any) -> None:
    """Free what a finished request holds and no stream needs: about 3 kB, or more."""
    inner = request._request
    # The wrapper of a monitoring agent may refuse an attribute; then it is kept.
    with suppress(AttributeError):
        # Every pattern that did not match: about 4 kB in a project of 70 routes.
        inner.resolver_match.tried = None
    with suppress(AttributeError):
        # The body was read into request.data, and its file is closed.
        inner._stream = None
    with suppress(AttributeError):
        request._stream = request.parser_context = None
        # A recheck makes a new request with its own.
        request.parsers = request.authenticators = ()
        request.negotiator = None
    # Django makes these again from the request's META where code asks for them. An object that a
    # middleware has put in their place stays.
    with suppress(AttributeError):
        request.__dict__.pop("_parsed_accept_list", None)
        made = inner.__dict__
        made.pop("_parsed_accept_list", None)
        made.pop("_messages", None)
        if type(inner.META) is dict:
            inner.META = dict(_shared(inner.META))
        if type(made.get("headers")) is HttpHeaders:
            del made["headers"]
        query = made.get("GET")
        if type(query) is QueryDict and not query and not inner.META.get("QUERY_STRING"):
            del made["GET"]


#: Headers that most browsers send, most of them with one of few values. Django makes a new name and
#: a new value for each request: together 2 kB of a stream that a browser opens.
_COMMON = {
    name: name
    for name in (
        *("HTTP_HOST", "HTTP_ACCEPT", "HTTP_ACCEPT_ENCODING", "HTTP_ACCEPT_LANGUAGE"),
        *("HTTP_CACHE_CONTROL", "HTTP_CONNECTION", "HTTP_ORIGIN", "HTTP_PRAGMA"),
        *("HTTP_SEC_CH_UA", "HTTP_SEC_CH_UA_MOBILE", "HTTP_SEC_CH_UA_PLATFORM", "HTTP_USER_AGENT"),
        *("HTTP_SEC_FETCH_DEST", "HTTP_SEC_FETCH_MODE", "HTTP_SEC_FETCH_SITE", "HTTP_DNT"),
        *("HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PORT", "HTTP_X_FORWARDED_PROTO"),
    )
}
#: The same for headers whose value differs from client to client.
_COMMON_NAMES = {
    name: name
    for name in (
        *("HTTP_AUTHORIZATION", "HTTP_COOKIE", "HTTP_FORWARDED", "HTTP_LAST_EVENT_ID"),
        *("HTTP_PRIORITY", "HTTP_REFERER", "HTTP_VIA", "HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP"),
        *("HTTP_X_REQUEST_ID", "HTTP_TRACEPARENT", "HTTP_TRACESTATE"),
    )
}
#: Values of common headers, shared by all streams, and how many of how many characters at the most:
#: clients may send any.
_values: dict[str, str] = {}
MOST_VALUES = 500
LONGEST_VALUE = 300


def _shared(meta: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give the items of a request's META, with strings of other streams in the place of equal ones."""
    for name, value in meta.items():
        common = _COMMON.get(name)
        if common is None or type(value) is not str:  # A middleware may have put anything there.
            yield _COMMON_NAMES.get(name, name), value
        elif len(_values) < MOST_VALUES and len(value) <= LONGEST_VALUE:
            yield common, _values.setdefault(value, value)
        else:
            yield common, _values.get(value, value)
