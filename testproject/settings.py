"""Settings of the demo project. They are for development: change them before you deploy."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BASE_DIR = Path(__file__).resolve().parent.parent

# Good for this machine only. A deployed project keeps its key secret and sets DEBUG to False.
SECRET_KEY = "development-only-never-deploy-this-key"
DEBUG = os.environ.get("DJANGO_SSE_DEBUG", "1") != "0"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", "testserver"]

INSTALLED_APPS = [
    "daphne",  # first, so that `runserver` is Daphne's, which can hold streams
    "django_sse",
    "rest_framework",
    "rest_framework.authtoken",
    "corsheaders",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "testproject.shop",
]

# With `pip install "django-sse-views[openapi]"`, the demo has an OpenAPI document of its streams. The
# sidecar has the files of Swagger UI, so that its page needs no other host.
OPENAPI = [it for it in ("drf_spectacular", "drf_spectacular_sidecar") if find_spec(it)]
INSTALLED_APPS += OPENAPI

# django-htmx contains htmx, which one page of the demo needs.
INSTALLED_APPS += [it for it in ("django_htmx",) if find_spec(it)]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "testproject.urls"
ASGI_APPLICATION = "testproject.asgi.application"
WSGI_APPLICATION = "testproject.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "testproject.shop.views.pages_of_demo",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DJANGO_SSE_DB", BASE_DIR / "db.sqlite3"),
        "OPTIONS": {
            # Streams read while orders are written.
            "init_command": "PRAGMA journal_mode=WAL;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 10,
        },
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

DJANGO_SSE: dict[str, Any] = {"HEARTBEAT": {"PERIOD": 15}}
if "REDIS_URL" in os.environ:
    DJANGO_SSE["BROKER"] = {
        "BACKEND": "django_sse.brokers.redis.RedisBroker",
        "LOCATION": os.environ["REDIS_URL"],
    }
elif "DJANGO_SSE_SHARED" in os.environ or (
    "DJANGO_SSE_DB" not in os.environ and "pytest" not in sys.modules
):
    # With this broker, orders that a shell or another server saves arrive on every page too. Tests
    # have their own database, and choose their broker themselves.
    DJANGO_SSE["BROKER"] = {"BACKEND": "django_sse.brokers.database.DatabaseBroker"}

# Only `make demo` serves the pages "Market", "Work", "Team" and "HTML".
HAS_DEMO_PAGES = "DJANGO_SSE_SHARED" in os.environ

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.SessionAuthentication",
        "rest_framework.authentication.TokenAuthentication",
    ],
}
if "drf_spectacular" in OPENAPI:
    REST_FRAMEWORK["DEFAULT_SCHEMA_CLASS"] = "drf_spectacular.openapi.AutoSchema"

SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "The shop",
    "DESCRIPTION": "Streams beside an ordinary view.",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.2.0",  # the first one that can describe the events of a stream
    "SERVE_INCLUDE_SCHEMA": False,
}
if "drf_spectacular_sidecar" in OPENAPI:
    SPECTACULAR_SETTINGS |= {"SWAGGER_UI_DIST": "SIDECAR", "SWAGGER_UI_FAVICON_HREF": "SIDECAR"}

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "Deutsch"), ("fr", "Français")]
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "static/"

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "live"
LOGOUT_REDIRECT_URL = "live"
