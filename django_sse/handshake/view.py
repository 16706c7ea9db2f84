"""The handshake: a Django request passes DRF's policies and gets the response of a stream, or an error."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, cast

from asgiref.sync import sync_to_async
from django.core.exceptions import (
    BadRequest,
    ImproperlyConfigured,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views import View
from rest_framework.exceptions import APIException, ParseError
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from django_sse.connection.shutdown import shutdown
from django_sse.connection.stream import Stream
from django_sse.connection.users import is_authenticated
from django_sse.exceptions import StreamFinished
from django_sse.monitoring.metrics import counters
from django_sse.topics.hub import Heard, get_hub
from django_sse.topics.orders import ended_since, newest_order
from django_sse.wire.events import CONTENT_TYPE

from .early import Admission, admit_early
from .limits import ComeBackLater, come_back_response, names_event_stream, take_place
from .login import DemandedByHandshake, login_demanded
from .page import page_renderers, page_response, shows_page
from .request import BodyTooLarge, load
from .response import Connection, EventStreamResponse, current_exchange
from .shortcuts import asks_for_stream_only, can_run_inline
from .turns import mark

#: Headers that frame a message. The server writes them; a view's own would break the stream or end
#: it.
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
    """Raise ``ImproperlyConfigured`` for a header that only the server may write (RFC 9110, 7.6.1)."""
    for name, value in headers.items():
        if name.lower() in FRAMING:
            raise ImproperlyConfigured(
                f"{view.__qualname__}.headers must not have {name!r} (got {value!r}): the server "
                "writes it, since a stream has no length and its connection no other use. Leave it "
                "out."
            )


class StreamNeedsASGI(APIException):
    """Answered under WSGI, which cannot keep a stream open."""

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


class _EveryDatabase(set[str]):
    """The ``_non_atomic_requests`` of a stream's view: no database wraps it in a transaction."""

    def __contains__(self, alias: object) -> bool:
        return True


