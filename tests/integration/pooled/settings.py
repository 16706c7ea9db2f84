"""Settings with a pool of four connections, as ``"pool": True`` gives them; or with kept ones."""

import os

SECRET_KEY = "for tests only, and of a length that Django takes without a word"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "django_sse",
    "rest_framework",
    "django.contrib.auth",
    "django.contrib.contenttypes",
]
ROOT_URLCONF = "tests.integration.pooled.urls"
ASGI_APPLICATION = "tests.integration.pooled.asgi.application"
REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": []}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ.get("POSTGRES_PORT", ""),
        "NAME": "postgres",
        "USER": "postgres",
        "OPTIONS": {"pool": {"min_size": 4, "max_size": 4, "timeout": 5}},
    }
}
if "KEEP_SECONDS" in os.environ:
    DATABASES["default"].update(
        CONN_MAX_AGE=int(os.environ["KEEP_SECONDS"]),
        CONN_HEALTH_CHECKS=True,
        OPTIONS={"application_name": "kept"},
    )
