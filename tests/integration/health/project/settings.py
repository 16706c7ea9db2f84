"""The demo's settings with the streams of ``tests.integration.health``; ``DJANGO_SSE`` is told as JSON."""

import json
import os

from testproject.settings import *  # noqa: F403

ROOT_URLCONF = "tests.integration.health.project.urls"
ASGI_APPLICATION = "tests.integration.health.project.asgi.application"
DJANGO_SSE = json.loads(os.environ.get("DJANGO_SSE", "{}"))
