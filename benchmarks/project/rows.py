"""The rows of a model as streams, beside a topic to which the same rows are published by hand."""

from __future__ import annotations

import os
import time
from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from rest_framework import serializers

from django_sse import ModelSSEView, SSEView, publish
from django_sse.rows.group import Group
from django_sse.rows.plan import Plan


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["id", "username", "first_name", "last_name", "email", "date_joined"]


class Topic(SSEView):
    """What a project would write by hand for all rows."""

    authentication_classes = []
    topics = ["users"]
    outbox_limit = 64 * 1024 * 1024


_queries = {"count": 0, "pages": 0}

# A process with such a view publishes the changes of its model, which what is beside it does not.
if "BENCHMARK_ROWS" in os.environ:

    class Rows(ModelSSEView):
        """All rows, those of a part, or those above a number: a queryset for each number."""

        authentication_classes = []
        serializer_class = UserSerializer
        queryset = User.objects.all()
        outbox_limit = 64 * 1024 * 1024

        def get_queryset(self) -> Any:
            part, above = self.request.GET.get("part"), self.request.GET.get("above")
            if part is not None:
                return User.objects.filter(first_name=part)
            return User.objects.filter(pk__gt=-int(above or 0))

    read = Plan.read

    def counted(self: Plan, *args: Any) -> Any:
        _queries["count"] += 1
        return read(self, *args)

    Plan.read = counted  # type: ignore[method-assign]

    page = Plan.page

    def counted_page(self: Plan, *args: Any) -> Any:
        _queries["pages"] += 1
        return page(self, *args)

    Plan.page = counted_page  # type: ignore[method-assign]

if "BENCHMARK_UNSHARED" in os.environ:
    # Each client reads and encodes each page of its snapshot itself.
    shared = Group.page

    async def unshared(self: Group, after: Any, size: int) -> Any:
        self._pages.clear()
        return await shared(self, after, size)

    Group.page = unshared  # type: ignore[method-assign]


def pages(request: HttpRequest) -> HttpResponse:
    """Make users until there are so many; return how many pages of snapshots were read so far."""
    missing = int(request.GET.get("users", 0)) - User.objects.count()
    User.objects.bulk_create(User(username=f"many{number}") for number in range(missing))
    text = str(_queries["pages"])
    return HttpResponse(text, headers={"Content-Length": str(len(text))})


def change(request: HttpRequest) -> JsonResponse:
    """Save a row so many times, at a rate; return how many queries have checked changes so far."""
    count, rate = int(request.GET["count"]), float(request.GET["rate"])
    user, begun = User.objects.earliest("pk"), time.monotonic()
    user.first_name, _queries["count"] = "0", 0
    for number in range(count):
        user.last_name = str(number)
        user.save()
        if "BENCHMARK_ROWS" not in os.environ:
            publish("users", user, event="changed", serializer=UserSerializer)
        time.sleep(max(begun + (number + 1) / rate - time.monotonic(), 0))
    response = JsonResponse(_queries["count"], safe=False)
    # No middleware adds it here.
    response["Content-Length"] = str(len(response.content))
    return response
