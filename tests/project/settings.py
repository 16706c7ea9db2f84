"""The demo's settings, with the streams that only tests need, behind ``GZipMiddleware``."""

import os

from testproject.settings import *  # noqa: F403
from testproject.settings import MIDDLEWARE as DEMO_MIDDLEWARE

ROOT_URLCONF = "tests.project.urls"
ASGI_APPLICATION = "tests.project.asgi.application"
#: Names of the middleware in ``tests.project.agents`` that is to be around.
OBSERVED_BY = [name for name in os.environ.get("OBSERVED_BY", "").split(",") if name]
MIDDLEWARE = [
    "django.middleware.gzip.GZipMiddleware",
    *DEMO_MIDDLEWARE,
    *(f"tests.project.agents.{name}" for name in OBSERVED_BY),
]
# No heartbeat comes between the bytes that tests compare.
DJANGO_SSE = {"THREADS": 8, "HEARTBEAT": None}
