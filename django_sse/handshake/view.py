"""The handshake: from a Django request, through DRF's policies, to a stream's response."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import (
    BadRequest,
    ImproperlyConfigured,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string
from rest_framework.exceptions import APIException, ParseError
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from django_sse.connection.shutdown import shutdown
from django_sse.connection.stream import Stream
from django_sse.connection.users import is_authenticated
from django_sse.exceptions import StreamFinished
from django_sse.topics.hub import get_hub
from django_sse.topics.orders import ended_since, newest_order
from django_sse.wire.events import CONTENT_TYPE

from .limits import ComeBackLater, come_back_response, names_event_stream, take_place
from .request import BodyTooLarge, load
from .response import Connection, EventStreamResponse

#: Headers that frame a message. The server writes them; wrong ones end the stream, or break it.
FRAMING = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def check_headers(view: type, headers: Mapping[str, str]) -> None:
    """Raise ``ImproperlyConfigured`` for a header that is the server's to write (RFC 9110, 7.6.1)."""
    for name, value in headers.items():
        if name.lower() in FRAMING:
            raise ImproperlyConfigured(
                f"{view.__qualname__}.headers must not have {name!r} (got {value!r}): the server "
                "writes it, since a stream has no length and its connection no other use. Leave it "
                "out."
            )


class StreamNeedsASGI(APIException):
    """Answered under WSGI, which has no way to hold a stream."""

    status_code = 503
    default_detail = (
        "This is an event stream, and this server speaks WSGI. Serve the project's "
        "ASGI_APPLICATION with Daphne, Uvicorn, Hypercorn, Granian or gunicorn's ASGI worker; for "
        'runserver, put "daphne" first in INSTALLED_APPS. In a test, use django_sse.testing or AsyncClient.'
    )
    default_code = "needs_asgi"


class EventStreamRenderer(BaseRenderer):
    """Stands for ``text/event-stream`` in content negotiation, metadata and schemas."""

    media_type = CONTENT_TYPE
    format = "event-stream"
    charset = None


class _DemandedByHandshake:
    """The ``login_required`` of a stream's view: false to the middleware, but not ``False``.

    Django's ``LoginRequiredMiddleware`` leaves the view alone, which a redirect to a login page
    would not serve; the handshake demands a user instead. ``@login_not_required`` puts ``False``.
    """

    def __bool__(self) -> bool:
        return False


class _EveryDatabase(set[str]):
    """The ``_non_atomic_requests`` of a stream's view: it is in no database's transaction."""

    def __contains__(self, alias: object) -> bool:
        return True


