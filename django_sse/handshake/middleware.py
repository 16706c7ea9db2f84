"""Runs the methods of synchronous middleware in few trips to the request's thread.

Under ASGI, Django makes a trip to the request's thread and back for each ``process_request()``,
``process_view()`` and ``process_response()``. The usual middleware needs thirteen trips, which cost
more than what the methods do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from asgiref.sync import SyncToAsync, markcoroutinefunction, sync_to_async
from django.core.handlers.exception import convert_exception_to_response, response_for_exception
from django.utils.deprecation import MiddlewareMixin

from .response import current_exchange


class Joined(NamedTuple):
    """A chain of middleware, and the runs in it: the outermost one, and the one before the view."""

    chain: Any
    first: MiddlewareRun | None
    last: MiddlewareRun | None


def join(chain: Any) -> Joined:
    """Return a middleware chain that does the same in fewer trips.

    A run is adjacent middleware that is written with ``MiddlewareMixin`` and has no ``__call__()``
    of its own. Other middleware stays as Django has put it together. Middleware stays, too, if it
    is behind one whose ``get_response`` is synchronous or not an attribute.
    """
    above: Any = None
    first: MiddlewareRun | None = None
    run: list[Any] = []
    layer = chain
    while _is_layer(layer) and not _is_view(layer):
        middleware = layer.__wrapped__
        if _is_plain(middleware):
            run.append(middleware)
        else:
            chain, joined = _link(chain, above, run)
            first = joined if above is None else first
            above, run = middleware, []
        layer = getattr(middleware, "get_response", None)
    chain, joined = _link(chain, above, run)
    first = joined if above is None else first
    return Joined(chain, first, joined if _is_view(layer) else None)


def _link(chain: Any, above: Any, run: list[Any]) -> tuple[Any, MiddlewareRun | None]:
    if not run:
        return chain, None
    joined = MiddlewareRun(run)
    layer = convert_exception_to_response(joined)
    if above is None:
        return layer, joined
    above.get_response = layer
    return chain, joined


async def _example(request: Any) -> Any:
    raise NotImplementedError


# The code of the function that Django puts around each asynchronous middleware, and the view.
_LAYER = convert_exception_to_response(_example).__code__


def _is_layer(handler: Any) -> bool:
    return getattr(handler, "__code__", None) is _LAYER


def _is_view(handler: Any) -> bool:
    """Return whether a layer is Django's own ``_get_response_async()``, which calls the view."""
    wrapped = getattr(handler, "__wrapped__", None)
    return getattr(wrapped, "__name__", None) == "_get_response_async"


def _is_plain(middleware: Any) -> bool:
    kind = type(middleware)
    return (
        isinstance(middleware, MiddlewareMixin)
        and kind.__call__ is MiddlewareMixin.__call__
        and kind.__acall__ is MiddlewareMixin.__acall__
        and middleware.async_mode
    )


class MiddlewareRun:
    """Adjacent middleware, as one asynchronous middleware.

    It calls the methods in the order of Django's chain and in the request's thread. What each of
    them gets, and how an exception becomes a response, is the same, too.
    """

    def __init__(self, run: list[Any]) -> None:
        """Take the middleware, outermost first."""
        self._run = run
        self._get_response = run[-1].get_response
        #: Called in the thread after the last ``process_request()``, if none of them has answered.
        self.before_view: Callable[[Any], None] | None = None
        #: Called in the thread after the last ``process_response()``.
        self.at_end: Callable[[Any], None] | None = None
        self._enter_in_thread = sync_to_async(self._enter)
        self._leave_in_thread = sync_to_async(self._leave_all)
        markcoroutinefunction(self)

    async def __call__(self, request: Any) -> Any:
        """Return the response of the first middleware that answers, or else the view's."""
        response = await self._enter_in_thread(request)
        if response is not None:
            return response
        response = await self._get_response(request)
        return await self._leave_in_thread(request, response)

    def _enter(self, request: Any) -> Any:
        for index, middleware in enumerate(self._run):
            if not hasattr(middleware, "process_request"):
                continue
            try:
                response = middleware.process_request(request)
            except Exception as error:
                # Django turns it into a response between this middleware and the one before it.
                response = response_for_exception(request, error)
                return self._leave(request, response, self._run[:index])
            if response:
                return self._leave(request, response, self._run[: index + 1])
        if self.before_view is not None:
            self.before_view(request)
        return None

    def _leave_all(self, request: Any, response: Any) -> Any:
        response = self._leave(request, response, self._run)
        if self.at_end is not None:
            self.at_end(response)
        return response

    def _leave(self, request: Any, response: Any, run: list[Any]) -> Any:
        """Pass the response through middleware, from the inside out."""
        for middleware in reversed(run):
            if not hasattr(middleware, "process_response"):
                continue
            try:
                response = middleware.process_response(request, response)
            except Exception as error:
                response = response_for_exception(request, error)
        return response


class ViewMiddleware:
    """The ``process_view()`` methods of a project, called in one trip to the request's thread.

    ``call_early()`` calls them in a trip that is made anyway. Without that, they need one of their own.
    """

    def __init__(self, methods: list[Any]) -> None:
        """Take the methods as Django has adapted them, all of which were synchronous."""
        self._methods = [it.func for it in methods]

    @staticmethod
    def suits(methods: list[Any]) -> bool:
        """Return whether there are methods, and Django has adapted all of them to be awaited."""
        return bool(methods) and all(isinstance(it, SyncToAsync) for it in methods)

    async def __call__(self, request: Any, view: Any, args: Any, kwargs: Any) -> Any:
        """Return the first response of a method, or ``None``, as Django's handler expects of one."""
        exchange: Any = current_exchange.get()
        resolved: ResolvedView | None = None if exchange is None else exchange.resolved
        if resolved is None or resolved.request is not request:
            return await sync_to_async(self._apply)(request, view, args, kwargs)
        exchange.resolved = None
        if resolved.error is not None:
            raise resolved.error
        return resolved.response

    def call_early(self, request: Any, match: Any) -> ResolvedView:
        """Call the methods in the request's thread, before Django's handler awaits them."""
        try:
            return ResolvedView(request, match, self._apply(request, *match))
        except Exception as error:
            return ResolvedView(request, match, error=error)

    def _apply(self, request: Any, view: Any, args: Any, kwargs: Any) -> Any:
        for method in self._methods:
            response = method(request, view, args, kwargs)
            if response:
                return response
        return None


@dataclass(slots=True)
class ResolvedView:
    """A request's view, and what the ``process_view()`` methods have returned or raised for it."""

    request: Any
    match: Any
    response: Any = None
    error: Exception | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the view is called next."""
        return self.response is None and self.error is None
