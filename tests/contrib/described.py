"""A project whose streams an OpenAPI document describes. Import it before the settings are made."""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, Any] = {
    "INSTALLED_APPS": [
        "django_sse",
        "rest_framework",
        "drf_spectacular",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
    ],
    "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    "REST_FRAMEWORK": {"DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema"},
    "ROOT_URLCONF": "tests.contrib.described_urls",
    "SECRET_KEY": "of the tests",
    "TEMPLATES": [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    "USE_TZ": True,
}