class Handshake(APIView, Stream):
    """An asynchronous ``APIView`` that answers with a stream, or with a plain HTTP error as JSON.

    DRF's synchronous part runs to its end in one trip to the request's thread, and reads there what
    is lazy on the request. ``connect()`` is awaited after it.
    """

    http_method_names = ["get", "head", "options"]
    renderer_classes = [EventStreamRenderer]
    #: Whether a browser that opens the stream's address gets a page that shows its events. ``None``
    #: is yes where DRF's ``BrowsableAPIRenderer`` is among the default renderers.
    browsable: bool | None = None

    # Whether connect() has returned, so that disconnect() is due.
    _connected: bool = False
    # Attributes that the streams of a class have besides those in _KEYS.
    _own_keys: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the view for ``urls.py``; ``initkwargs`` replace class attributes, as in Django."""
        view = super().as_view(**initkwargs)
        # Keep the mark that method_decorator(login_not_required, name="dispatch") put on the class.
        marked = getattr(cls.dispatch, "login_required", None) is False
        view.login_required = False if marked else DemandedByHandshake()  # type: ignore[attr-defined]
        mark(view)
        _share_keys(cls)
        if cls.dispatch is Handshake.dispatch and cls.setup is View.setup:
            admit_early(view, partial(cls._admit_early, initkwargs))
        view._non_atomic_requests = _EveryDatabase()  # type: ignore[attr-defined]
        return view

    async def connect(self) -> None:
        """Accept the request, or raise to refuse it; called after DRF's policies.

        Any DRF or Django exception becomes its HTTP error; ``StreamFinished`` becomes 204. The
        stream's response has the headers of ``self.headers``. This runs in the request, and may use
        the request's database connection. When it raises, or the client leaves meanwhile,
        ``disconnect()`` is not called.
        """

    async def disconnect(self) -> None:
        """Clean up; called exactly once for every ``connect()`` that returned."""

    async def prepare(self) -> None:
        """Prepare what the stream needs before there is a response; called after ``connect()``."""

    async def abandon(self, reason: str) -> None:
        """End a stream that never began, and give its place back.

        Runs ``disconnect()`` if ``connect()`` has returned.
        """
        raise NotImplementedError

    # DRF's dispatch in two parts: the one that runs in a thread, and the one that does not.

    async def dispatch(  # type: ignore[override]  # an asynchronous view
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        """Run the handshake and return the response, rendered later by Django."""
        if not hasattr(request, "scope"):
            # Under WSGI, the event loop lives for this call only. _admit() refuses the request.
            return cast(
                "HttpResponseBase", await sync_to_async(self._admit)(request, *args, **kwargs)
            )
        # Watch from now on: the signal may come before the stream begins.
        shutdown.watch(asyncio.get_running_loop())
        exchange = current_exchange.get()
        if exchange is not None and exchange.overrun and names_event_stream(request):
            counters.refused += 1
            self._accept(request, *args, **kwargs)
            return self._dressed(come_back_response())
        heard = None if exchange is None else exchange.heard
        if heard is None or exchange is None or heard.hub is not get_hub():
            return await self._answer(request, None, None, *args, **kwargs)
        admission = exchange.take_admission(request)
        view = self if admission is None else cast("Handshake", admission.view)
        return await view._answer(request, heard, admission, *args, **kwargs)

    async def _answer(
        self,
        request: HttpRequest,
        heard: Heard | None,
        admission: Admission | None,
        *args: Any,
        **kwargs: Any,
    ) -> HttpResponseBase:
        try:
            # A stream whose user is authenticated before an order to end the user's streams must
            # get it.
            async with get_hub().heeding():
                orders = newest_order() if heard is None else heard.order
                answer = await self._answer_without_stream(request, admission, *args, **kwargs)
            if answer is None:
                answer = await self._answer_with_stream(request, orders)
        except BaseException:
            # It does nothing for a stream that was abandoned already.
            await self.abandon("error")
            raise
        return answer

    async def _answer_without_stream(
        self, request: HttpRequest, admission: Admission | None, *args: Any, **kwargs: Any
    ) -> HttpResponseBase | None:
        """Return a refusal or the page, or ``None`` when the stream has its place."""
        if admission is not None:
            if admission.error is not None:
                raise admission.error
            if admission.response is not None:
                return cast("HttpResponseBase", admission.response)
        elif not (can_run_inline(self, request) and self._admit_at_once(request, *args, **kwargs)):
            response = await sync_to_async(self._admit)(request, *args, **kwargs)
            if response is not None:
                return response
        if shows_page(self.request):
            return await self._show_page(request)
        try:
            take_place(self, self.request)
        except ComeBackLater as refusal:
            return await self._refuse_for_now(request, refusal)
        return None

    async def _answer_with_stream(self, request: HttpRequest, orders: int) -> HttpResponseBase:
        """Run ``connect()``, and return the response of the stream, or of its refusal.

        ``orders`` is the number of the newest order to end streams, from before the authentication.
        """
        try:
            exchange = current_exchange.get()
            if exchange is not None:
                # From here on, the view's own code may wait for any time.
                exchange.end_turn()
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
        except ComeBackLater as refusal:
            await self.abandon("error")
            return await self._refuse_for_now(request, refusal)
        except Exception as error:
            await self.abandon("error")
            return await sync_to_async(self._refuse)(error)
        except BaseException as error:
            await self.abandon("client" if isinstance(error, asyncio.CancelledError) else "error")
            raise

    async def _refuse_for_now(
        self, request: HttpRequest, refusal: ComeBackLater
    ) -> HttpResponseBase:
        if names_event_stream(request):
            return self._dressed(come_back_response())
        return await sync_to_async(self._refuse)(refusal)

    async def _show_page(self, request: HttpRequest) -> HttpResponseBase:
        """Answer with the page, where ``connect()`` does not refuse the stream itself."""
        try:
            if "get" in self.http_method_names:
                exchange = current_exchange.get()
                if exchange is not None:
                    exchange.end_turn()
                try:
                    await self.connect()
                    self._connected = True
                    await self.prepare()
                except StreamFinished:
                    pass  # The page tells it, once it has asked for the stream.
            check_headers(type(self), self.headers)
            response = await sync_to_async(page_response)(self)
        except Exception as error:
            await self.abandon("error")
            return await sync_to_async(self._refuse)(error)
        await self.abandon("completed")
        return response

    def _admit_at_once(self, request: HttpRequest, *args: Any, **kwargs: Any) -> bool:
        """Do what ``_admit()`` does, on the event loop; return False where that has to do it."""
        try:
            self._accept(request, *args, **kwargs)
            self._apply_policies(request, *args, **kwargs)
        except Exception:
            # The code that makes the answer may wait for a database.
            return False
        return True

    @classmethod
    def _admit_early(
        cls, initkwargs: dict[str, Any], request: HttpRequest, args: Any, kwargs: Any
    ) -> Admission:
        """Do what ``_admit()`` does before Django's handler calls the view; see ``dispatch()``."""
        view = cls(**initkwargs)
        view.setup(request, *args, **kwargs)
        try:
            return Admission(request, view, view._admit(request, *args, **kwargs))
        except Exception as error:
            return Admission(request, view, error=error)

    def _admit(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase | None:
        """Apply DRF's policies; return the refusal, or ``None`` when the stream may begin."""
        self._accept(request, *args, **kwargs)
        try:
            return self._apply_policies(request, *args, **kwargs)
        except Exception as error:
            return self._refuse(error)

    def _accept(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs
        self.headers: dict[str, str] = {}
        # The user that middleware found. DRF's authentication puts its own user in the same place.
        self.user_before: Any = getattr(request, "user", None)
        self.request: Request = self.initialize_request(request, *args, **kwargs)

    def _apply_policies(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase | None:
        if not hasattr(request, "scope"):
            raise StreamNeedsASGI
        self.initial(self.request, *args, **kwargs)
        if login_demanded(request) and not is_authenticated(self.request.user):
            self.permission_denied(self.request)
        method = str(self.request.method).lower()
        # A browser opens the page by GET, also where the stream itself answers a POST.
        if method not in self.http_method_names and not shows_page(self.request):
            self.http_method_not_allowed(self.request, *args, **kwargs)
        if method == "options":
            return self._final(self.options(self.request, *args, **kwargs))
        load(self.request)
        return None

    def _refuse(self, error: Exception) -> HttpResponseBase:
        if isinstance(error, (BadRequest, SuspiciousOperation)):
            error = _as_json(error)
        return self._final(self.handle_exception(error))

    def _final(self, response: HttpResponseBase) -> HttpResponseBase:
        check_headers(type(self), self.headers)
        self.headers = {**self.default_response_headers, **self.headers}
        if shows_page(self.request):
            self.headers.setdefault("Vary", "Accept")
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
        # Never called. DRF and schema tools look for these methods; http_method_names says which of
        # them the view allows.
        raise NotImplementedError

    get = head = post = put = patch = delete = _open

    def perform_content_negotiation(
        self, request: Request, force: bool | None = False
    ) -> tuple[BaseRenderer, str]:
        """Refuse with 406 a client that accepts neither an event stream nor, as a browser, its page.

        Errors are rendered as JSON. Clients that get the page get them as a page of DRF's browsable
        API.
        """
        renderer: BaseRenderer = _JSON
        media_type = renderer.media_type
        if not force and request.method != "OPTIONS":
            negotiator = self.get_content_negotiator()
            if asks_for_stream_only(negotiator, request, self.format_kwarg):
                return renderer, CONTENT_TYPE
            pages = page_renderers(self, request)
            # Keep the parameters of the media type: AcceptHeaderVersioning looks for one.
            chosen, media_type = negotiator.select_renderer(
                request, [EventStreamRenderer(), *pages], self.format_kwarg
            )
            if chosen in pages:
                renderer = chosen
        return renderer, media_type

    def raise_uncaught_exception(self, exc: Exception) -> Any:
        """Let Django's error handling see what DRF's exception handler did not answer."""
        if not hasattr(self.request, "accepted_renderer"):
            # With DEBUG, DRF reads it, also for an error that came before negotiation.
            self.request.accepted_renderer = _JSON
        return super().raise_uncaught_exception(exc)


#: All requests share it, since a renderer keeps no state.
_JSON = JSONRenderer()
#: The attributes that a stream has while it follows topics, in the order in which they are set.
_KEYS = (
    *("args", "kwargs", "headers", "user_before", "_negotiator", "format_kwarg", "request"),
    *("_topics", "_has_topics", "_connected", "_lane", "_context", "_start"),
    *("scope", "event_loop", "opened_at", "_server", "_outbox", "_life", "_begun", "_waiter"),
    *("_pulse", "_announced", "_subscription", "_rewinds", "subscribed", "resumed"),
)
_shared: weakref.WeakSet[type] = weakref.WeakSet()


def _share_keys(view: type[Handshake]) -> None:
    """Let the streams of a class share the names of their attributes, and so save 1.6 kB each.

    CPython shares up to 30 names between the instances of a class, those that its first instances
    set. Where several streams open before the first one has all of its attributes, those that come
    last would not be among them, and each later instance would have a dict of its own.
    """
    if view not in _shared:
        _shared.add(view)
        first = view.__new__(view)
        for name in (*_KEYS, *view._own_keys):
            # Not where a project's view has put a property in its place.
            if not hasattr(getattr(view, name, None), "__set__"):
                object.__setattr__(first, name, None)


def _as_json(error: Exception) -> APIException:
    """Return DRF's counterpart of an exception that Django would answer with an HTML page."""
    if isinstance(error, SuspiciousOperation):
        # Django logs them to a logger with the name of their class.
        logger = logging.getLogger(f"django.security.{type(error).__name__}")
        logger.error(str(error), exc_info=error)
    if isinstance(error, RequestDataTooBig):
        return BodyTooLarge()
    # Like Django, do not tell the client why.
    return ParseError("Bad request.", code="bad_request")
