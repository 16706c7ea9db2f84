"""The streams of numbers, with the admin beside them."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("tests.integration.topics.project.urls")),
]
