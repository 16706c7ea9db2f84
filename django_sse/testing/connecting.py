"""``connect()``: a client of a view, or of an ASGI application."""

from __future__ import annotations

import json as json_module
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.middleware.csrf import CSRF_SESSION_KEY
from django.test import AsyncClient
from django.utils.crypto import get_random_string
from django.utils.module_loading import import_string
from rest_framework.test import force_authenticate

from django_sse.asgi import ViewHandler
from django_sse.connection.users import anonymous_user
from django_sse.views import SSEView

from .client import MARK, TIMEOUT, StreamClient


@asynccontextmanager
async def connect(
    application: Any,
    path: str = "/",
    *,
    headers: Mapping[str, str] | None = None,
    user: Any = None,
    method: str = "GET",
    json: Any = None,
    body: bytes = b"",
    kwargs: Mapping[str, Any] | None = None,
    enforce_csrf_checks: bool = False,
    timeout: float = TIMEOUT,
) -> AsyncIterator[StreamClient]:
    """Connect to ``path`` of an ASGI application, or to a view; yields a ``StreamClient``.

    ``application`` is an ASGI application, an ``SSEView`` or its ``as_view(…)``. A view is served
    without middleware and ``urls.py``, with ``kwargs`` as its URL's arguments. With an application,
    ``user`` is logged in with a session of its own; with a view, ``user`` counts as authenticated.
    ``json`` is sent as the body. The end of the block disconnects, and waits for the view's
    ``disconnect()``. As with Django's test client, an application's ``user`` passes the CSRF
    protection unless ``enforce_csrf_checks``.

    Streams read the database in threads: a test that writes to it needs
    ``@pytest.mark.django_db(transaction=True)``, or a ``TransactionTestCase``.

    At the end of the block, this raises the exceptions of the application and of the stream. It
    raises ``AssertionError`` when no response begins within ``timeout`` seconds. An exception in
    the view's ``connect()`` becomes a response with the status 500, as for any client.
    """
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    if json is not None:
        body = json_module.dumps(json, cls=DjangoJSONEncoder).encode()
        sent.setdefault("content-type", "application/json")
    if body:
        sent.setdefault("content-length", str(len(body)))
    sent.setdefault("host", "testserver")
    view = _view_of(application)
    if view is not None:
        application = _TestedView(view, user)
    elif user is not None:
        token = None if enforce_csrf_checks else get_random_string(32)
        cookies = [await _session_cookie(user, token)]
        if token is not None:
            cookies.append(f"{settings.CSRF_COOKIE_NAME}={token}")
            header = settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-").lower()
            sent[header] = token
        sent["cookie"] = "; ".join(filter(None, [sent.get("cookie"), *cookies]))
    parts = urlsplit(path)
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": "http",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [(n.encode("latin-1"), v.encode("utf-8")) for n, v in sent.items()],
        "client": ("127.0.0.1", 12345),
        "server": ("testserver", 80),
        "url_route": {"args": (), "kwargs": dict(kwargs or {})},
    }
    client = scope[MARK] = StreamClient(application, scope, body)
    await client.start(timeout)
    try:
        yield client
    finally:
        await client.disconnect()
    # Not reached where the test fails by itself.
    if failure := client.unknown_failure():
        raise failure


def project_application() -> Any:
    """Return the ASGI application of the settings."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        raise ImproperlyConfigured(
            "sse_connect needs ASGI_APPLICATION, the dotted path of the project's application, in "
            "the settings."
        )
    return import_string(path)


def _view_of(application: Any) -> Any:
    if isinstance(application, type) and issubclass(application, SSEView):
        return application.as_view()
    owner = getattr(application, "cls", None)
    return application if isinstance(owner, type) and issubclass(owner, SSEView) else None


async def _session_cookie(user: Any, csrf_token: str | None) -> str:
    client = AsyncClient()
    await client.aforce_login(user)
    if csrf_token is not None and settings.CSRF_USE_SESSIONS:
        session = await client.asession()
        await session.aset(CSRF_SESSION_KEY, csrf_token)
        await session.asave()
    name = settings.SESSION_COOKIE_NAME
    return f"{name}={client.cookies[name].value}"


class _TestedView(ViewHandler):
    """Serves a view whose user counts as authenticated, whatever its authentication classes are."""

    def __init__(self, view: Any, user: Any) -> None:
        super().__init__(view)
        self._user = user

    def fill(self, request: Any) -> None:
        request.user = anonymous_user() if self._user is None else self._user
        if self._user is not None:
            force_authenticate(request, self._user)