class Handshake(APIView, Stream):
    """An asynchronous ``APIView`` whose answer is a stream, or a plain HTTP error as JSON.

    What is synchronous in DRF runs to its end in one trip to the request's thread, so that
    nothing lazy is left for later; ``connect()`` is awaited after it.
    """

    http_method_names = ["get", "head", "options"]
    renderer_classes = [EventStreamRenderer]

    # Whether connect() has returned, so that disconnect() is due.
    _connected: bool = False

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the view for ``urls.py``; ``initkwargs`` replace class attributes, as in Django."""
        view = super().as_view(**initkwargs)
        # What a method_decorator(login_not_required, name="dispatch") left on the class is kept.
        marked = getattr(cls.dispatch, "login_required", None) is False
        view.login_required = False if marked else _DemandedByHandshake()  # type: ignore[attr-defined]
        view._non_atomic_requests = _EveryDatabase()  # type: ignore[attr-defined]
        return view

    async def connect(self) -> None:
        """Decide on the request, once DRF's policies have let it pass; may raise.

        Any DRF or Django exception becomes its HTTP error; ``StreamFinished`` becomes 204. What it
        puts into ``self.headers`` is sent with the stream's response. Runs in the request, whose
        database connection it may use. When it raises, or its client leaves meanwhile,
        ``disconnect()`` is not called.
        """

    async def disconnect(self) -> None:
        """Clean up; called exactly once for every ``connect()`` that returned."""

    async def prepare(self) -> None:
        """Ready what the stream needs before there is a response; after ``connect()``."""

    async def abandon(self, reason: str) -> None:
        """End a stream that never began, and give its place back.

        ``disconnect()`` runs where ``connect()`` has returned.
        """
        raise NotImplementedError

    # DRF's dispatch, cut where the thread ends.

    async def dispatch(  # type: ignore[override]  # an asynchronous view
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        """Run the handshake and return the response, rendered later by Django."""
        if not hasattr(request, "scope"):
            # Refused: under WSGI, whose event loop lives for this call only.
            return cast(
                "HttpResponseBase", await sync_to_async(self._admit)(request, *args, **kwargs)
            )
        # Now, since the signal may come while the stream is not there yet.
        shutdown.watch(asyncio.get_running_loop())
        try:
            # A user who is authenticated before an order to end the user's streams must get it.
            async with get_hub().heeding():
                orders = newest_order()
                response = await sync_to_async(self._admit)(request, *args, **kwargs)
                if response is not None:
                    return response
                try:
                    take_place(self, self.request)
                except ComeBackLater as refusal:
                    if names_event_stream(request):
                        return self._dressed(come_back_response())
                    return await sync_to_async(self._refuse)(refusal)
        except BaseException:
            await self.abandon("error")
            raise
        try:
            await self.connect()
            self._connected = True
            await self.prepare()
            if ended_since(self, orders):
                self.revoke()
            if request.method == "HEAD":
                await self.abandon("completed")
                return self._dressed(HttpResponse(content_type=CONTENT_TYPE))
            return self._dressed(EventStreamResponse(cast("Connection", self), request))
        except StreamFinished:
            await self.abandon("completed")
            response = self._dressed(HttpResponse(status=204))
            del response["Content-Type"]
            return response
        except Exception as error:
            await self.abandon("error")
            return await sync_to_async(self._refuse)(error)
        except BaseException as error:
            await self.abandon("client" if isinstance(error, asyncio.CancelledError) else "error")
            raise

    def _admit(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase | None:
        """Apply the policies; return the refusal, or ``None`` when the stream may begin."""
        self.args, self.kwargs = args, kwargs
        self.headers: dict[str, str] = {}
        # As middleware found it; DRF puts the one of its own authentication in this place.
        self.user_before: Any = getattr(request, "user", None)
        self.request: Request = self.initialize_request(request, *args, **kwargs)
        try:
            if not hasattr(request, "scope"):
                raise StreamNeedsASGI
            self.initial(self.request, *args, **kwargs)
            if login_demanded(request) and not is_authenticated(self.request.user):
                self.permission_denied(self.request)
            method = str(self.request.method).lower()
            if method not in self.http_method_names:
                self.http_method_not_allowed(self.request, *args, **kwargs)
            if method == "options":
                return self._final(self.options(self.request, *args, **kwargs))
            load(self.request)
        except Exception as error:
            return self._refuse(error)
        return None

    def _refuse(self, error: Exception) -> HttpResponseBase:
        if isinstance(error, (BadRequest, SuspiciousOperation)):
            error = _as_json(error)
        return self._final(self.handle_exception(error))

    def _final(self, response: HttpResponseBase) -> HttpResponseBase:
        check_headers(type(self), self.headers)
        self.headers = {**self.default_response_headers, **self.headers}
        # DRF takes any response of Django's here, and its stubs its own only.
        final: Any = response
        return self.finalize_response(self.request, final, *self.args, **self.kwargs)

    def _dressed(self, response: HttpResponseBase) -> HttpResponseBase:
        check_headers(type(self), self.headers)
        response["Cache-Control"] = "no-store, no-transform"
        response["X-Accel-Buffering"] = "no"
        for name, value in self.headers.items():
            response[name] = value
        return response

    async def _open(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        # Names the methods that a stream may have, for dispatch() does without: http_method_names
        # says which it does have.
        raise NotImplementedError

    get = head = post = put = patch = delete = _open

    def perform_content_negotiation(
        self, request: Request, force: bool | None = False
    ) -> tuple[BaseRenderer, str]:
        """Refuse with 406 who does not accept an event stream; whatever is rendered is JSON."""
        media_type = JSONRenderer.media_type
        if not force and request.method != "OPTIONS":
            # With its parameters, which AcceptHeaderVersioning looks for.
            _, media_type = self.get_content_negotiator().select_renderer(
                request, [EventStreamRenderer()], self.format_kwarg
            )
        return JSONRenderer(), media_type

    def raise_uncaught_exception(self, exc: Exception) -> Any:
        """Let Django's error handling see what DRF's exception handler did not answer."""
        if not hasattr(self.request, "accepted_renderer"):
            # Which DRF wants to know in DEBUG, also of an error that came before negotiation.
            self.request.accepted_renderer = JSONRenderer()
        return super().raise_uncaught_exception(exc)


def _as_json(error: Exception) -> APIException:
    """Return what DRF answers as JSON, of an exception that Django answers with a page."""
    if isinstance(error, SuspiciousOperation):
        # As Django logs them, under the name of their class.
        logger = logging.getLogger(f"django.security.{type(error).__name__}")
        logger.error(str(error), exc_info=error)
    if isinstance(error, RequestDataTooBig):
        return BodyTooLarge()
    # Not a word on why, as Django does.
    return ParseError("Bad request.", code="bad_request")


@functools.cache
def _login_required_everywhere() -> bool:
    def is_it(path: str) -> bool:
        # By name: its module needs the apps of django.contrib, which a project may do without.
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
