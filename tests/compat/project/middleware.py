"""Django middleware of the bench: one that knows no ``async``, and the remedies that the page names."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse

from .switches import is_stream

try:
    from django_structlog.middlewares import RequestMiddleware
except ImportError:  # The package is there in the bench's environment only.
    RequestMiddleware = object


class Synchronous:
    """As many projects have them: a class with ``__call__()``, which Django runs in a thread."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        response = self.get_response(request)
        response["X-Synchronous"] = "yes"
        return response


class StreamRequestMiddleware(RequestMiddleware):
    """django-structlog's middleware, which leaves the content of streams alone."""

    def handle_response(self, request: HttpRequest, response: Any) -> None:
        if is_stream(response):
            # It logs what it sees of a response, and wraps the content of one that streams.
            response = HttpResponse(status=response.status_code, headers=response.headers)
        super().handle_response(request, response)
