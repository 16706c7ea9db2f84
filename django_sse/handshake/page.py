"""The live page of a stream: what a browser shows at the stream's own address."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.template import TemplateDoesNotExist, loader
from django.urls import NoReverseMatch, reverse
from django.utils.cache import patch_vary_headers
from django.utils.translation import get_language, get_language_bidi, ngettext
from django.utils.translation import gettext as _
from rest_framework.renderers import BaseRenderer, BrowsableAPIRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.settings import api_settings

from django_sse.connection.users import is_authenticated
from django_sse.streams.following import topics_of_class
from django_sse.topics.declarations import type_name
from django_sse.wire.events import ServerSentEvent

from .form import form_of_body

#: The template of the page. A project may have its own of this name.
TEMPLATE = "django_sse/stream.html"


class _OnPage:
    """Marks the renderer of a request that is answered with a page, or refused with one."""

    # A mixin before DRF's renderer.

    def get_default_renderer(self, view: Any) -> BaseRenderer:
        """Return what renders the refusal inside of the page."""
        return JSONRenderer()

    def show_form_for_method(self, *args: Any) -> bool:
        """Return False: a refusal has no forms."""
        return False


def shows_page(request: Request) -> bool:
    """Return whether a request, whose content was negotiated, is to be answered with the page."""
    return isinstance(getattr(request, "accepted_renderer", None), _OnPage)


def page_renderers(view: Any, request: Request) -> list[BaseRenderer]:
    """Return the renderer of the page, where the view has one and the request may be a browser's.

    It renders refusals: they are pages of DRF's browsable API, or of the project's own subclass.
    """
    if request.method not in ("GET", "HEAD"):
        return []
    asked = "html" in request.META.get("HTTP_ACCEPT", "") or request.META.get("QUERY_STRING")
    if not asked or not is_browsable(view):
        return []
    return [_refusals()()]


def page_response(view: Any) -> HttpResponse:
    """Return the page of a view whose handshake has passed; it makes queries, so run it in a thread."""
    request = view.request._request
    content = loader.get_template(TEMPLATE).render(_context(view), request)
    response = HttpResponse(content)
    response["Cache-Control"] = "no-store"
    for name, value in view.headers.items():
        response[name] = value
    patch_vary_headers(response, ["Accept"])
    return response


def is_browsable(view: Any) -> bool:
    """Return whether a browser that opens the view's address gets the page."""
    return _by_default() if view.browsable is None else bool(view.browsable)


@functools.cache
def _by_default() -> bool:
    """Return whether the project has DRF's browsable API, and can show pages."""
    if _projects_renderer() is None:
        return False
    try:
        for name in (TEMPLATE, BrowsableAPIRenderer.template):
            loader.get_template(name)
    except TemplateDoesNotExist:
        return False
    return True


def _projects_renderer() -> type[BrowsableAPIRenderer] | None:
    # Imported classes, which the stubs take for the names in the settings.
    classes: Any = api_settings.DEFAULT_RENDERER_CLASSES
    return next((it for it in classes if issubclass(it, BrowsableAPIRenderer)), None)


@functools.cache
def _refusals() -> type[BaseRenderer]:
    base = _projects_renderer() or BrowsableAPIRenderer
    return type("RefusalPage", (_OnPage, base), {})


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting in {"REST_FRAMEWORK", "TEMPLATES", "INSTALLED_APPS"}:
        _by_default.cache_clear()
        _refusals.cache_clear()


setting_changed.connect(_on_setting_changed)


def _context(view: Any) -> dict[str, Any]:
    request: Request = view.request
    names = view.http_method_names
    form = form_of_body(view) if "post" in names else None
    config: dict[str, Any] = {
        "url": _stream_address(request),
        "opens": "get" in names,
        "heartbeat": _heartbeat(view),
        "withLogin": is_authenticated(request.user),
        "language": get_language(),
        "texts": _texts(),
    }
    if form is not None:
        header = settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-")
        config["csrf"] = {"header": header, "token": get_token(request._request)}
    return {
        "name": view.get_view_name(),
        "description": view.get_view_description(html=True),
        "methods": [name.upper() for name in names if name in ("get", "post", "put", "patch")],
        "about": list(_about(view)),
        "form": form,
        "config": config,
        "user": request.user,
        "login_url": _link("rest_framework:login"),
        "logout_url": _link("rest_framework:logout"),
        "language": get_language() or settings.LANGUAGE_CODE,
        "direction": "rtl" if get_language_bidi() else "ltr",
    }


