"""Which streams of ``urls.py`` the documents and the typed client know, and under which address."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import Group
from django.urls import include, path
from rest_framework import serializers
from rest_framework.routers import DefaultRouter

from django_sse import ModelSSEView
from django_sse.contracts.streams import routed_streams


class GroupSerializer(serializers.ModelSerializer[Group]):
    class Meta:
        model = Group
        fields = ["id"]


class Groups(ModelSSEView):
    queryset = Group.objects.all()
    serializer_class = GroupSerializer
    lookup_value_regex = r"\d+\.\d+"


router = DefaultRouter()
router.register("v1.0/groups", Groups)
urlpatterns = [path("live/", include(router.urls))]


def test_streams_of_a_router_are_known_once(settings: Any) -> None:
    """A router has a second address for each, with the suffix of a format."""
    settings.ROOT_URLCONF = __name__
    assert [(it.path, it.name) for it in routed_streams()] == [
        ("/live/v1.0/groups/", "group-list"),
        ("/live/v1.0/groups/{pk}/", "group-detail"),
    ]
