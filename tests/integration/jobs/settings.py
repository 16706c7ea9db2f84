"""The settings of the streams of numbers, with addresses of jobs."""

from tests.integration.topics.project.settings import *  # noqa: F403

ROOT_URLCONF = "tests.integration.jobs.urls"
ASGI_APPLICATION = "tests.integration.jobs.asgi.application"
