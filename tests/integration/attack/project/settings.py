"""A project as it is deployed: ``DEBUG`` is off, and whatever is logged is seen."""

import json
import os

from testproject.settings import *  # noqa: F403

DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "tests.integration.attack.project.urls"
ASGI_APPLICATION = "tests.integration.attack.project.asgi.application"
MAX_EVENT_BYTES = 100_000
DJANGO_SSE = {
    # The next beat notices who left where the server itself does not.
    "HEARTBEAT": {"PERIOD": 0.5},
    "MAX_EVENT_BYTES": MAX_EVENT_BYTES,
    **json.loads(os.environ.get("DJANGO_SSE", "{}")),
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {
        "console": {"class": "logging.StreamHandler"},
        "null": {"class": "logging.NullHandler"},
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        "django": {"handlers": ["console"], "level": "WARNING", "propagate": False},
        # Django tells of wrong hosts and the like with a traceback of its own.
        "django.security": {"handlers": ["null"], "propagate": False},
    },
}
