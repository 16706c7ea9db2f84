"""The routes of the bench, and those of the stranger."""

from django.conf import settings
from django.urls import include, path
from django.utils.module_loading import import_string

from django_sse import SSEView, sse_path

from . import streams, views

urlpatterns = [
    sse_path("open/", streams.Open, name="open"),
    sse_path("private/", streams.Private, name="private"),
    sse_path("failing/", streams.Failing, name="failing"),
    path("publish/", views.publish_one),
    path("publish/many/", views.publish_many),
    path("state/", views.state),
    path("page/", views.page),
]
for route, target in settings.STRANGER.urls.items():
    if target.endswith(".urls"):
        urlpatterns.append(path(route, include(target)))
        continue
    view = import_string(target)
    if isinstance(view, type) and issubclass(view, SSEView):
        urlpatterns.append(sse_path(route, view))
    else:
        urlpatterns.append(path(route, view.as_view() if hasattr(view, "as_view") else view))
