"""Settings as ``startproject`` writes them, without logging and without debugging."""

import os

SECRET_KEY = "for-measurements-only"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]

INSTALLED_APPS = [
    "django_sse",
    "rest_framework",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
]
if "BENCHMARK_EVENTSTREAM" in os.environ:
    INSTALLED_APPS.append("django_eventstream")

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

if "BENCHMARK_PLAIN" in os.environ:
    MIDDLEWARE = []

ROOT_URLCONF = "benchmarks.project.urls"
ASGI_APPLICATION = "benchmarks.project.asgi:application"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["BENCHMARK_DATABASE"],
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
}

DJANGO_SSE = {"HEARTBEAT": {"PERIOD": 15}}
if "BENCHMARK_POSTGRES" in os.environ:
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ["BENCHMARK_POSTGRES"],
        "USER": "postgres",
        "NAME": "postgres",
    }
if "BENCHMARK_CONN_MAX_AGE" in os.environ:
    DATABASES["default"]["CONN_MAX_AGE"] = int(os.environ["BENCHMARK_CONN_MAX_AGE"])
if "BENCHMARK_REDIS" in os.environ:
    DJANGO_SSE["BROKER"] = {
        "BACKEND": "django_sse.brokers.redis.RedisBroker",
        "LOCATION": os.environ["BENCHMARK_REDIS"],
    }
elif "BENCHMARK_HISTORY" in os.environ:
    DJANGO_SSE["BROKER"] = {
        "BACKEND": "django_sse.brokers.database.DatabaseBroker",
        "OPTIONS": {"HISTORY": int(os.environ["BENCHMARK_HISTORY"])},
    }
    if "BENCHMARK_POSTGRES" not in os.environ:
        DATABASES["default"]["OPTIONS"] = {
            "init_command": "PRAGMA journal_mode=WAL;",
            "transaction_mode": "IMMEDIATE",
        }

LOGGING_CONFIG = None
USE_TZ = True
TIME_ZONE = "UTC"
