"""Django middleware of the bench."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest


class Synchronous:
    """As many projects have them: a class with ``__call__()``, which Django runs in a thread."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        response = self.get_response(request)
        response["X-Synchronous"] = "yes"
        return response
