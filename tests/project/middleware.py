"""Middleware of the kinds that projects have."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.utils import timezone
from django.utils.decorators import async_only_middleware, sync_only_middleware


@sync_only_middleware
def sync_header(get_response: Any) -> Any:
    """Add a header, the old way."""

    def middleware(request: Any) -> Any:
        response = get_response(request)
        response["X-Sync"] = "yes"
        return response

    return middleware


@async_only_middleware
def async_header(get_response: Any) -> Any:
    """Add a header and a cookie, the new way."""

    async def middleware(request: Any) -> Any:
        response = await get_response(request)
        response["X-Async"] = "yes"
        response.set_cookie("seen", "yes")
        return response

    return middleware


@sync_only_middleware
def time_zone(get_response: Any) -> Any:
    """Activate the time zone that the client names."""

    def middleware(request: Any) -> Any:
        if name := request.headers.get("X-Time-Zone"):
            timezone.activate(name)
        return get_response(request)

    return middleware


@async_only_middleware
def shouting(get_response: Any) -> Any:
    """Wrap the content of streams."""

    async def middleware(request: Any) -> Any:
        response = await get_response(request)
        if response.streaming:
            content = response.streaming_content

            async def louder() -> Any:
                async for chunk in content:
                    yield chunk.replace(b"o", b"O")

            response.streaming_content = louder()
        return response

    return middleware


@async_only_middleware
def maintenance(get_response: Any) -> Any:
    """Throw the response away, and answer something else."""

    async def middleware(request: Any) -> Any:
        await get_response(request)
        return HttpResponse("back soon", status=503)

    return middleware


@async_only_middleware
def other_stream(get_response: Any) -> Any:
    """Throw the response away, and stream something else."""

    async def middleware(request: Any) -> Any:
        await get_response(request)

        async def content() -> Any:
            yield b"something else"

        return StreamingHttpResponse(content())

    return middleware


@async_only_middleware
def broken(get_response: Any) -> Any:
    """Fail after the view."""

    async def middleware(request: Any) -> Any:
        await get_response(request)
        raise RuntimeError("the middleware is broken")

    return middleware


@async_only_middleware
def leaving(get_response: Any) -> Any:
    """Let the client leave at the very moment at which the response is ready."""

    async def middleware(request: Any) -> Any:
        response = await get_response(request)
        request.scope["leave"].set()
        return response

    return middleware
