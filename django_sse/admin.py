"""The staff page "Open streams": the open streams of all processes, and a button that ends one.

The page is in the admin's index like a model, but is not a model of the project. Its class is in an
app registry of its own, so there is no table, no migration and no content type. The permission
``django_sse.view_openstream`` shows the page, and ``django_sse.delete_openstream`` lets a user end
streams. Superusers have both, and so have users to whom an authentication backend gives them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.apps import apps
from django.apps.registry import Apps
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from .brokers import get_broker
from .brokers.memory import MemoryBroker
from .exceptions import BrokerError
from .topics.orders import close_streams, reports

#: Seconds for which the page waits for the processes' answers.
WAIT_SECONDS = 1.0
#: The most streams that the page shows; a search finds the others.
MAX_SHOWN = 500


class OpenStream(models.Model):
    """Stands for the page in the admin. It has no table, and is never queried."""

    class Meta:
        """Keeps the class out of the project's models."""

        # A registry of its own, which makemigrations and content types do not see.
        apps = Apps()
        app_label = "django_sse"
        managed = False
        verbose_name = "open stream"
        verbose_name_plural = "open streams"

    def __str__(self) -> str:
        """Return a name, which the admin wants; there are no instances."""
        return "open stream"


@admin.register(OpenStream)
class OpenStreamAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Lists the open streams of all processes, and ends one. Works under ASGI and WSGI."""

    change_list_template = "admin/django_sse/openstream/change_list.html"

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the list and of the button that ends a stream."""
        wrap = self.admin_site.admin_view
        return [
            path("", wrap(self.list_view), name="django_sse_openstream_changelist"),
            path("end/", wrap(self.end_view), name="django_sse_openstream_end"),
        ]

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Show the app to users who may see its only page."""
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: streams are opened by their clients."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: a stream cannot be changed."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may see the open streams and their users."""
        user: Any = request.user
        return bool(user.has_perm("django_sse.view_openstream"))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may end streams."""
        user: Any = request.user
        return bool(user.has_perm("django_sse.delete_openstream"))

    def list_view(self, request: HttpRequest) -> HttpResponse:
        """Ask all processes for their streams, and list them, the oldest first."""
        return require_GET(self._list)(request)

    def end_view(self, request: HttpRequest) -> HttpResponse:
        """End the stream that the POST names, as ``revoked``, and return to the list."""
        return require_POST(self._end)(request)

    def _list(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        found: list[dict[str, Any]] = []
        away = False
        try:
            found = reports(wait=WAIT_SECONDS, streams=True)
        except BrokerError:
            away = True
        wanted = request.GET.get("q", "").strip()
        streams = [stream for report in found for stream in report["streams"]]
        matching = [stream for stream in streams if _mentions(stream, wanted.casefold())]
        matching.sort(key=lambda stream: -stream["age"])
        # A process with several event loops answers once for each of them, with the same numbers.
        open_by_process = {report["id"]: report["stats"]["open"] for report in found}
        context = {
            **self.admin_site.each_context(request),
            "title": _("Open streams"),
            "opts": self.opts,
            "app_name": apps.get_app_config("django_sse").verbose_name,
            "streams": [_row(stream) for stream in matching[:MAX_SHOWN]],
            "matching": len(matching),
            "open": sum(open_by_process.values()),
            "unlisted": max(0, sum(open_by_process.values()) - len(streams)),
            "processes": len(open_by_process),
            "away": away,
            "one_process": isinstance(get_broker(), MemoryBroker),
            "may_end": self.has_delete_permission(request),
            "query": wanted,
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, self.change_list_template, context)

    def _end(self, request: HttpRequest) -> HttpResponse:
        if not self.has_delete_permission(request):
            raise PermissionDenied
        stream = request.POST.get("stream", "")
        if stream:
            try:
                close_streams(stream=stream)
            except BrokerError:
                text = _("The broker is away: the stream was not ended.")
                self.message_user(request, text, messages.ERROR)
            else:
                text = _("The stream %s is being ended.") % stream
                self.message_user(request, text, messages.SUCCESS)
        address = reverse(
            "admin:django_sse_openstream_changelist", current_app=self.admin_site.name
        )
        if wanted := request.POST.get("q", ""):
            address = f"{address}?{urlencode({'q': wanted})}"
        return HttpResponseRedirect(address)


def _mentions(stream: dict[str, Any], wanted: str) -> bool:
    fields = ("view", "path", "user", "user_name", "address", "id")
    texts = [str(stream[field]) for field in fields] + stream["topics"]
    return any(wanted in text.casefold() for text in texts)


def _row(stream: dict[str, Any]) -> dict[str, Any]:
    return stream | {
        "age": timedelta(seconds=round(stream["age"])),
        "view_name": stream["view"].rpartition(".")[2],
    }
