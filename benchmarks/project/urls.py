"""The pages of the project."""

from django.conf import settings
from django.urls import include, path

from django_sse import sse_path

from . import rows, streams, trace, views

urlpatterns = [
    path("warm-up/", views.warm_up),
    path("serialize/", views.serialize),
    path("collect/", views.collect),
    path("publish/", views.publish_async),
    path("publish/sync/", views.publish_sync),
    path("trace/mark/", trace.mark),
    path("trace/report/", trace.report),
    path("ordinary/", views.Ordinary.as_view()),
    path("own/", views.own),
    path("known/", views.known),
    path("cursor/", views.cursor),
    sse_path("idle/", streams.Idle),
    sse_path("idle/open/", streams.OpenIdle),
    sse_path("follow/open/", streams.OpenFollow),
    sse_path("idle/private/", streams.PrivateIdle),
    sse_path("burst/", streams.Burst),
    sse_path("burst/text/", streams.TextBurst),
    sse_path("burst/generator/", streams.GeneratorBurst),
    sse_path("follow/", streams.Follow),
    sse_path("rows/topic/", rows.Topic),
    path("rows/change/", rows.change),
    path("rows/pages/", rows.pages),
]

if hasattr(rows, "Rows"):
    urlpatterns.append(sse_path("rows/", rows.Rows))
if "django_eventstream" in settings.INSTALLED_APPS:
    urlpatterns.append(
        path("eventstream/", include("django_eventstream.urls"), {"channels": ["readings"]})
    )
