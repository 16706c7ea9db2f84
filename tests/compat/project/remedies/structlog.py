from typing import Any

from django.http import HttpResponse
from django_structlog.middlewares import RequestMiddleware


class StreamRequestMiddleware(RequestMiddleware):
    """django-structlog's middleware, which leaves the content of streams alone."""

    def handle_response(self, request: Any, response: Any) -> None:
        if response.get("Content-Type") == "text/event-stream":
            # The parent logs what it sees of a response, and wraps the content of a streaming one.
            response = HttpResponse(status=response.status_code, headers=response.headers)
        super().handle_response(request, response)
