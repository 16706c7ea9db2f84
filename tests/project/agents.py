"""What error trackers and performance agents do to an application from within."""

from __future__ import annotations

import copy
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.handlers.asgi import ASGIHandler

from django_sse.asgi import get_asgi_application


class Proxy:
    """Stands for an object: has its attributes, and says that it is of its class."""

    def __init__(self, wrapped: Any) -> None:
        object.__setattr__(self, "__wrapped__", wrapped)

    @property
    def __class__(self) -> Any:
        return type(self.__wrapped__)

    @property
    def __dict__(self) -> Any:
        return self.__wrapped__.__dict__

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__wrapped__, name, value)

    def __getitem__(self, name: Any) -> Any:
        return self.__wrapped__[name]

    def __setitem__(self, name: Any, value: Any) -> None:
        self.__wrapped__[name] = value

    def __aiter__(self) -> Any:
        return aiter(self.__wrapped__)

    def __copy__(self) -> Any:
        raise NotImplementedError


def around(application: Any) -> Any:
    """Give an application a copy of its scope, and functions in the place of the server's own."""

    async def observed(scope: Any, receive: Any, send: Any) -> None:
        async def observe_receive() -> Any:
            return await receive()

        async def observe_send(message: Any) -> None:
            await send(dict(message))

        await application(dict(scope), observe_receive, observe_send)

    return observed


def _middleware(change: Any) -> Any:
    def factory(get_response: Any) -> Any:
        if iscoroutinefunction(get_response):

            async def middleware(request: Any) -> Any:
                return await change(get_response, request)

            return markcoroutinefunction(middleware)
        raise AssertionError("A middleware of these tests is asynchronous.")

    factory.async_capable = True  # type: ignore[attr-defined]
    factory.sync_capable = False  # type: ignore[attr-defined]
    return factory


@_middleware
async def copies_request(get_response: Any, request: Any) -> Any:
    """Go on with a copy of the request."""
    return await get_response(copy.copy(request))


@_middleware
async def wraps_request(get_response: Any, request: Any) -> Any:
    """Go on with a wrapper of the request."""
    return await get_response(Proxy(request))


@_middleware
async def copies_response(get_response: Any, request: Any) -> Any:
    """Answer with a copy of the response."""
    return copy.copy(await get_response(request))


@_middleware
async def wraps_response(get_response: Any, request: Any) -> Any:
    """Answer with a wrapper of the response."""
    return Proxy(await get_response(request))


def wraps_view(view: Any) -> Any:
    """Return a view that has nothing of the one within."""

    async def observed(request: Any, *args: Any, **kwargs: Any) -> Any:
        return await view(request, *args, **kwargs)

    return observed


def observe() -> Any:
    """Return the project's application, as an agent that is started before Django leaves it."""
    # Agents replace the class's methods in their process; a subclass's would not be called.
    for name in ("__call__", "send_response"):
        _wrap(ASGIHandler, name)
    return around(get_asgi_application())


def _wrap(cls: type, name: str) -> None:
    original = getattr(cls, name)
    if name == "__call__":

        async def wrapper(self: Any, scope: Any, receive: Any, send: Any) -> None:
            async def handle(*args: Any) -> None:
                await original(self, *args)

            await around(handle)(scope, receive, send)

    else:

        async def wrapper(self: Any, response: Any, send: Any) -> None:  # type: ignore[misc]
            async def observe_send(message: Any) -> None:
                await send(message)

            await original(self, response, observe_send)

    setattr(cls, name, wrapper)
