"""The addresses of the jobs."""

from django_sse import sse_path

from . import streams

urlpatterns = [
    sse_path("counting/", streams.Counting),
    sse_path("counting/<str:job>/", streams.Counting),
    sse_path("celery/", streams.InCelery),
    sse_path("celery/<str:job>/", streams.InCelery),
    sse_path("slowly/", streams.Slowly),
    sse_path("slowly/<str:job>/", streams.Slowly),
    sse_path("task/", streams.InTask),
    sse_path("task/<str:job>/", streams.InTask),
    sse_path("coroutine/", streams.InCoroutine),
    sse_path("coroutine/<str:job>/", streams.InCoroutine),
]
