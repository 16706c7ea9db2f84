"""The settings of the tests' streams, for clients that are not a bare ``EventSource``."""

from tests.project.settings import *  # noqa: F403

ROOT_URLCONF = "tests.integration.clients.streams"
MIDDLEWARE = []  # type: ignore[var-annotated]
DJANGO_SSE = {"HEARTBEAT": {"PERIOD": 0.2}}