def _link(name: str) -> str | None:
    try:
        return reverse(name)
    except NoReverseMatch:
        return None


def _stream_address(request: Request) -> str:
    """Return the path and the query of the stream; without the parameter that asked for the page."""
    query = request._request.GET.copy()
    query.pop(api_settings.URL_FORMAT_OVERRIDE or "", None)
    path: str = request._request.path
    return f"{path}?{query.urlencode()}" if query else path


def _heartbeat(view: Any) -> dict[str, Any] | None:
    """Return the fields by which the page recognizes a heartbeat, as far as they are fixed."""
    heartbeat = view._own_heartbeat()
    if not heartbeat:
        return None
    event = heartbeat.event
    if not isinstance(event, ServerSentEvent):
        return {"event": None, "comments": None}
    return {"event": event.event, "comments": event.comments}


def _about(view: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield what a view says of itself: labels, and values for people."""
    if topics := view.followed_topics or topics_of_class(view):
        yield _("Topics"), list(topics)
    if declared := view.declarations(topics):
        named = {name: it for part in declared for name, it in part.events.items()}
        yield (
            _("Events"),
            [f"{name or _('without a name')}: {type_name(it)}" for name, it in named.items()],
        )
    heartbeat = view._own_heartbeat()
    yield _("Heartbeat"), [_every(heartbeat.period) if heartbeat else _("off")]
    retry = view._own_retry()
    if retry is not None:
        yield _("Reconnection time"), [f"{retry} ms"]
    if topics:
        yield _("Slow clients"), [f"overflow = {view.overflow!r}"]
    if view.rewind:
        yield _("Newest events at the start"), [str(view.rewind)]
    for label, classes in (
        (_("Authentication"), view.authentication_classes),
        (_("Permissions"), view.permission_classes),
        (_("Throttles"), view.throttle_classes),
    ):
        # A permission may be an expression of several, which has no name.
        yield label, [getattr(it, "__name__", str(it)) for it in classes] or [_("none")]
    if period := view._recheck_seconds():
        yield _("User checked again"), [_every(period)]
    if duration := view._duration_seconds():
        yield _("Longest duration"), [_seconds(duration)]
    if view.max_connections_per_user is not None:
        yield _("Streams of one user"), [str(view.max_connections_per_user)]


def _every(period: float) -> str:
    return _("every %(duration)s") % {"duration": _seconds(period)}


def _seconds(number: float) -> str:
    text = ngettext("%(number)s second", "%(number)s seconds", int(number) if number == 1 else 2)
    return text % {"number": f"{number:g}"}


def _texts() -> dict[str, str]:
    """Return the texts of the page's script, in the reader's language."""
    return {
        "connecting": _("Connecting …"),
        "open": _("Open"),
        "waiting": _("Connection lost. Reconnecting in {seconds} s …"),
        "closed": _("Disconnected"),
        "ended": _("The stream has ended."),
        "finished": _("The stream has finished (204). Clients do not reconnect."),
        "refused": _("Refused with {status}"),
        "noStream": _("The answer is not an event stream: {type}"),
        "paused": _("Resume (new: {count})"),
        "pause": _("Pause"),
        "resume": _("Resume"),
        "copied": _("Copied"),
        "notCopied": _("The browser does not allow copying. The text is selected."),
        "allEvents": _("All events"),
        "noName": _("without a name"),
        "heartbeat": _("Heartbeat"),
        "comment": _("Comment"),
        "cursor": _("Id only"),
        "retry": _("Reconnection time: {ms} ms"),
        "reset": _("History lost: clients start anew"),
        "dropped": _("Events were dropped for this slow client"),
        "revoked": _("The stream was ended by the server"),
        "connected": _("Connected"),
        "resumedFrom": _("Connected, resuming after {id}"),
        "lost": _("Connection lost"),
        "unfinished": _("The connection ended within an event, which is discarded."),
        "more": _("… {count} more"),
        "rate": _("Events a second in the last minute: now {now}, most {most}"),
        "invalidJson": _("This is not valid JSON: {problem}"),
        "withLogin": _("Add the cookie of your log-in: -b 'sessionid=…'"),
        "useId": _("Reconnect from this id"),
    }
