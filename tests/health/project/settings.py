"""The demo's settings with the streams of ``tests.health``; ``DJANGO_SSE`` is told as JSON."""

import json
import os

from testproject.settings import *  # noqa: F403

ROOT_URLCONF = "tests.health.project.urls"
ASGI_APPLICATION = "tests.health.project.asgi.application"
DJANGO_SSE = json.loads(os.environ.get("DJANGO_SSE", "{}"))
