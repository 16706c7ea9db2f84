"""The settings of an ordinary project, with the one stranger that ``STRANGER`` names."""

import os

from django.utils.module_loading import import_string

from tests.compat.stranger import SQLITE
from tests.compat.strangers import find

STRANGER = find(os.environ["STRANGER"])

SECRET_KEY = "of the compatibility bench, and of nothing else"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "tests.compat.project.urls"
ASGI_APPLICATION = "tests.compat.project.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": STRANGER.engine, "NAME": os.environ["DATABASE"]}}
if STRANGER.engine != SQLITE:
    DATABASES["default"] |= {
        "HOST": "127.0.0.1",
        "PORT": os.environ["DATABASE_PORT"],
        "USER": "postgres",
    }
INSTALLED_APPS = [
    *STRANGER.apps_first,
    "django_sse",
    "rest_framework",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    *STRANGER.apps,
]
MIDDLEWARE = [
    *STRANGER.middleware_first,
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    *STRANGER.middleware,
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
# Fast, for a user of whom everybody knows the password.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STATIC_URL = "/static/"
DJANGO_SSE = {"DRAIN_SECONDS": 2, "HEARTBEAT": {"PERIOD": 5}}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}

globals().update(STRANGER.settings)
if STRANGER.switch is not None:
    import_string(STRANGER.switch)()
