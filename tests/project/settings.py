"""The demo's settings, with the streams that only tests need, behind ``GZipMiddleware``."""

from testproject.settings import *  # noqa: F403
from testproject.settings import MIDDLEWARE as DEMO_MIDDLEWARE

ROOT_URLCONF = "tests.project.urls"
ASGI_APPLICATION = "tests.project.asgi.application"
MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *DEMO_MIDDLEWARE]
# No heartbeat comes between the bytes that tests compare.
DJANGO_SSE = {"THREADS": 8, "HEARTBEAT": None}
